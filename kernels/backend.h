// The op vocabulary: everything a forward pass asks of a device. Pure virtual, so that an op missing on one side does
// not compile. The CPU implementation (kernels/cpu) is the specification.
//
// Shapes use the glossary of docs/architecture.md: n_tokens, n_experts, n_active, d_model, d_ff, d_latent, n_heads,
// n_kv_heads, d_head. Outputs come first. An output never aliases an input unless the comment says so.
//
// Numerics (CPU): f32 arithmetic; each output element is computed whole by one thread in an order that depends only on
// the reduction's length, never on the number of rows, on other rows, on the number of threads or on the instruction
// set. So the bits of a token's results do not depend on batch, chunk, threads or --isa.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "kernels/router.h"
#include "kernels/tensor.h"

namespace signalbox {

// The activation of a gated feed-forward block: hidden = activate(gate) * up.
struct Activation {
  enum class Kind : uint8_t {
    silu,     // silu(gate) * up
    clamped,  // g = min(gate, limit), u = clamp(up, -limit, limit): g * sigmoid(alpha * g) * (u + 1)
  };
  Kind kind = Kind::silu;
  float alpha = 1.702f, limit = 7.0f;
};

// Cosines and sines of rotary embeddings: tables [n_positions, n_dims / 2], their magnitude scaling included.
struct RopeTable {
  const float* cos = nullptr;
  const float* sin = nullptr;
  int64_t n_positions = 0;
  int64_t n_dims = 0;      // rotated dimensions of a head, even
  bool adjacent = false;   // pairs (2i, 2i+1); else (i, i + n_dims / 2)
};

// The keys and values of one layer, in blocks of positions that sequences own through block tables. Row r of a cache
// holds position p of a sequence s where r = block_tables[s][p / block_size] * block_size + p % block_size.
struct KvCache {
  float* keys = nullptr;     // [n_rows, key_stride]
  float* values = nullptr;   // [n_rows, value_stride]; MLA: aliases keys (the latent is both)
  int64_t key_stride = 0, value_stride = 0;
};

// Where the tokens of a batch stand.
struct BatchView {
  int64_t n_tokens = 0;
  const int32_t* positions = nullptr;     // [n_tokens]
  const int32_t* sequences = nullptr;     // [n_tokens] rows of block_tables
  const int32_t* kv_rows = nullptr;       // [n_tokens] cache row of each token's own position
  const int32_t* block_tables = nullptr;  // [n_sequences, max_blocks]
  int64_t max_blocks = 0;
  int64_t block_size = 0;
};

struct AttentionParams {
  int64_t n_heads = 0, n_kv_heads = 0;
  int64_t d_key = 0, d_value = 0;         // of one head; head h reads key head h / (n_heads / n_kv_heads)
  float scale = 1;
  int64_t window = 0;                     // 0: all keys 0..q; w: keys q-w+1..q
  const float* sinks = nullptr;           // [n_heads] an extra logit a head that takes mass and adds no value
};

// Matrices of the experts of one layer; index = expert. Biases are absent (empty spans) or complete.
struct ExpertMatrices {
  std::span<const Matrix> gate, up;             // [d_ff, d_model]
  std::span<const Matrix> down;                 // [d_model, d_ff]
  std::span<const Vector> gate_bias, up_bias;   // [d_ff]
  std::span<const Vector> down_bias;            // [d_model]
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;      // "cpu"
  virtual std::string isa() const = 0;       // "avx512", "avx2", "scalar"
  virtual int n_threads() const = 0;

  // Memory of the device, 64-byte aligned, not initialised. Freed by the deleter.
  virtual std::shared_ptr<void> allocate(size_t bytes) = 0;
  virtual void upload(void* device, const void* host, size_t bytes) = 0;
  virtual void download(void* host, const void* device, size_t bytes) = 0;   // waits for the work that made it
  virtual void synchronize() = 0;

  // out[t] = table[ids[t]]                                        out [n_tokens, d_model], table [n_vocab, d_model]
  virtual void embed(Tensor out, const Matrix& table, const int32_t* ids) = 0;

  // out[r] = x[r] / sqrt(mean(x[r]^2) + eps) * weight             x [rows, n]; out may be x
  virtual void rmsnorm(Tensor out, Tensor x, Vector weight, float eps) = 0;

  // out[t, n] = sum_k x[t, k] * w[n, k] (+ bias[n])               x [n_tokens, k], w [n, k], out [n_tokens, n]
  virtual void matmul(Tensor out, Tensor x, const Matrix& w, Vector bias) = 0;

  // Rotates dims first .. first + n_dims of each of the n_heads heads (of x.cols / n_heads dims) in place by the
  // token's position.                                             x [n_tokens, n_heads * d_head]
  virtual void rope(Tensor x, int64_t n_heads, int64_t first, const RopeTable& table, const int32_t* positions) = 0;

