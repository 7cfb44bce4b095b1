// The op vocabulary: everything a forward pass asks of a device. Pure virtual, so that an op missing on one side does
// not compile. The CPU implementation (kernels/cpu) is the specification.
//
// Shapes use the glossary of docs/architecture.md: n_tokens, n_experts, n_active, d_model, d_ff, d_latent, n_heads,
// n_kv_heads, d_head. Outputs come first. An output never aliases an input unless the comment says so.
//
// Every pointer an op takes, inside tensors, tables and batches too, is memory of the device, which on the CPU is
// memory like any other; host arguments say so. Ops are enqueued in order; download() and wait() are what waits.
//
// Numerics (CPU): f32 arithmetic; each output element is computed whole by one thread in an order that depends only on
// the reduction's length, never on the number of rows, on other rows, on the number of threads or on the instruction
// set. So the bits of a token's results do not depend on batch, chunk, threads or --isa.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/namespaces.h"
#include "kernels/adjoint.h"
#include "kernels/experts.h"
#include "kernels/params.h"
#include "kernels/router.h"
#include "kernels/sampling.h"
#include "kernels/tensor.h"

namespace signalbox::kernels {

// Cosines and sines of rotary embeddings: tables [n_positions, n_dims / 2], their magnitude scaling included.
struct RopeTable {
  const float* cos = nullptr;
  const float* sin = nullptr;
  int64_t n_positions = 0;
  int64_t n_dims = 0;     // rotated dimensions of a head, even
  bool adjacent = false;  // pairs (2i, 2i+1); else (i, i + n_dims / 2)
};

// The keys and values of one layer, in blocks of positions that sequences own through block tables. Row r of a cache
// holds position p of a sequence s where r = block_tables[s][p / block_size] * block_size + p % block_size.
struct KvCache {
  void* keys = nullptr;                      // [n_rows, key_stride]
  void* values = nullptr;                    // [n_rows, value_stride]; MLA: aliases keys (the latent is both)
  int64_t key_stride = 0, value_stride = 0;  // elements
  DType dtype = DType::f32;                  // Backend::kv_dtype()
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
  int64_t max_keys = 0;  // no token sees more keys than this; sizes grids, never results
};

struct AttentionParams {
  int64_t n_heads = 0, n_kv_heads = 0;
  int64_t d_key = 0, d_value = 0;  // of one head; head h reads key head h / (n_heads / n_kv_heads)
  float scale = 1;
  int64_t window = 0;            // 0: all keys 0..q; w: keys q-w+1..q
  const float* sinks = nullptr;  // [n_heads] an extra logit a head that takes mass and adds no value
};

// Matrix products of the same x: outs[i] = x * w[i]^T + bias[i].
struct Product {
  Tensor out;
  const Matrix* w = nullptr;
  Vector bias;
};

class Backend : public AdjointOps {
 public:
  virtual std::string name() const = 0;  // "cpu", "cuda:0"
  virtual std::string isa() const = 0;   // "avx512", "avx2", "scalar"; "sm_90"
  virtual int n_threads() const = 0;
  // False: results may depend on the composition of batches (--numerics fast on a GPU).
  virtual bool invariant() const { return true; }
  // True: the device reads the weights where they lie; false: load them with upload_matrix and pack_experts.
  virtual bool shares_host_memory() const { return true; }
  // dtype of the tensors that feed matrix products (normed, attended, hidden states), and of cached keys and values.
  virtual DType operand_dtype() const { return DType::f32; }
  virtual DType kv_dtype() const { return DType::f32; }
  // Bytes that allocate() can still give; the largest number where the system decides.
  virtual size_t free_bytes() const { return SIZE_MAX; }

  // ---- memory

  // Memory of the device, 64-byte aligned at least, not initialised. Freed by the deleter.
  virtual std::shared_ptr<void> allocate(size_t bytes) = 0;
  // Host memory that the device copies to and from at full speed.
  virtual std::shared_ptr<void> allocate_host(size_t bytes) { return allocate(bytes); }
  // host may be changed as soon as upload returns.
  virtual void upload(void* device, const void* host, size_t bytes) = 0;
  virtual void download(void* host, const void* device, size_t bytes) = 0;  // waits for the work that made it
  // The same without waiting: host (of allocate_host) is valid after wait(ticket). The copy runs beside later ops, so
  // `device` must not be written before that.
  virtual uint64_t download_later(void* host, const void* device, size_t bytes) {
    download(host, device, bytes);
    return 0;
  }
  virtual void wait(uint64_t) {}
  virtual void copy(void* to, const void* from, size_t bytes) = 0;  // within the device
  virtual void fill(void* device, uint8_t byte, size_t bytes) = 0;
  virtual void synchronize() = 0;

