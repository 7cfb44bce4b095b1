// Memory of the activations that a forward makes, by what they hold.
//
// Two policies. Under `reuse` there is one buffer per name, which every layer and every step writes again: memory is
// that of the largest step and of one layer. Under `keep` what a layer made stays until the next step, by name and
// layer, and an op that would write over its input gets a copy to write to. Ops and their order are the same except for
// these copies, and so are the bits.
//
// Bytes that `keep` holds per token and layer (o = 4, or 2 where operands are bf16; k = slots of a route):
//   stream      16 d_model + 2 o d_model
//   attention   4 (n_heads + 2 n_kv_heads) d_head, twice where there are norms or a clip, + o n_heads d_head
//   latent      4 n_heads (d_nope + 2 d_rope + d_latent) + 8 (d_latent + d_rope) + o n_heads (d_latent + d_value)
//               + (4 + o) q_rank
//   router      8 n_experts + 8 k + 4, 4 more where groups are limited; under edits of routes n_experts + 4 k + 4 more
//   experts     k (4 d_model + o d_ff)
//   shared      4 d_model, twice where it is gated or scaled, + o d_ff_shared, + 4 where it is gated
//   dense       o d_ff
// With d_model 2048, 16 heads of 128 and their norms, 64 experts of d_ff 1024 and k = 8 this is 0.21 MB in f32, and 3.3
// MB per token in 16 layers. Whoever needs one layer at a time gives each back with release() before the next.
#pragma once
#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

#include "base/namespaces.h"
#include "kernels/backend.h"

namespace signalbox::engine {

// What a buffer holds. Shapes [rows, cols]; T = tokens of the step; "operand": Backend::operand_dtype(), else f32.
enum class Activations : uint8_t {
  // Of a layer
  resid_in,     // [T, d_model] the residual stream where the layer begins
  attn_normed,  // [T, d_model] operand; what attention reads
  query,        // [T, n_heads * d_head] after norm, clip and rotation; latent: [T, n_heads * (d_nope + d_rope)]
  key,
  value,               // [T, n_kv_heads * d_head], likewise
  query_low,           // [T, q_rank]
  query_low_normed,    // [T, q_rank] operand
  latent,              // [T, d_latent + d_rope] normed and rotated
  query_absorbed,      // [T, n_heads * (d_latent + d_rope)]
  latent_attended,     // [T, n_heads * d_latent] operand
  attended,            // [T, n_heads * d_value] operand; the heads' outputs before the output projection
  attn_out,            // [T, d_model]
  resid_mid,           // [T, d_model] the residual stream between attention and feed-forward
  ffn_normed,          // [T, d_model] operand; what the router and the experts, or the dense block, read
  router_logits,       // [T, n_experts]
  router_scores,       // [T, n_experts] where they are recorded, and under keep
  route_ids,           // [T, k] i32
  route_original,      // [T, k] i32, under edits of routes
  route_weights,       // [T, k]
  route_margin,        // [T, 1]
  route_group_margin,  // [T, 1] where groups are limited and routes are recorded, and under keep
  route_shared_scale,  // [T, 1], under edits of routes
  route_banned,        // [T, n_experts] u8, under edits of routes
  expert_hidden,       // [T * k, d_ff] operand
  expert_out,          // [T * k, d_model]
  shared_hidden,       // [T, d_ff_shared] operand
  shared_gate,         // [T, 1]
  shared_out,          // [T, d_model]
  dense_hidden,        // [T, d_ff] operand
  ffn_out,             // [T, d_model]
  // Of a layer, where something is recorded or written
  attn_pattern,  // [T, n_heads * keys] where it is recorded
  cache_rows,    // [T, n_kv_heads * d_head] in the cache's dtype: the tokens' keys or values as they are cached
  router_read,
  experts_read,
  shared_read,  // [T, d_model] operand: ffn_normed as one reader sees it, where an edit writes to that reader's point
  // Of a layer, under keep alone: what an op in place was given
  query_raw,
  key_raw,
  value_raw,   // before norms, clip and rotation, where there are norms or a clip
  latent_raw,  // before its norm and rotation
  shared_raw,  // before its gate and its scale
  // Of no layer (-1); R = rows whose logits are wanted
  embedded,      // [T, d_model]
  resid_final,   // [T, d_model]
  resid_picked,  // [R, d_model]
  final_normed,  // [T, d_model] or [R, d_model] operand
  final_picked,  // [R, d_model] operand
  every_logits,  // [T, n_vocab]
  logits_even,
  logits_odd,  // [R, n_vocab] of steps with even and odd numbers
};
inline constexpr int n_activations = static_cast<int>(Activations::logits_odd) + 1;

class Buffers {
 public:
  enum class Policy : uint8_t { reuse, keep };
  Buffers(Backend& backend, int64_t n_layers, Policy policy);
  ~Buffers() { backend_.forget_graphs(); }  // they name this memory
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;
  Policy policy() const { return policy_; }
  bool keeps() const { return policy_ == Policy::keep; }

  // A step of n_tokens tokens begins: what the last one left is no longer kept. Under reuse, a buffer that has to grow
  // gets room for `token_capacity` tokens, so that prompts which grow little by little move nothing.
  void begin(int64_t n_tokens, int64_t token_capacity);

  // Memory for what the caller is about to write, not initialised. The same address for the same name, layer and size
  // in all steps, until one needs more: then the backend's graphs are forgotten. Throws Error when the device is full.
  Tensor tensor(Activations what, int64_t layer, int64_t rows, int64_t cols);   // f32
  Tensor operand(Activations what, int64_t layer, int64_t rows, int64_t cols);  // in the dtype matrix products take
  Tensor cached(Activations what, int64_t layer, int64_t rows, int64_t cols);   // in that of keys and values
  template <class T>
  T* array(Activations what, int64_t layer, int64_t rows, int64_t cols) {
    return static_cast<T*>(memory(what, layer, rows, cols, cols, dtype_of<T>()));
  }

  // Where an op may write over x [rows, cols], f32: x itself, or under keep a copy of it with a name of its own.
  Tensor successor(Activations what, int64_t layer, Tensor x);
  // Under keep: a copy of x as it is now.
  void remember(Activations what, int64_t layer, Tensor x);

  // Under keep: what the current step made; ids and bytes as tensors of their dtype. Absent where it has not made it.
  Tensor kept(Activations what, int64_t layer) const;
  // Under keep: gives a layer's memory back.
  void release(int64_t layer);
  size_t bytes() const;  // of all buffers

 private:
  struct Block {
    std::shared_ptr<void> memory;
    size_t bytes = 0;
    uint64_t step = 0;  // that wrote it last
    Tensor view;
  };
  template <class T>
  static constexpr DType dtype_of() {
    if constexpr (std::is_same_v<T, int32_t>) return DType::i32;
    if constexpr (std::is_same_v<T, uint8_t>) return DType::u8;
    return DType::f32;
  }
  size_t index(Activations what, int64_t layer) const;
  void* memory(Activations what, int64_t layer, int64_t rows, int64_t cols, int64_t stride, DType dtype);
  Tensor of_dtype(Activations what, int64_t layer, int64_t rows, int64_t cols, DType dtype);

  Backend& backend_;
  int64_t n_layers_;
  Policy policy_;
  int64_t n_tokens_ = 1, token_capacity_ = 1;
  uint64_t step_ = 0;
  std::vector<Block> blocks_;  // [n_activations] or [n_activations][1 + n_layers]
};

}  // namespace signalbox::engine
