// The op vocabulary on an NVIDIA GPU. Each op lives in the file named after it.
//
// Layouts: activations that feed matrix products (operands) are bf16, everything else f32; weight matrices are bf16
// with rows of a multiple of 8 elements (16 bytes), zeros behind the last column; the router's matrix is f32; keys and
// values are bf16. All sums in f32 or wider.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "kernels/backend.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/tile_map.h"

namespace signalbox::kernels::DEVICE_SPACE {

// Weights of routed experts, one block of memory a kind.
struct ExpertBlock final : PackedExperts {
  enum class Format : uint8_t { bf16, mxfp4 };
  Format format = Format::bf16;
  int64_t n_experts = 0, d_model = 0, d_ff = 0;
  // Rows of gate and up take turns by 8: rows 16 b .. 16 b + 7 are gate rows 8 b .., the next 8 the up rows 8 b ..;
  // d_ff is filled up to a multiple of 8 with rows of zeros.
  int64_t gate_up_rows = 0;    // of one expert: 2 * round_up(d_ff, 8)
  int64_t gate_up_stride = 0;  // elements of a row: d_model, filled up to a multiple of 8 (mxfp4: of 32)
  int64_t down_stride = 0;     // elements of a row of down: d_ff, filled up likewise; down has d_model rows
  // bf16: the elements. mxfp4: four bits each, eight to a 32-bit word in the order that unpack_mxfp4 (mxfp4.h) wants.
  const void* gate_up = nullptr;            // [n_experts, gate_up_rows, gate_up_stride]
  const void* down = nullptr;               // [n_experts, d_model, down_stride]
  const uint8_t* gate_up_scales = nullptr;  // mxfp4: [n_experts, gate_up_rows, gate_up_stride / 32]
  const uint8_t* down_scales = nullptr;     // mxfp4: [n_experts, d_model, down_stride / 32]
  const float* gate_bias = nullptr;         // [n_experts, d_ff] or null
  const float* up_bias = nullptr;
  const float* down_bias = nullptr;  // [n_experts, d_model] or null
  std::vector<std::shared_ptr<void>> owners;
};

// Scratch memory that grows, by what it is for. Growing moves it, so captured graphs are forgotten then.
enum class Scratch : uint8_t { tile_map, attention_parts, absorb, sample, edit, router, n };

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(const CudaOptions& options);
  ~CudaBackend() override;

  std::string name() const override;
  std::string isa() const override;
  int n_threads() const override { return 1; }
  bool invariant() const override { return options_.invariant; }
  bool shares_host_memory() const override { return false; }
  DType operand_dtype() const override { return DType::bf16; }
  DType kv_dtype() const override { return DType::bf16; }
  size_t free_bytes() const override { return free_device_bytes(); }
  const DeviceInfo& info() const { return info_; }
  Stream stream() const { return stream_; }

  std::shared_ptr<void> allocate(size_t bytes) override;
  std::shared_ptr<void> allocate_host(size_t bytes) override;
  void upload(void* device, const void* host, size_t bytes) override;
  void download(void* host, const void* device, size_t bytes) override;
  uint64_t download_later(void* host, const void* device, size_t bytes) override;
  void wait(uint64_t ticket) override;
  void copy(void* to, const void* from, size_t bytes) override;
  void fill(void* device, uint8_t byte, size_t bytes) override;
  void synchronize() override;
  Uploaded upload_matrix(const Matrix& host, bool router) override;
  std::shared_ptr<const PackedExperts> pack_experts(const ExpertMatrices& host) override;
  int64_t matrix_bytes(const Matrix& host, bool router) const override;
  int64_t experts_bytes(const ExpertMatrices& host) const override;
  void replay(std::span<const int64_t> key, const std::function<void()>& work) override;
  void forget_graphs() override;

