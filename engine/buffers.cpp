#include "engine/buffers.h"

#include <algorithm>

namespace signalbox::engine {

namespace {

// A buffer that would be larger with room to spare, as the logits of a long chunk, gets what it needs.
constexpr size_t max_roomy_bytes = size_t{256} << 20;

}  // namespace

Buffers::Buffers(Backend& backend, int64_t n_layers, Policy policy)
    : backend_(backend),
      n_layers_(n_layers),
      policy_(policy),
      blocks_(static_cast<size_t>(n_activations * (policy == Policy::keep ? n_layers + 1 : 1))) {}

void Buffers::begin(int64_t n_tokens, int64_t token_capacity) {
  n_tokens_ = std::max<int64_t>(1, n_tokens);
  token_capacity_ = token_capacity;
  ++step_;
}

size_t Buffers::index(Activations what, int64_t layer) const {
  const size_t name = static_cast<size_t>(what);
  return keeps() ? name * static_cast<size_t>(n_layers_ + 1) + static_cast<size_t>(layer + 1) : name;
}

void* Buffers::memory(Activations what, int64_t layer, int64_t rows, int64_t cols, int64_t stride, DType dtype) {
  Block& block = blocks_[index(what, layer)];
  const size_t bytes = static_cast<size_t>(rows * stride) * dtype_size(dtype);
  if (block.bytes < bytes || !block.memory) {
    size_t roomy = bytes;
    if (!keeps()) {
      roomy = (bytes / static_cast<size_t>(n_tokens_) + 1) * static_cast<size_t>(token_capacity_);
      roomy = roomy <= max_roomy_bytes ? std::max(bytes, roomy) : bytes;
    }
    backend_.forget_graphs();
    block.memory.reset();
    block.bytes = 0;
    block.memory = backend_.allocate(roomy);
    block.bytes = roomy;
  }
  block.step = step_;
  block.view = Tensor(static_cast<float*>(block.memory.get()), rows, cols, stride, dtype);
  return block.memory.get();
}

Tensor Buffers::tensor(Activations what, int64_t layer, int64_t rows, int64_t cols) {
  memory(what, layer, rows, cols, cols, DType::f32);
  return blocks_[index(what, layer)].view;
}

Tensor Buffers::of_dtype(Activations what, int64_t layer, int64_t rows, int64_t cols, DType dtype) {
  if (dtype == DType::f32) return tensor(what, layer, rows, cols);
  const int64_t stride = (cols + 7) / 8 * 8;  // rows begin at multiples of 16 bytes
  memory(what, layer, rows, cols, stride, dtype);
  return blocks_[index(what, layer)].view;
}

Tensor Buffers::operand(Activations what, int64_t layer, int64_t rows, int64_t cols) {
  return of_dtype(what, layer, rows, cols, backend_.operand_dtype());
}

Tensor Buffers::cached(Activations what, int64_t layer, int64_t rows, int64_t cols) {
  return of_dtype(what, layer, rows, cols, backend_.kv_dtype());
}

Tensor Buffers::successor(Activations what, int64_t layer, Tensor x) {
  if (!keeps()) return x;
  const Tensor to = tensor(what, layer, x.rows, x.cols);
  backend_.copy(to.data, x.data, static_cast<size_t>(x.rows * x.cols) * sizeof(float));
  return to;
}

void Buffers::remember(Activations what, int64_t layer, Tensor x) {
  if (keeps()) successor(what, layer, x);
}

Tensor Buffers::kept(Activations what, int64_t layer) const {
  if (!keeps()) return {};
  const Block& block = blocks_[index(what, layer)];
  return block.memory && block.step == step_ ? block.view : Tensor();
}

void Buffers::release(int64_t layer) {
  if (!keeps()) return;
  backend_.forget_graphs();
  for (int what = 0; what < n_activations; ++what) blocks_[index(static_cast<Activations>(what), layer)] = {};
}

size_t Buffers::bytes() const {
  size_t bytes = 0;
  for (const Block& block : blocks_) bytes += block.bytes;
  return bytes;
}

}  // namespace signalbox::engine
