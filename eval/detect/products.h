// Many resampled sums of counts at once: products of whole numbers that are exact, so that neither blocking nor threads
// nor instruction sets can change a result.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::eval {

// Replicates that one call of a product takes.
inline constexpr int64_t replicate_block = 32;

// A table of whole numbers [units, columns], laid out for products with multiplicities.
class CountTable {
 public:
  // at(unit, column) is asked for twice for each element. `total` bounds the sum of a replicate's multiplicities: it
  // decides whether sums are exact in float (faster), or need double (Error when not even those hold them).
  CountTable(int64_t n_units, int64_t n_columns, int64_t total, const std::function<int64_t(int64_t, int64_t)>& at);

  int64_t n_units() const { return n_units_; }
  int64_t n_columns() const { return n_columns_; }

  // sums[r][column] = the sum over units of multiplicities[r][unit] * count[unit][column], r < replicate_block.
  // `scratch` is the caller's, one a thread. Multiplicities are at most `total` in sum and not negative.
  struct Scratch {
    std::vector<float> floats;
    std::vector<double> doubles;
  };
  void multiply(std::span<const uint32_t> multiplicities, std::span<double> sums, Scratch& scratch) const;

 private:
  int64_t n_units_, n_columns_;
  // [columns / panel][units][panel], one of the two
  std::vector<float> floats_;
  std::vector<double> doubles_;
};

}  // namespace signalbox::eval
