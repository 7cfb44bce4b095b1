// The CPU implementation of the op vocabulary: splits each op into tasks and hands them to the inner loops.
#pragma once
#include <algorithm>
#include <vector>

#include "base/namespaces.h"
#include "base/thread_pool.h"
#include "kernels/backend.h"
#include "kernels/cpu/isa_kernels.h"
#include "kernels/cpu/scratch.h"
#include "kernels/weight_adjoint.h"

namespace signalbox::kernels::cpu {

// out = x w^T (+ bias), or with `up` hidden = activate(x w^T + bias) * (x up^T + up_bias).
struct Task {
  float* out = nullptr;  // [m, n]
  int64_t out_stride = 0;
  const int32_t* out_rows = nullptr;  // row of out for row i; null: i
  const float* x = nullptr;           // [m, k]
  int64_t x_stride = 0;
  const int32_t* x_rows = nullptr;
  int64_t m = 0;
  const Matrix* w = nullptr;       // [n, k]
  const float* bias = nullptr;     // [n]
  const Matrix* up = nullptr;      // [n, k]
  const float* up_bias = nullptr;  // [n]
  const Activation* activation = nullptr;
  int64_t first_row = 0, n = 0;  // rows of w that are used
  void* packed = nullptr;        // x as the kernels' PackedX takes it; set by run_products
};

class CpuBackend final : public Backend, public WeightAdjointOps {
 public:
  CpuBackend(const Kernels& kernels, int n_threads);

  std::string name() const override { return "cpu"; }
  std::string isa() const override { return kernels_.name; }
  int n_threads() const override { return pool_.n_threads(); }

  std::shared_ptr<void> allocate(size_t bytes) override;
  void upload(void* device, const void* host, size_t bytes) override;
  void download(void* host, const void* device, size_t bytes) override;
  void copy(void* to, const void* from, size_t bytes) override;
  void fill(void* device, uint8_t byte, size_t bytes) override;
  void synchronize() override {}

  void embed(Tensor out, const Matrix& table, const int32_t* ids) override;
  void rmsnorm(Tensor out, Tensor x, Vector weight, float eps) override;
  void matmul(Tensor out, Tensor x, const Matrix& w, Vector bias) override;
  void rope(Tensor x, int64_t n_heads, int64_t first, const RopeTable& table, const int32_t* positions) override;
  void clamp(Tensor x, float limit) override;
  void add(Tensor out, Tensor a, Tensor b) override;
  void scale_rows(Tensor x, const float* factor) override;
  void sigmoid_scale(Tensor x, Tensor gate) override;
  void store_rows(void* cache, int64_t stride, Tensor x, const int32_t* kv_rows) override;
  void gather_rows(Tensor out, Tensor x, const int32_t* rows) override;
  void attention(Tensor out, Tensor q, const KvCache& cache, const BatchView& batch,
                 const AttentionParams& params) override;
  void attention_pattern(Tensor pattern, Tensor q, const KvCache& cache, const BatchView& batch,
                         const AttentionParams& params) override;
  void mla_absorb(Tensor out, Tensor q, const Matrix& kv_b, int64_t n_heads, int64_t d_nope, int64_t d_rope,
                  int64_t d_value) override;
  void mla_expand(Tensor out, Tensor latent, const Matrix& kv_b, int64_t n_heads, int64_t d_nope,
                  int64_t d_value) override;
  void gated_hidden(Tensor hidden, Tensor x, const Matrix& gate, const Matrix& up,
                    const Activation& activation) override;
  void route(const Route& out, Tensor logits, Tensor x, const Matrix& w, const float* bias, const Router& router,
             const float* selection_bias, const RouteBatch& batch) override;
  void experts_hidden(Tensor hidden, Tensor x, const Route& route, int64_t n_tokens, const ExpertMatrices& experts,
                      const Activation& activation, uint64_t* leaks) override;
  void experts_out(Tensor out, Tensor hidden, const Route& route, int64_t n_tokens,
                   const ExpertMatrices& experts) override;
  void combine(Tensor out, Tensor expert_out, const Route& route, Tensor shared) override;
  void edit_rows(Tensor x, std::span<const int32_t> rows, Tensor values, std::span<const int32_t> value_rows,
                 std::span<const int32_t> columns, bool add, float scale) override;
  void sample(int32_t* ids, Tensor logits, const SampleParams* params) override;
  void log_probs(double* out, Tensor logits, const int32_t* targets) override;
  void compare_logits(double* divergence, int32_t* same_top, Tensor logits, Tensor reference) override;