  // Copies of weights in the layout that the ops want; the memory lives as long as `owner`. Not called where
  // shares_host_memory(). Rounds f32 and f16 to the dtype of the device's kernels, but for the router's.
  struct Uploaded {
    Matrix matrix;
    std::shared_ptr<void> owner;
  };
  virtual Uploaded upload_matrix(const Matrix& host, bool router) {
    static_cast<void>(router);
    return {host, nullptr};
  }
  virtual std::shared_ptr<const PackedExperts> pack_experts(const ExpertMatrices& host) {
    static_cast<void>(host);
    return nullptr;
  }
  // Bytes that the ops want such weights to take: what upload_matrix and pack_experts allocate, or, where the device
  // reads them in place, what they take now. Sizes and dtypes are looked at and no data, so that what fits is known
  // before anything is loaded.
  virtual int64_t matrix_bytes(const Matrix& host, bool router) const {
    static_cast<void>(router);
    return stored_bytes(host);
  }
  virtual int64_t experts_bytes(const ExpertMatrices& host) const {
    int64_t bytes = 0;
    for (const auto& list : {host.gate, host.up, host.down})
      for (const Matrix& matrix : list) bytes += stored_bytes(matrix);
    for (const auto& list : {host.gate_bias, host.up_bias, host.down_bias})
      for (const Vector& bias : list) bytes += bias.n * static_cast<int64_t>(sizeof(float));
    return bytes;
  }

  // ---- graphs

  // Does `work`, which enqueues ops. A device may keep what it enqueued and repeat it when the same key comes again: so
  // whatever differs between two calls of one key must stand in device memory, and work must not allocate, upload or
  // download the second time.
  virtual void replay(std::span<const int64_t> key, const std::function<void()>& work) {
    static_cast<void>(key);
    work();
  }
  // Forgets what replay has kept: memory that it names is about to move.
  virtual void forget_graphs() {}

  // ---- ops. x, hidden: operands (operand_dtype) where the comment says so, else f32.

  // out[t] = table[ids[t]]                                        out [n_tokens, d_model], table [n_vocab, d_model]
  virtual void embed(Tensor out, const Matrix& table, const int32_t* ids) = 0;

  // out[r] = x[r] / sqrt(mean(x[r]^2) + eps) * weight             x [rows, n]; out f32 or operand, may be x
  virtual void rmsnorm(Tensor out, Tensor x, Vector weight, float eps) = 0;

  // out[t, n] = sum_k x[t, k] * w[n, k] (+ bias[n])               x operand [n_tokens, k], w [n, k], out [n_tokens, n]
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

  // cache[kv_rows[t]] = x[t]: x [n_tokens, width], f32 or kv_dtype, into rows of `stride` elements of kv_dtype
  virtual void store_rows(void* cache, int64_t stride, Tensor x, const int32_t* kv_rows) = 0;

  // out[i] = x[rows[i]] for i < out.rows; both of one dtype
  virtual void gather_rows(Tensor out, Tensor x, const int32_t* rows) = 0;

  // Causal attention of each token over its own sequence's cache, its own position included (stored before).
  // q [n_tokens, n_heads * d_key] f32, out [n_tokens, n_heads * d_value] operand. Softmax in f32.
  virtual void attention(Tensor out, Tensor q, const KvCache& cache, const BatchView& batch,
                         const AttentionParams& params) = 0;

  // How much of its softmax each head of a token gives to each key:
  //   pattern[t, h, p] for p < n_keys = pattern.cols / n_heads, which is above every position of the batch;
  // 0 for keys that the token does not see. A sink's share is left out, so a row then sums to less than 1. This is
  // attention's softmax computed apart from it, so the two are equal up to rounding. Arguments as attention's.
  // pattern f32 [n_tokens, n_heads * n_keys]
  virtual void attention_pattern(Tensor pattern, Tensor q, const KvCache& cache, const BatchView& batch,
                                 const AttentionParams& params) = 0;

