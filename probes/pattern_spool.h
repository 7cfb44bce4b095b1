// Rows of attention patterns while a trace is recorded: the token of row r of a sample looks at r + 1 keys, so its row
// holds that many values per head and grows along the sample. Kept on disk, as RowSpool keeps rows of one size.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "base/namespaces.h"
#include "base/row_spool.h"
#include "probes/sink.h"

namespace signalbox::probes {

class PatternSpool {
 public:
  // Of tensors with so many heads each, at least one; in a file as RowSpool's.
  PatternSpool(const std::filesystem::path& path, std::vector<int64_t> heads,
               RowSpool::Lifetime lifetime = RowSpool::Lifetime::process);

  // The rows of a batch, in ranges that are not empty. A sample's first row has position 0 and its rows follow without
  // gaps. `ranges` must stay until the last put() of the batch.
  void begin(std::span<const RowRange> ranges);
  // One tensor of the batch at hand: data [rows of the batch, heads, n_keys], n_keys above the number of every row.
  void put(size_t tensor, const float* data, int64_t n_keys);

  int64_t longest() const { return longest_; }  // rows of the longest sample

  // As RowSpool's, where a sample of n rows has units(0, n) rows there.
  std::span<const RowSpool::Extent> settle(int64_t sample) { return spool_.settle(sample); }
  std::optional<uint64_t> hash(std::span<const RowSpool::Extent> extents) const { return spool_.hash(extents); }
  void restore(int64_t sample, int64_t n_rows, std::span<const RowSpool::Extent> extents);
  void sync() { spool_.sync(); }
  // What rows first .. last - 1 of a sample take.
  static int64_t units(int64_t first, int64_t last) { return last * (last + 1) / 2 - first * (first + 1) / 2; }

  // Calls visit(tensor, row, n_keys) for every row in order of samples, each tensor in turn: row [heads, n_keys].
  using Visit = std::function<void(size_t tensor, const float* row, int64_t n_keys)>;
  void read_all(const Visit& visit);

 private:
  void set_rows(int64_t sample, int64_t n_rows);
  size_t unit_bytes() const { return sizeof(float) * static_cast<size_t>(first_head_.back()); }  // of one key

  std::vector<int64_t> first_head_;  // [tensors + 1] heads of the tensors before
  RowSpool spool_;                   // r + 1 units for row r: tensor by tensor, [heads, r + 1] each
  std::vector<int64_t> n_rows_;      // [sample]
  int64_t longest_ = 0;
  std::span<const RowRange> ranges_;
  std::vector<uint64_t> extents_;  // of ranges_
  std::vector<float> packed_;
};

}  // namespace signalbox::probes