  void matmul_adjoint(Tensor d_x, Tensor d_out, const Matrix& w, bool add) override;
  void rmsnorm_adjoint(Tensor d_x, Tensor d_out, Tensor x, Vector weight, float eps, bool add) override;
  void rope_adjoint(Tensor d_x, int64_t n_heads, int64_t first, const RopeTable& table,
                    const int32_t* positions) override;
  void clamp_adjoint(Tensor d_x, Tensor x, float limit) override;
  void sigmoid_scale_adjoint(Tensor d_x, Tensor d_gate, Tensor x, Tensor gate) override;
  void attention_adjoint(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_out, Tensor q, const KvCache& cache,
                         const BatchView& batch, const AttentionParams& params) override;
  void mla_absorb_adjoint(Tensor d_q, Tensor d_out, const Matrix& kv_b, int64_t n_heads, int64_t d_nope, int64_t d_rope,
                          int64_t d_value) override;
  void mla_expand_adjoint(Tensor d_latent, Tensor d_out, const Matrix& kv_b, int64_t n_heads, int64_t d_nope,
                          int64_t d_value) override;
  void gated_hidden_adjoint(Tensor d_x, Tensor d_hidden, Tensor x, const Matrix& gate, const Matrix& up,
                            const Activation& activation, bool add) override;
  void combine_adjoint(Tensor d_expert_out, float* d_weights, Tensor d_out, Tensor expert_out,
                       const Route& route) override;
  void experts_out_adjoint(Tensor d_hidden, Tensor d_out, const Route& route, int64_t n_tokens,
                           const ExpertMatrices& experts) override;
  void experts_hidden_adjoint(Tensor d_x, Tensor d_hidden, Tensor x, const Route& route, int64_t n_tokens,
                              const ExpertMatrices& experts, const Activation& activation, bool add) override;
  void route_adjoint(Tensor d_logits, const float* d_weights, const Route& route, Tensor logits, const Router& router,
                     const float* selection_bias, const RouteBatch& batch) override;
  void log_probs_adjoint(Tensor d_logits, Tensor logits, const int32_t* targets, const float* factors,
                         bool add) override;
  void compare_logits_adjoint(Tensor d_logits, Tensor logits, Tensor reference, const float* factors) override;

  void outer_sum(Tensor d_w, Tensor d_out, Tensor x, const SummedRows& rows) override;
  void scatter_sum(Tensor d_table, Tensor d_out, std::span<const int32_t> ids) override;
  void norm_slopes(Tensor out, Tensor d_out, Tensor x, float eps) override;
  void gated_slopes(Tensor d_gate, Tensor d_up, Tensor d_hidden, Tensor x, const Matrix& gate, const Matrix& up,
                    const Activation& activation) override;
  void experts_slopes(Tensor d_gate, Tensor d_up, Tensor d_hidden, Tensor x, const Route& route, int64_t n_tokens,
                      const ExpertMatrices& experts, const Activation& activation) override;
  void sink_slopes(Tensor d_sinks, Tensor d_out, Tensor q, const KvCache& cache, const BatchView& batch,
                   const AttentionParams& params) override;
  void pattern_slopes(Tensor d_pattern, Tensor d_out, const KvCache& cache, const BatchView& batch,
                      const AttentionParams& params) override;

 private:
  // A product with a matrix the other way round (adjoint.cpp): out (+)= x w for `n_rows` rows of w.
  struct RowSum {
    float* out;
    int64_t out_stride;
    const float* x;
    int64_t x_stride, m;
    const Matrix* w;
    int64_t first_row, n_rows;
    bool add;
  };
  void sum_rows(const std::vector<RowSum>& sums);
  // d_gate and d_up of the (token, slot) pairs in the order of group_by_expert, which must stand.
  void sorted_experts_slopes(Tensor d_gate, Tensor d_up, Tensor d_hidden, Tensor x, const ExpertMatrices& experts,
                             const Activation& activation);

  // Calls f(first, last, thread) over ranges of 0 <= i < n, in one call where the whole work, in elements touched, is
  // too small to share.
  template <class F>
  void for_ranges(int64_t n, int64_t work_per_item, F&& f) {
    const int64_t work = n * work_per_item;
    if (work < 32768 || n == 1) {
      if (n > 0) f(int64_t{0}, n, 0);
      return;
    }
    const int64_t n_ranges = std::min(n, std::min<int64_t>(work / 8192, 8 * n_threads()));
    pool_.parallel_for(n_ranges, [&](int64_t i, int thread) { f(n * i / n_ranges, n * (i + 1) / n_ranges, thread); });
  }

  void run_products(std::vector<Task>& products);
  void pack_x(std::vector<Task>& products);
  void group_by_expert(const Route& route, int64_t n_tokens, int64_t n_experts);

  const Kernels& kernels_;
  ThreadPool pool_;
  std::vector<Scratch> scratch_;  // one a thread
  Scratch shared_scratch_;        // partial states of split attention
  Scratch packed_x_;              // x of the products that want it laid out anew
  // experts_*: the (token, slot) pairs of expert e are sorted_pairs_[expert_start_[e] .. expert_start_[e + 1]),
  // ascending; sorted_tokens_ holds their tokens.
  std::vector<int32_t> sorted_pairs_, sorted_tokens_;
  std::vector<int64_t> expert_start_;
  std::vector<Task> products_;
  struct Block {
    int32_t product;
    int64_t m_first, m_last, n_first, n_last;
  };
  std::vector<Block> blocks_;  // tasks of run_products
};

// The inner loops' view of a stored matrix. Throws Error for a dtype that has no kernels.
WeightRows weight_rows(const Matrix& w);
ActivationArgs activation_args(const Activation& activation);

}  // namespace signalbox::kernels::cpu