  // The absorbed form of multi-head latent attention: with kv_b [n_heads * (d_nope + d_value), d_latent], whose rows
  // are d_nope key rows and then d_value value rows a head,
  //   out[t, h, 0:d_latent] = q[t, h, 0:d_nope] * kv_b[h, 0:d_nope, :], out[t, h, d_latent:] = q[t, h, d_nope:] (rope)
  // q [n_tokens, n_heads * (d_nope + d_rope)] f32, out [n_tokens, n_heads * (d_latent + d_rope)] f32
  virtual void mla_absorb(Tensor out, Tensor q, const Matrix& kv_b, int64_t n_heads, int64_t d_nope, int64_t d_rope,
                          int64_t d_value) = 0;
  // out[t, h, v] = sum_c latent[t, h, c] * kv_b[h, d_nope + v, c]
  // latent [n_tokens, n_heads * d_latent] operand, out [n_tokens, n_heads * d_value] operand
  virtual void mla_expand(Tensor out, Tensor latent, const Matrix& kv_b, int64_t n_heads, int64_t d_nope,
                          int64_t d_value) = 0;

  // hidden = activate(x gate^T) * (x up^T)                        x operand [n_tokens, d_model], hidden operand
  virtual void gated_hidden(Tensor hidden, Tensor x, const Matrix& gate, const Matrix& up,
                            const Activation& activation) = 0;

  // Routes every token: logits = x w^T + bias, written to `logits` [n_tokens, n_experts] (x absent: they stand there
  // already), and with the batch's edits to a Route. x operand [n_tokens, d_model], w [n_experts, d_model] as of
  // upload_matrix(.., true); bias and selection_bias [n_experts] or null.
  virtual void route(const Route& out, Tensor logits, Tensor x, const Matrix& w, const float* bias,
                     const Router& router, const float* selection_bias, const RouteBatch& batch) = 0;

  // hidden[t, i] = activate(x[t] gate_e^T + b) * (x[t] up_e^T + b) for e = route.ids[t, i]; slots with id -1 become 0.
  // x operand [n_tokens, d_model], hidden operand [n_tokens * n_slots, d_ff]. Adds to *leaks each (token, slot) that
  // ran an expert which route.banned forbids.
  virtual void experts_hidden(Tensor hidden, Tensor x, const Route& route, int64_t n_tokens,
                              const ExpertMatrices& experts, const Activation& activation, uint64_t* leaks) = 0;

  // out[t, i] = hidden[t, i] down_e^T + b_e; slots with id -1 become 0.    hidden operand, out f32
  //                                                                        [n_tokens * n_slots, d_model]
  virtual void experts_out(Tensor out, Tensor hidden, const Route& route, int64_t n_tokens,
                           const ExpertMatrices& experts) = 0;

  // out[t] = sum over slots i in order of weights[t, i] * expert_out[t, i] (slots with id -1 or weight 0 skipped), then
  // + shared[t] if given.                                         out [n_tokens, d_model]
  virtual void combine(Tensor out, Tensor expert_out, const Route& route, Tensor shared) = 0;

  // Point edits: for i: x[rows[i], columns] = values[value_rows[i], columns] (set) or += scale * values[...] (add).
  // x f32 or operand. Host arguments, all but x: columns (empty = all), rows, and values [n, x.cols] f32.
  virtual void edit_rows(Tensor x, std::span<const int32_t> rows, Tensor values, std::span<const int32_t> value_rows,
                         std::span<const int32_t> columns, bool add, float scale) = 0;

  // ids[r] = the next token by logits[r] and params[r]; -1 where a logit is NaN or the largest is infinite.
  virtual void sample(int32_t* ids, Tensor logits, const SampleParams* params) = 0;

  // out[r] = logits[r, targets[r]] - log(sum(exp(logits[r]))), natural log; NaN where targets[r] < 0.
  virtual void log_probs(double* out, Tensor logits, const int32_t* targets) = 0;

  // Of each row: divergence[r] = KL(p || q) = sum p (log p - log q) in nats with p, q = softmax of reference[r] and of
  // logits[r] (tokens with p = 0 add nothing; 0 for equal rows, never below, finite for finite logits; NaN where a row
  // has a NaN, its largest is infinite or all are -inf); same_top[r] = 1 where both have the same largest logit, ties
  // to the lowest id, and 0 else or where a row has no finite largest. A row's result depends on its two rows alone.
  // logits, reference f32 [rows, n_vocab]; divergence, same_top [rows]
  virtual void compare_logits(double* divergence, int32_t* same_top, Tensor logits, Tensor reference) = 0;