  // elementwise.cu
  void embed(Tensor out, const Matrix& table, const int32_t* ids) override;
  void rope(Tensor x, int64_t n_heads, int64_t first, const RopeTable& table, const int32_t* positions) override;
  void clamp(Tensor x, float limit) override;
  void add(Tensor out, Tensor a, Tensor b) override;
  void scale_rows(Tensor x, const float* factor) override;
  void sigmoid_scale(Tensor x, Tensor gate) override;
  void store_rows(void* cache, int64_t stride, Tensor x, const int32_t* kv_rows) override;
  void gather_rows(Tensor out, Tensor x, const int32_t* rows) override;
  void edit_rows(Tensor x, std::span<const int32_t> rows, Tensor values, std::span<const int32_t> value_rows,
                 std::span<const int32_t> columns, bool add, float scale) override;
  // norm.cu
  void rmsnorm(Tensor out, Tensor x, Vector weight, float eps) override;
  void add_rmsnorm(Tensor x, Tensor delta, Tensor h, Vector weight, float eps) override;
  void prepare_heads(Tensor q, Tensor k, Tensor v, const HeadsArgs& args, const KvCache& cache,
                     const BatchView& batch) override;
  void prepare_latent(Tensor q, Tensor kv, const LatentArgs& args, const KvCache& cache,
                      const BatchView& batch) override;
  // matmul.cu
  void matmul(Tensor out, Tensor x, const Matrix& w, Vector bias) override;
  void matmul_many(Tensor x, std::span<const Product> products) override;
  void mla_absorb(Tensor out, Tensor q, const Matrix& kv_b, int64_t n_heads, int64_t d_nope, int64_t d_rope,
                  int64_t d_value) override;
  void mla_expand(Tensor out, Tensor latent, const Matrix& kv_b, int64_t n_heads, int64_t d_nope,
                  int64_t d_value) override;
  void gated_hidden(Tensor hidden, Tensor x, const Matrix& gate, const Matrix& up,
                    const Activation& activation) override;
  // attention.cu
  void attention(Tensor out, Tensor q, const KvCache& cache, const BatchView& batch,
                 const AttentionParams& params) override;
  // pattern.cu
  void attention_pattern(Tensor pattern, Tensor q, const KvCache& cache, const BatchView& batch,
                         const AttentionParams& params) override;
  // router.cu
  void route(const Route& out, Tensor logits, Tensor x, const Matrix& w, const float* bias, const Router& router,
             const float* selection_bias, const RouteBatch& batch) override;
  // experts.cu
  void experts_hidden(Tensor hidden, Tensor x, const Route& route, int64_t n_tokens, const ExpertMatrices& experts,
                      const Activation& activation, uint64_t* leaks) override;
  void experts_out(Tensor out, Tensor hidden, const Route& route, int64_t n_tokens,
                   const ExpertMatrices& experts) override;
  void combine(Tensor out, Tensor expert_out, const Route& route, Tensor shared) override;
  // sample.cu
  void sample(int32_t* ids, Tensor logits, const SampleParams* params) override;
  // log_probs.cu
  void log_probs(double* out, Tensor logits, const int32_t* targets) override;
  void compare_logits(double* divergence, int32_t* same_top, Tensor logits, Tensor reference) override;

 private:
  // At least `bytes` of device memory, the same until it has to grow.
  void* scratch(Scratch use, size_t bytes);
  // Device memory with host's bytes, valid for work that is enqueued before the next call.
  void* stage(const void* host, size_t bytes);

  // x, or a copy in scratch memory whose rows asynchronous copies can read.
  Tensor aligned_operand(Tensor x);

  struct State;  // pinned ring, tickets, graphs
  CudaOptions options_;
  DeviceInfo info_;
  Stream stream_ = {}, drain_ = {};
  std::shared_ptr<void> drain_owner_;  // buffers of allocate_host, which wait for it, keep the stream
  std::unique_ptr<State> state_;
  struct ScratchBlock {
    std::shared_ptr<void> memory;
    size_t bytes = 0;
  };
  ScratchBlock scratch_[static_cast<size_t>(Scratch::n)];
  TileMapKey map_key_;  // what the tile map in scratch memory was made of
};

}  // namespace signalbox::kernels::DEVICE_SPACE
