#include "engine/kv_pool.h"

#include <numeric>
#include <string>
#include <utility>

#include "base/error.h"

namespace signalbox::engine {

int64_t KvPool::block_bytes(const Model& model, DType dtype) {
  int64_t elements = 0;
  for (const Layer& layer : model.layers) {
    auto [key, value] = Model::kv_width(layer);
    elements += key + value;
  }
  return elements * block_size * static_cast<int64_t>(dtype_size(dtype));
}

KvPool::KvPool(Backend& backend, const Model& model, int64_t n_blocks) : backend_(backend) {
  const int64_t n_rows = n_blocks * block_size;
  for (const Layer& layer : model.layers) {
    auto [key_width, value_width] = Model::kv_width(layer);
    KvCache cache;
    cache.dtype = backend.kv_dtype();
    const size_t element = dtype_size(cache.dtype);
    cache.key_stride = key_width;
    memory_.push_back(backend.allocate(static_cast<size_t>(n_rows * key_width) * element));
    cache.keys = memory_.back().get();
    if (value_width > 0) {
      cache.value_stride = value_width;
      memory_.push_back(backend.allocate(static_cast<size_t>(n_rows * value_width) * element));
      cache.values = memory_.back().get();
    } else {
      cache.values = cache.keys;  // a latent serves as key and value
      cache.value_stride = key_width;
    }
    layers_.push_back(cache);
  }
  references_.assign(n_blocks, 0);
  free_.resize(n_blocks);
  std::iota(free_.rbegin(), free_.rend(), 0);
}

void KvPool::separate_values(int64_t l) {
  KvCache& cache = layers_[static_cast<size_t>(l)];
  if (cache.values != cache.keys) return;
  const size_t block = static_cast<size_t>(block_size * cache.key_stride) * dtype_size(cache.dtype);
  memory_.push_back(backend_.allocate(block * references_.size()));
  backend_.forget_graphs();  // they read values where the keys are
  auto* values = static_cast<unsigned char*>(memory_.back().get());
  const auto* keys = static_cast<const unsigned char*>(cache.keys);
  for (size_t b = 0; b < references_.size(); ++b)
    if (references_[b] > 0) backend_.copy(values + b * block, keys + b * block, block);
  cache.values = values;
}

int32_t KvPool::take() {
  if (free_.empty())
    throw Error("KV cache", "expected a free block, found all " + std::to_string(n_blocks()) + " in use");
  int32_t block = free_.back();
  free_.pop_back();
  references_[block] = 1;
  return block;
}

void KvPool::release(int32_t block) {
  if (--references_[block] == 0) free_.push_back(block);
}

int32_t KvPool::copy(int32_t block, int64_t n_positions) {
  const int32_t fresh = take();
  for (const KvCache& cache : layers_) {
    auto copy_rows = [&](void* base, int64_t stride) {
      const size_t row = static_cast<size_t>(stride) * dtype_size(cache.dtype);
      auto* bytes = static_cast<unsigned char*>(base);
      backend_.copy(bytes + static_cast<size_t>(fresh * block_size) * row,
                    bytes + static_cast<size_t>(block * block_size) * row, static_cast<size_t>(n_positions) * row);
    };
    copy_rows(cache.keys, cache.key_stride);
    if (cache.values != cache.keys) copy_rows(cache.values, cache.value_stride);
  }
  return fresh;
}

SequenceCache::SequenceCache(SequenceCache&& other) noexcept
    : pool_(other.pool_), blocks_(std::move(other.blocks_)), length_(std::exchange(other.length_, 0)) {
  other.blocks_.clear();
}

SequenceCache& SequenceCache::operator=(SequenceCache&& other) noexcept {
  if (this != &other) {
    rewind(0);
    pool_ = other.pool_;
    blocks_ = std::move(other.blocks_);
    other.blocks_.clear();
    length_ = std::exchange(other.length_, 0);
  }
  return *this;
}

void SequenceCache::extend(int64_t count) {
  const int64_t filled = length_ % KvPool::block_size;
  if (filled != 0 && pool_->shared(blocks_.back())) {
    const int32_t own = pool_->copy(blocks_.back(), filled);
    pool_->release(blocks_.back());
    blocks_.back() = own;
  }
  const int64_t needed = KvPool::blocks_for(length_ + count);
  while (static_cast<int64_t>(blocks_.size()) < needed) blocks_.push_back(pool_->take());
  length_ += count;
}

void SequenceCache::rewind(int64_t length) {
  const int64_t kept = KvPool::blocks_for(length);
  while (static_cast<int64_t>(blocks_.size()) > kept) {
    pool_->release(blocks_.back());
    blocks_.pop_back();
  }
  length_ = length;
}

SequenceCache SequenceCache::fork(int64_t length) const {
  SequenceCache copy(*pool_);
  const int64_t kept = KvPool::blocks_for(length);
  copy.blocks_.assign(blocks_.begin(), blocks_.begin() + kept);
  for (int32_t block : copy.blocks_) pool_->share(block);
  copy.length_ = length;
  return copy;
}

}  // namespace signalbox::engine