  // x = clamp(x, -limit, limit)
  virtual void clamp(Tensor x, float limit) = 0;

  // out = a + b; out may be a or b
  virtual void add(Tensor out, Tensor a, Tensor b) = 0;

  // x[r] *= factor[r]
  virtual void scale_rows(Tensor x, const float* factor) = 0;

  // x[r] *= sigmoid(gate[r])                                      gate [rows, 1]
  virtual void sigmoid_scale(Tensor x, Tensor gate) = 0;

  // cache[kv_rows[t]] = x[t]: x [n_tokens, width] into rows of `stride` elements
  virtual void store_rows(float* cache, int64_t stride, Tensor x, const int32_t* kv_rows) = 0;

  // out[i] = x[rows[i]]
  virtual void gather_rows(Tensor out, Tensor x, std::span<const int32_t> rows) = 0;

  // Causal attention of each token over its own sequence's cache, its own position included (stored before).
  // q [n_tokens, n_heads * d_key], out [n_tokens, n_heads * d_value]. Softmax in f32, keys in ascending order.
  virtual void attention(Tensor out, Tensor q, const KvCache& cache, const BatchView& batch,
                         const AttentionParams& params) = 0;

  // The absorbed form of multi-head latent attention: with kv_b [n_heads * (d_nope + d_value), d_latent], whose rows
  // are d_nope key rows and then d_value value rows a head,
  //   out[t, h, 0:d_latent] = q[t, h, 0:d_nope] * kv_b[h, 0:d_nope, :], out[t, h, d_latent:] = q[t, h, d_nope:] (rope)
  // q [n_tokens, n_heads * (d_nope + d_rope)], out [n_tokens, n_heads * (d_latent + d_rope)]
  virtual void mla_absorb(Tensor out, Tensor q, const Matrix& kv_b, int64_t n_heads, int64_t d_nope, int64_t d_rope,
                          int64_t d_value) = 0;
  // out[t, h, v] = sum_c latent[t, h, c] * kv_b[h, d_nope + v, c]
  // latent [n_tokens, n_heads * d_latent], out [n_tokens, n_heads * d_value]
  virtual void mla_expand(Tensor out, Tensor latent, const Matrix& kv_b, int64_t n_heads, int64_t d_nope,
                          int64_t d_value) = 0;

  // hidden = activate(x gate^T) * (x up^T)                        x [n_tokens, d_model], hidden [n_tokens, d_ff]
  virtual void gated_hidden(Tensor hidden, Tensor x, const Matrix& gate, const Matrix& up,
                            const Activation& activation) = 0;

  // Routes every token: logits [n_tokens, n_experts] (bias included) and the batch's edits to a Route.
  // selection_bias [n_experts] or null.
  virtual void route(const Route& out, Tensor logits, const Router& router, const float* selection_bias,
                     const RouteBatch& batch) = 0;

  // hidden[t, i] = activate(x[t] gate_e^T + b) * (x[t] up_e^T + b) for e = route.ids[t, i]; slots with id -1 become 0.
  // x [n_tokens, d_model], hidden [n_tokens * n_slots, d_ff]. Adds to *leaks each (token, slot) that ran an expert which
  // route.banned forbids.
  virtual void experts_hidden(Tensor hidden, Tensor x, const Route& route, int64_t n_tokens,
                              const ExpertMatrices& experts, const Activation& activation, int64_t* leaks) = 0;

  // out[t, i] = hidden[t, i] down_e^T + b_e; slots with id -1 become 0.    out [n_tokens * n_slots, d_model]
  virtual void experts_out(Tensor out, Tensor hidden, const Route& route, int64_t n_tokens,
                           const ExpertMatrices& experts) = 0;

  // out[t] = sum over slots i in order of weights[t, i] * expert_out[t, i] (slots with id -1 or weight 0 skipped), then
  // + shared[t] if given.                                         out [n_tokens, d_model]
  virtual void combine(Tensor out, Tensor expert_out, const Route& route, Tensor shared) = 0;

  // Point edits: for i: x[rows[i], columns] = values[value_rows[i], columns] (set) or += scale * values[...] (add).
  // columns empty = all. values on the device, [n, x.cols].
  virtual void edit_rows(Tensor x, std::span<const int32_t> rows, Tensor values, std::span<const int32_t> value_rows,
                         std::span<const int32_t> columns, bool add, float scale) = 0;
};

struct CpuOptions {
  int n_threads = 0;          // 0: all hardware threads
  std::string isa = "auto";   // auto | scalar | avx2 | avx512
};

// Throws Error when the machine lacks the instruction set asked for.
std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options);

}  // namespace signalbox