  // ---- spans: several ops as one. The default is the composition; a device may fuse them with the same results up to
  // rounding. Used where no probe looks in between.

  // x += delta; h = rmsnorm(x)
  virtual void add_rmsnorm(Tensor x, Tensor delta, Tensor h, Vector weight, float eps) {
    add(x, x, delta);
    rmsnorm(h, x, weight, eps);
  }
  virtual void matmul_many(Tensor x, std::span<const Product> products) {
    for (const Product& p : products) matmul(p.out, x, *p.w, p.bias);
  }

  // Grouped-query attention's queries and keys: norms (absent: no weight; per head: weight.n = d_head, else over the
  // whole row), clip (0: none; of v too), rotation, and keys and values into the cache.
  struct HeadsArgs {
    int64_t n_heads = 0, n_kv_heads = 0, d_head = 0;
    Vector q_norm, k_norm;
    float norm_eps = 0, clip = 0;
    RopeTable rope;
  };
  virtual void prepare_heads(Tensor q, Tensor k, Tensor v, const HeadsArgs& args, const KvCache& cache,
                             const BatchView& batch) {
    const bool per_head = args.q_norm && args.q_norm.n == args.d_head;
    if (args.q_norm) {
      const Tensor qs = per_head ? q.split(args.n_heads) : q, ks = per_head ? k.split(args.n_kv_heads) : k;
      rmsnorm(qs, qs, args.q_norm, args.norm_eps);
      rmsnorm(ks, ks, args.k_norm, args.norm_eps);
    }
    if (args.clip > 0) {
      for (const Tensor& x : {q, k, v}) clamp(x, args.clip);
    }
    rope(q, args.n_heads, 0, args.rope, batch.positions);
    rope(k, args.n_kv_heads, 0, args.rope, batch.positions);
    store_rows(cache.keys, cache.key_stride, k, batch.kv_rows);
    store_rows(cache.values, cache.value_stride, v, batch.kv_rows);
  }

  // Latent attention's queries and latents: norm of the latent, rotation of its last n_dims and of the last n_dims of
  // each query head, and the latent into the cache.               q [n_tokens, n_heads * (d_nope + d_rope)]
  struct LatentArgs {
    int64_t n_heads = 0, d_nope = 0, d_latent = 0;
    Vector norm;
    float norm_eps = 0;
    RopeTable rope;
  };
  virtual void prepare_latent(Tensor q, Tensor kv, const LatentArgs& args, const KvCache& cache,
                              const BatchView& batch) {
    const Tensor latent = kv.columns(0, args.d_latent);
    rmsnorm(latent, latent, args.norm, args.norm_eps);
    rope(kv.columns(args.d_latent, args.rope.n_dims), 1, 0, args.rope, batch.positions);
    rope(q, args.n_heads, args.d_nope, args.rope, batch.positions);
    store_rows(cache.keys, cache.key_stride, kv, batch.kv_rows);
  }
};

struct CpuOptions {
  int n_threads = 0;         // 0: all hardware threads
  std::string isa = "auto";  // auto | scalar | avx2 | avx512 | amx
  // Products may round what they multiply with to bf16, where the processor is faster at them; and auto may choose amx.
  bool fast = false;
};

// Throws Error when the machine lacks the instruction set asked for.
std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options);

// An NVIDIA GPU. kernels/cuda holds the kernels; a build without a CUDA toolkit has none of these.
struct CudaOptions {
  int device = 0;
  bool invariant = false;  // bits that depend neither on the composition of batches nor on chunks
  bool graphs = true;      // false: replay() only does its work
};
bool built_with_cuda();
// What this build has code for: "sm_80 sm_90a compute_80" (the last for the driver to compile), or empty.
std::string cuda_architectures();
// Why no device can be used ("no NVIDIA driver found", ...), or empty.
std::string cuda_unavailable();
// Throws Error: no such device, a driver too old, an unsupported architecture.
std::unique_ptr<Backend> make_cuda_backend(const CudaOptions& options);

}  // namespace signalbox::kernels
