// Keys and values of all sequences: one pool of blocks a model, shared by fork, copied on the first write after it.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "base/namespaces.h"
#include "engine/model.h"
#include "kernels/backend.h"

namespace signalbox::engine {

// A pool of `n_blocks` blocks; a block holds `block_size` positions of every layer. Memory is reserved at once and, on
// the CPU, taken from the system only as blocks are written.
class KvPool {
 public:
  static constexpr int64_t block_size = 32;

  // Throws Error when the device cannot hold the pool.
  KvPool(Backend& backend, const Model& model, int64_t n_blocks);
  ~KvPool() { backend_.forget_graphs(); }  // they name its memory
  KvPool(const KvPool&) = delete;
  KvPool& operator=(const KvPool&) = delete;

  // Blocks that `n_positions` positions take.
  static int64_t blocks_for(int64_t n_positions) { return (n_positions + block_size - 1) / block_size; }
  // Bytes that a block takes over all layers, in the dtype of the device.
  static int64_t block_bytes(const Model& model, DType dtype);

  int64_t n_free() const { return static_cast<int64_t>(free_.size()); }
  int64_t n_blocks() const { return static_cast<int64_t>(references_.size()); }
  int64_t n_rows() const { return n_blocks() * block_size; }  // of every layer's cache
  KvCache layer(int64_t l) const { return layers_[l]; }
  // Gives the values of a layer whose latents are keys and values at once memory of their own, with what is cached so
  // far: needed from the first edit of a key or a value on. Whoever stores a latent then stores both. Does nothing
  // where they are apart; throws Error when the device is full.
  void separate_values(int64_t l);

  int32_t take();  // a block with one reference; Error when none is free
  void share(int32_t block) { ++references_[block]; }
  void release(int32_t block);
  bool shared(int32_t block) const { return references_[block] > 1; }
  // A new block that holds the first `n_positions` positions of `block`.
  int32_t copy(int32_t block, int64_t n_positions);

 private:
  Backend& backend_;
  std::vector<std::shared_ptr<void>> memory_;
  std::vector<KvCache> layers_;
  std::vector<int32_t> references_;
  std::vector<int32_t> free_;  // a stack: the block freed last is taken first
};

// The cached positions of one sequence: 0 .. length()-1.
class SequenceCache {
 public:
  explicit SequenceCache(KvPool& pool) : pool_(&pool) {}
  SequenceCache(SequenceCache&& other) noexcept;
  SequenceCache& operator=(SequenceCache&& other) noexcept;
  SequenceCache(const SequenceCache&) = delete;
  SequenceCache& operator=(const SequenceCache&) = delete;
  ~SequenceCache() { rewind(0); }

  int64_t length() const { return length_; }
  const std::vector<int32_t>& blocks() const { return blocks_; }
  KvPool& pool() const { return *pool_; }

  // Makes positions length() .. length()+count-1 writable and counts them as cached: they are written by the next
  // forward. Takes blocks from the pool; a shared block is copied first.
  void extend(int64_t count);
  // Forgets all positions from `length` on.
  void rewind(int64_t length);
  // A second sequence with the same first `length` positions, sharing their blocks.
  SequenceCache fork(int64_t length) const;
  // The cache row of a position.
  int32_t row(int64_t position) const {
    return static_cast<int32_t>(blocks_[position / KvPool::block_size] * KvPool::block_size +
                                position % KvPool::block_size);
  }

 private:
  KvPool* pool_;
  std::vector<int32_t> blocks_;
  int64_t length_ = 0;
};

}  // namespace signalbox::engine
