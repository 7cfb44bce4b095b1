// A backend that passes every op on to another and, while it is told to, notes what the ops take and which experts run.
// It exists for benchmarks alone: what is not run through it costs nothing, and it serves the CPU and devices alike.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/namespaces.h"
#include "engine/model.h"
#include "engine/weights.h"
#include "kernels/backend.h"

namespace signalbox::tools {

// What calls of one op took together.
struct OpTotal {
  int64_t calls = 0;
  double seconds = 0;
  double flops = 0, bytes = 0;  // 0: not told for this op
};

// Experts that ops of so many tokens chose, over all layers.
struct ExpertTotal {
  int64_t calls = 0;
  int64_t distinct = 0;  // experts that some token of a call chose, summed over calls
  double bytes = 0;      // of their weights
};

class WatchedBackend : public Backend {
 public:
  // `weights`: those of the backend, whose matrices give the products their names.
  WatchedBackend(Backend& inner, const Model& model, const Weights& weights);

  // From now on. Ops: each is waited for before and behind it, and nothing is captured; on a device this takes longer
  // than the ops do without. Experts are counted with both; what was noted before is forgotten.
  enum class Watch { nothing, experts, ops };
  void watch(Watch what);
  const std::map<std::string, OpTotal>& ops() const { return ops_; }
  const std::map<int64_t, ExpertTotal>& experts() const { return experts_; }  // by the tokens of the call

  std::string name() const override { return inner_.name(); }
  std::string isa() const override { return inner_.isa(); }
  int n_threads() const override { return inner_.n_threads(); }
  bool invariant() const override { return inner_.invariant(); }
  bool shares_host_memory() const override { return inner_.shares_host_memory(); }
  DType operand_dtype() const override { return inner_.operand_dtype(); }
  DType kv_dtype() const override { return inner_.kv_dtype(); }
  size_t free_bytes() const override { return inner_.free_bytes(); }
  std::shared_ptr<void> allocate(size_t bytes) override { return inner_.allocate(bytes); }
  std::shared_ptr<void> allocate_host(size_t bytes) override { return inner_.allocate_host(bytes); }
  void upload(void* device, const void* host, size_t bytes) override { inner_.upload(device, host, bytes); }
  void download(void* host, const void* device, size_t bytes) override { inner_.download(host, device, bytes); }
  uint64_t download_later(void* host, const void* device, size_t bytes) override {
    return inner_.download_later(host, device, bytes);
  }
  void wait(uint64_t ticket) override { inner_.wait(ticket); }
  void copy(void* to, const void* from, size_t bytes) override { inner_.copy(to, from, bytes); }
  void fill(void* device, uint8_t byte, size_t bytes) override { inner_.fill(device, byte, bytes); }
  void synchronize() override { inner_.synchronize(); }
  Uploaded upload_matrix(const Matrix& host, bool router) override { return inner_.upload_matrix(host, router); }
  std::shared_ptr<const PackedExperts> pack_experts(const ExpertMatrices& host) override {
    return inner_.pack_experts(host);
  }
  int64_t matrix_bytes(const Matrix& host, bool router) const override { return inner_.matrix_bytes(host, router); }
  int64_t experts_bytes(const ExpertMatrices& host) const override { return inner_.experts_bytes(host); }
  void replay(std::span<const int64_t> key, const std::function<void()>& work) override;
  void forget_graphs() override { inner_.forget_graphs(); }

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
  void add_rmsnorm(Tensor x, Tensor delta, Tensor h, Vector weight, float eps) override;
  void matmul_many(Tensor x, std::span<const Product> products) override;
  void prepare_heads(Tensor q, Tensor k, Tensor v, const HeadsArgs& args, const KvCache& cache,
                     const BatchView& batch) override;
  void prepare_latent(Tensor q, Tensor kv, const LatentArgs& args, const KvCache& cache,
                      const BatchView& batch) override;

 private:
  struct Work {
    double flops = 0, bytes = 0;
  };
  // Runs an op; while ops are watched, under the name and with the work that the two functions tell.
  template <class Name, class Of, class Run>
  void timed(const Name& name, const Of& work, const Run& run);
  template <class Run>
  void timed(const char* name, const Run& run);
  std::string role_of(const Matrix& w) const;
  Work product(const Tensor& out, const Tensor& x, const Matrix& w) const;
  Work attention_work(const Tensor& out, const Tensor& q, const KvCache& cache, const BatchView& batch,
                      const AttentionParams& params);
  // How many slots run an expert, and how many experts these are.
  struct Chosen {
    int64_t slots = 0, distinct = 0;
  };
  Chosen chosen(const Route& route, int64_t n_tokens, int64_t n_experts);
  template <class T>
  std::vector<T> on_host(const T* device, int64_t n);

  Backend& inner_;
  Watch watch_ = Watch::nothing;
  std::map<std::string, OpTotal> ops_;
  std::map<int64_t, ExpertTotal> experts_;
  std::unordered_map<const void*, Role> roles_;  // by the address of a matrix's data
};

}  // namespace signalbox::tools
