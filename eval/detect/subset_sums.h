// Sums of counts over many subsets of units at once (which units stand under A in a relabelling): whole numbers, so
// exact, whatever the blocking, the threads and the instruction set.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace signalbox::eval {

// A table of whole numbers [units, columns], laid out in panels of columns. Eight units together have 256 subsets: the
// sums of a panel over each are made once, and a subset of all units costs one look-up for eight of them.
class SubsetSums {
 public:
  static constexpr int64_t panel_columns = 16;

  // at(unit, column) is asked for twice for each element. Sums of magnitudes of a column must stay below 2^62 (Error).
  SubsetSums(int64_t n_units, int64_t n_columns, const std::function<int64_t(int64_t, int64_t)>& at);

  int64_t n_panels() const { return static_cast<int64_t>(panels_.size()); }
  // Bytes of a subset: bit i % 8 of byte i / 8 says whether unit i is in it.
  int64_t n_bytes() const { return n_bytes_; }

  struct Scratch {
    std::vector<int32_t> narrow_tables, narrow_sums;
    std::vector<int64_t> wide_tables;
  };
  // sums[s][panel_columns] of a panel's columns over each of n_subsets subsets; subsets[n_bytes()][n_subsets], bits
  // beyond the units 0. Columns beyond the table are 0.
  void sum(int64_t panel, std::span<const uint8_t> subsets, int64_t n_subsets, int64_t* sums, Scratch& scratch) const;

 private:
  // [units][panel_columns]; the first where sums fit 32 bits
  struct Panel {
    std::vector<int32_t> narrow;
    std::vector<int64_t> wide;
  };
  int64_t n_units_, n_bytes_;
  std::vector<Panel> panels_;
};

}  // namespace signalbox::eval
