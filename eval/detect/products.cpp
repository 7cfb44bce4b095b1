#include "eval/detect/products.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "eval/detect/wide_clones.h"

namespace signalbox::eval {

namespace {

constexpr int64_t group = 4;  // replicates whose sums a kernel call holds in registers
constexpr int vector_bytes = 32;
typedef float FloatVector __attribute__((vector_size(vector_bytes)));
typedef double DoubleVector __attribute__((vector_size(vector_bytes)));
// Columns that a kernel call holds: two vectors.
template <class T>
constexpr int64_t panel = 2 * vector_bytes / static_cast<int64_t>(sizeof(T));

// sums[group][panel] of multiplicities [units][group] and counts [units][panel].
template <class T, class Vector>
[[gnu::always_inline]] inline void multiply_panel(const T* multiplicities, const T* counts, int64_t n_units, T* sums) {
  constexpr int64_t width = panel<T> / 2;
  Vector low[group] = {}, high[group] = {};
  for (int64_t u = 0; u < n_units; ++u) {
    Vector c0, c1;
    std::memcpy(&c0, counts + u * panel<T>, vector_bytes);
    std::memcpy(&c1, counts + u * panel<T> + width, vector_bytes);
    for (int64_t r = 0; r < group; ++r) {
      const T m = multiplicities[u * group + r];
      low[r] += c0 * m;
      high[r] += c1 * m;
    }
  }
  for (int64_t r = 0; r < group; ++r) {
    std::memcpy(sums + r * panel<T>, &low[r], vector_bytes);
    std::memcpy(sums + r * panel<T> + width, &high[r], vector_bytes);
  }
}

SIGNALBOX_WIDE_CLONES void multiply_floats(const float* multiplicities, const float* counts, int64_t n_units,
                                           float* sums) {
  multiply_panel<float, FloatVector>(multiplicities, counts, n_units, sums);
}

SIGNALBOX_WIDE_CLONES void multiply_doubles(const double* multiplicities, const double* counts, int64_t n_units,
                                            double* sums) {
  multiply_panel<double, DoubleVector>(multiplicities, counts, n_units, sums);
}

void multiply_one(const float* m, const float* c, int64_t n, float* out) { multiply_floats(m, c, n, out); }
void multiply_one(const double* m, const double* c, int64_t n, double* out) { multiply_doubles(m, c, n, out); }

template <class T>
void multiply_all(const std::vector<T>& counts, int64_t n_units, int64_t n_columns,
                  std::span<const uint32_t> multiplicities, std::span<double> sums, std::vector<T>& scratch) {
  // Multiplicities as the kernel reads them: [replicate / group][unit][group].
  scratch.resize(static_cast<size_t>(replicate_block * n_units));
  for (int64_t r = 0; r < replicate_block; ++r)
    for (int64_t u = 0; u < n_units; ++u)
      scratch[static_cast<size_t>((r / group * n_units + u) * group + r % group)] =
          static_cast<T>(multiplicities[static_cast<size_t>(r * n_units + u)]);
  T block[group * panel<T>];
  for (int64_t first = 0; first < n_columns; first += panel<T>) {
    const int64_t width = std::min(panel<T>, n_columns - first);
    for (int64_t g = 0; g < replicate_block / group; ++g) {
      multiply_one(scratch.data() + g * n_units * group, counts.data() + first * n_units, n_units, block);
      for (int64_t r = 0; r < group; ++r)
        for (int64_t c = 0; c < width; ++c)
          sums[static_cast<size_t>((g * group + r) * n_columns + first + c)] =
              static_cast<double>(block[r * panel<T> + c]);
    }
  }
}

template <class T>
void fill_panels(std::vector<T>& out, int64_t n_units, int64_t n_columns,
                 const std::function<int64_t(int64_t, int64_t)>& at) {
  const int64_t n_panels = (n_columns + panel<T> - 1) / panel<T>;
  out.assign(static_cast<size_t>(n_panels * n_units * panel<T>), T(0));
  for (int64_t u = 0; u < n_units; ++u)
    for (int64_t c = 0; c < n_columns; ++c)
      out[static_cast<size_t>((c / panel<T> * n_units + u) * panel<T> + c % panel<T>)] = static_cast<T>(at(u, c));
}

}  // namespace

CountTable::CountTable(int64_t n_units, int64_t n_columns, int64_t total,
                       const std::function<int64_t(int64_t, int64_t)>& at)
    : n_units_(n_units), n_columns_(n_columns) {
  int64_t largest = 0;
  for (int64_t u = 0; u < n_units; ++u)
    for (int64_t c = 0; c < n_columns; ++c) largest = std::max(largest, std::abs(at(u, c)));
  const double bound = static_cast<double>(largest) * static_cast<double>(std::max<int64_t>(total, 1));
  if (bound >= 0x1p53) throw Error("contrast", "expected counts of which sums stay below 2^53, found larger ones");
  if (bound < 0x1p24)
    fill_panels(floats_, n_units, n_columns, at);
  else
    fill_panels(doubles_, n_units, n_columns, at);
}

void CountTable::multiply(std::span<const uint32_t> multiplicities, std::span<double> sums, Scratch& scratch) const {
  if (!floats_.empty())
    multiply_all(floats_, n_units_, n_columns_, multiplicities, sums, scratch.floats);
  else if (!doubles_.empty())
    multiply_all(doubles_, n_units_, n_columns_, multiplicities, sums, scratch.doubles);
  else
    std::fill(sums.begin(), sums.end(), 0.0);
}

}  // namespace signalbox::eval
