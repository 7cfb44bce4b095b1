// The order in which merges happen: lowest rank first, leftmost first within a rank.
#pragma once
#include <algorithm>
#include <cstdint>
#include <functional>
#include <unordered_map>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::loaders::tokenizer {

struct Candidate {
  uint32_t rank;
  int32_t at;
};

// For short pieces: one binary heap.
class SmallMergeQueue {
 public:
  void clear() { keys_.clear(); }
  bool empty() const { return keys_.empty(); }
  void push(Candidate c) {
    keys_.push_back(static_cast<uint64_t>(c.rank) << 32 | static_cast<uint32_t>(c.at));
    std::push_heap(keys_.begin(), keys_.end(), std::greater<>());
  }
  Candidate pop() {
    std::pop_heap(keys_.begin(), keys_.end(), std::greater<>());
    const uint64_t key = keys_.back();
    keys_.pop_back();
    return {static_cast<uint32_t>(key >> 32), static_cast<int32_t>(key & UINT32_MAX)};
  }

 private:
  std::vector<uint64_t> keys_;
};

// For long pieces: a bucket a rank. Candidates of a rank mostly come in order of their place, and then cost O(1) each;
// a bucket that gets one out of order becomes a heap. A long run of one character is so nearly linear, anything else at
// most O(n log n).
class BucketMergeQueue {
 public:
  void clear() {
    ranks_.clear();
    index_.clear();
    for (Bucket& bucket : buckets_) bucket.reset();
    n_used_ = 0;
    free_.clear();
  }
  bool empty() const { return ranks_.empty(); }

  void push(Candidate c) {
    auto [entry, is_new] = index_.try_emplace(c.rank, 0);
    if (is_new) {
      entry->second = take_bucket();
      ranks_.push_back(c.rank);
      std::push_heap(ranks_.begin(), ranks_.end(), std::greater<>());
    }
    buckets_[entry->second].push(c.at);
  }

  Candidate pop() {
    const uint32_t rank = ranks_.front();
    const auto entry = index_.find(rank);
    Bucket& bucket = buckets_[entry->second];
    const int32_t at = bucket.pop();
    if (bucket.empty()) {
      bucket.reset();
      free_.push_back(entry->second);
      index_.erase(entry);
      std::pop_heap(ranks_.begin(), ranks_.end(), std::greater<>());
      ranks_.pop_back();
    }
    return {rank, at};
  }

 private:
  struct Bucket {
    std::vector<int32_t> items;
    size_t next = 0;  // in order: the first that is left
    bool heap = false;

    bool empty() const { return heap ? items.empty() : next == items.size(); }
    void reset() {
      items.clear();
      next = 0;
      heap = false;
    }
    void push(int32_t at) {
      if (!heap) {
        if (next == items.size() || at >= items.back()) {
          items.push_back(at);
          return;
        }
        items.erase(items.begin(), items.begin() + static_cast<std::ptrdiff_t>(next));
        next = 0;
        std::make_heap(items.begin(), items.end(), std::greater<>());
        heap = true;
      }
      items.push_back(at);
      std::push_heap(items.begin(), items.end(), std::greater<>());
    }
    int32_t pop() {
      if (!heap) return items[next++];
      std::pop_heap(items.begin(), items.end(), std::greater<>());
      const int32_t at = items.back();
      items.pop_back();
      return at;
    }
  };

  size_t take_bucket() {
    if (!free_.empty()) {
      const size_t bucket = free_.back();
      free_.pop_back();
      return bucket;
    }
    if (n_used_ == buckets_.size()) buckets_.emplace_back();
    return n_used_++;
  }

  std::vector<uint32_t> ranks_;                 // a heap
  std::unordered_map<uint32_t, size_t> index_;  // rank -> bucket
  std::vector<Bucket> buckets_;
  std::vector<size_t> free_;
  size_t n_used_ = 0;
};

}  // namespace signalbox::loaders::tokenizer
