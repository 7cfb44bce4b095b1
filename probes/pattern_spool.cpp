#include "probes/pattern_spool.h"

#include <algorithm>
#include <cstring>

namespace signalbox::probes {

namespace {

constexpr size_t buffer_bytes = size_t{4} << 20;

std::vector<int64_t> sums_before(const std::vector<int64_t>& heads) {
  std::vector<int64_t> sums = {0};
  for (const int64_t n : heads) sums.push_back(sums.back() + n);
  return sums;
}

}  // namespace

PatternSpool::PatternSpool(const std::filesystem::path& path, std::vector<int64_t> heads, RowSpool::Lifetime lifetime)
    : first_head_(sums_before(heads)), spool_(path, unit_bytes(), lifetime) {}

void PatternSpool::set_rows(int64_t sample, int64_t n_rows) {
  if (sample >= static_cast<int64_t>(n_rows_.size())) n_rows_.resize(static_cast<size_t>(sample) + 1, 0);
  n_rows_[static_cast<size_t>(sample)] = n_rows;
  longest_ = std::max(longest_, n_rows);
}

void PatternSpool::restore(int64_t sample, int64_t n_rows, std::span<const RowSpool::Extent> extents) {
  spool_.restore(sample, extents);
  set_rows(sample, n_rows);
}

void PatternSpool::begin(std::span<const RowRange> ranges) {
  ranges_ = ranges;
  extents_.clear();
  for (const RowRange& range : ranges) {
    const int64_t last = range.first_row + range.n_rows;
    extents_.push_back(spool_.reserve(range.sample, units(range.first_row, last)));
    set_rows(range.sample, last);
  }
}

void PatternSpool::put(size_t tensor, const float* data, int64_t n_keys) {
  const int64_t heads = first_head_[tensor + 1] - first_head_[tensor];
  for (size_t i = 0; i < ranges_.size(); ++i) {
    const RowRange& range = ranges_[i];
    for (int64_t r = 0; r < range.n_rows; ++r) {
      const int64_t row = range.first_row + r, n = row + 1;
      const float* from = data + (range.batch_row + r) * heads * n_keys;
      packed_.resize(static_cast<size_t>(heads * n));
      for (int64_t h = 0; h < heads; ++h) std::copy_n(from + h * n_keys, n, packed_.data() + h * n);
      const uint64_t begin = extents_[i] + static_cast<uint64_t>(units(range.first_row, row)) * unit_bytes();
      spool_.write(begin + static_cast<uint64_t>(first_head_[tensor] * n) * sizeof(float), packed_.data(),
                   packed_.size() * sizeof(float));
    }
  }
}

void PatternSpool::read_all(const Visit& visit) {
  std::vector<std::byte> buffer(std::max(buffer_bytes, unit_bytes())), row;
  size_t sample = 0;
  int64_t next = 0;  // row of that sample
  std::vector<float> values;
  const auto skip_empty = [&] {
    while (sample < n_rows_.size() && next == n_rows_[sample]) {
      ++sample;
      next = 0;
    }
  };
  // Pieces end anywhere within a row: what is there of it waits for the rest.
  spool_.read_all(buffer, [&](const std::byte* units, int64_t n) {
    const std::byte* end = units + static_cast<size_t>(n) * unit_bytes();
    while (units != end) {
      skip_empty();
      const size_t whole = static_cast<size_t>(next + 1) * unit_bytes();
      const size_t taken = std::min(whole - row.size(), static_cast<size_t>(end - units));
      row.insert(row.end(), units, units + taken);
      units += taken;
      if (row.size() < whole) break;
      values.resize(whole / sizeof(float));
      std::memcpy(values.data(), row.data(), whole);
      row.clear();
      ++next;
      for (size_t t = 0; t + 1 < first_head_.size(); ++t) visit(t, values.data() + first_head_[t] * next, next);
    }
  });
}

}  // namespace signalbox::probes
