#include "eval/detect/subset_sums.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "eval/detect/wide_clones.h"

namespace signalbox::eval {

namespace {

constexpr int64_t width = SubsetSums::panel_columns;
constexpr int64_t n_entries = 256;  // subsets of eight units

constexpr int vector_bytes = 32;
typedef int32_t NarrowVector __attribute__((vector_size(vector_bytes)));
typedef int64_t WideVector __attribute__((vector_size(vector_bytes)));

// table[256][width] of the units first ... first + 7, those beyond n_units being 0. Written with vectors: a compiler
// that cannot tell tables from sums would add number by number.
template <class T, class Vector>
[[gnu::always_inline]] inline void make_table(T* table, const T* units, int64_t first, int64_t n_units) {
  constexpr int64_t lanes = vector_bytes / static_cast<int64_t>(sizeof(T));
  std::memset(table, 0, width * sizeof(T));
  for (int64_t entry = 1; entry < n_entries; ++entry) {
    const int64_t unit = first + std::countr_zero(static_cast<uint64_t>(entry));
    const T* without = table + (entry & (entry - 1)) * width;
    for (int64_t c = 0; c < width; c += lanes) {
      Vector sum, added = {};
      std::memcpy(&sum, without + c, vector_bytes);
      if (unit < n_units) std::memcpy(&added, units + unit * width + c, vector_bytes);
      sum += added;
      std::memcpy(table + entry * width + c, &sum, vector_bytes);
    }
  }
}

// Two tables at a time, so that sums are read and written half as often.
template <class T, class Vector>
[[gnu::always_inline]] inline void sum_panel(const T* units, int64_t n_units, const uint8_t* subsets, int64_t n_bytes,
                                             int64_t n_subsets, T* tables, T* sums) {
  constexpr int64_t lanes = vector_bytes / static_cast<int64_t>(sizeof(T));
  std::memset(sums, 0, static_cast<size_t>(n_subsets * width) * sizeof(T));
  for (int64_t byte = 0; byte < n_bytes; byte += 2) {
    make_table<T, Vector>(tables, units, byte * 8, n_units);
    make_table<T, Vector>(tables + n_entries * width, units, byte * 8 + 8, n_units);
    const uint8_t* one = subsets + byte * n_subsets;
    const uint8_t* two = byte + 1 < n_bytes ? one + n_subsets : nullptr;
    for (int64_t s = 0; s < n_subsets; ++s) {
      const T* a = tables + one[s] * width;
      const T* b = tables + (n_entries + (two ? two[s] : 0)) * width;
      for (int64_t c = 0; c < width; c += lanes) {
        Vector sum, x, y;
        std::memcpy(&sum, sums + s * width + c, vector_bytes);
        std::memcpy(&x, a + c, vector_bytes);
        std::memcpy(&y, b + c, vector_bytes);
        sum += x + y;
        std::memcpy(sums + s * width + c, &sum, vector_bytes);
      }
    }
  }
}

SIGNALBOX_WIDE_CLONES void sum_narrow(const int32_t* units, int64_t n_units, const uint8_t* subsets, int64_t n_bytes,
                                      int64_t n_subsets, int32_t* tables, int32_t* sums) {
  sum_panel<int32_t, NarrowVector>(units, n_units, subsets, n_bytes, n_subsets, tables, sums);
}

SIGNALBOX_WIDE_CLONES void sum_wide(const int64_t* units, int64_t n_units, const uint8_t* subsets, int64_t n_bytes,
                                    int64_t n_subsets, int64_t* tables, int64_t* sums) {
  sum_panel<int64_t, WideVector>(units, n_units, subsets, n_bytes, n_subsets, tables, sums);
}

}  // namespace

SubsetSums::SubsetSums(int64_t n_units, int64_t n_columns, const std::function<int64_t(int64_t, int64_t)>& at)
    : n_units_(n_units), n_bytes_((n_units + 7) / 8), panels_(static_cast<size_t>((n_columns + width - 1) / width)) {
  for (size_t p = 0; p < panels_.size(); ++p) {
    const int64_t first = static_cast<int64_t>(p) * width, end = std::min(first + width, n_columns);
    int64_t largest = 0;
    for (int64_t column = first; column < end; ++column) {
      int64_t total = 0;
      for (int64_t unit = 0; unit < n_units; ++unit) {
        const int64_t magnitude = std::abs(at(unit, column));
        if (magnitude >= int64_t{1} << 62 || (total += magnitude) >= int64_t{1} << 62)
          throw Error("contrast", "expected counts of which sums stay below 2^62, found larger ones");
      }
      largest = std::max(largest, total);
    }
    const auto fill = [&](auto& values) {
      values.assign(static_cast<size_t>(n_units * width), 0);
      for (int64_t unit = 0; unit < n_units; ++unit)
        for (int64_t column = first; column < end; ++column)
          values[static_cast<size_t>(unit * width + column - first)] =
              static_cast<std::decay_t<decltype(values[0])>>(at(unit, column));
    };
    largest <= INT32_MAX ? fill(panels_[p].narrow) : fill(panels_[p].wide);
  }
}

void SubsetSums::sum(int64_t panel, std::span<const uint8_t> subsets, int64_t n_subsets, int64_t* sums,
                     Scratch& scratch) const {
  const Panel& units = panels_[static_cast<size_t>(panel)];
  const size_t table_size = static_cast<size_t>(2 * n_entries * width);
  if (!units.wide.empty()) {
    scratch.wide_tables.resize(table_size);
    sum_wide(units.wide.data(), n_units_, subsets.data(), n_bytes_, n_subsets, scratch.wide_tables.data(), sums);
    return;
  }
  scratch.narrow_tables.resize(table_size);
  scratch.narrow_sums.resize(static_cast<size_t>(n_subsets * width));
  sum_narrow(units.narrow.data(), n_units_, subsets.data(), n_bytes_, n_subsets, scratch.narrow_tables.data(),
             scratch.narrow_sums.data());
  std::copy(scratch.narrow_sums.begin(), scratch.narrow_sums.end(), sums);
}

}  // namespace signalbox::eval
