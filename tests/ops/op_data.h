// Data for op tests: seeded values, buffers with guards, matrices in every stored dtype, and naive results in double.
#pragma once
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cases/experts.h"
#include "tests/tolerances.h"

namespace signalbox::test {

// A small generator of its own, so that test data never changes with a library.
class Noise {
 public:
  explicit Noise(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15ull + 1) {}
  uint64_t bits() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_ * 0x2545f4914f6cdd1dull;
  }
  int64_t below(int64_t n) { return static_cast<int64_t>((bits() >> 33) % static_cast<uint64_t>(n)); }
  double unit() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  // Roughly normal, variance 1.
  float normal() {
    double sum = 0;
    for (int i = 0; i < 6; ++i) sum += unit();
    return static_cast<float>((sum - 3) * 1.41421356);
  }

 private:
  uint64_t state_;
};

// [rows, cols] with a stride of cols + 3: the padding and two guard rows hold NaN, and check_guards() sees to it that
// they still do.
class Guarded {
 public:
  Guarded(int64_t rows, int64_t cols)
      : rows_(rows), cols_(cols), data_(static_cast<size_t>((rows + 2) * (cols + 3)), guard()) {}
  Guarded(int64_t rows, int64_t cols, uint64_t seed) : Guarded(rows, cols) {
    Noise noise(seed);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) at(r, c) = noise.normal();
    }
  }
  Tensor view() { return Tensor(data_.data() + cols_ + 3, rows_, cols_, cols_ + 3); }
  Tensor row(int64_t r) { return Tensor(view().row(r), 1, cols_, cols_ + 3); }
  float& at(int64_t r, int64_t c) { return view().row(r)[c]; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  bool guards_hold() const {
    for (size_t i = 0; i < data_.size(); ++i) {
      const int64_t r = static_cast<int64_t>(i) / (cols_ + 3) - 1, c = static_cast<int64_t>(i) % (cols_ + 3);
      const bool inside = r >= 0 && r < rows_ && c < cols_;
      const float expected = guard();
      if (!inside && std::memcmp(&data_[i], &expected, 4) != 0) return false;
    }
    return true;
  }

 private:
  static float guard() {
    const uint32_t bits = 0x7fc0beef;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
  }
  int64_t rows_, cols_;
  std::vector<float> data_;
};

inline bool same_bits(Tensor a, Tensor b) {
  if (a.rows != b.rows || a.cols != b.cols) return false;
  for (int64_t r = 0; r < a.rows; ++r) {
    if (std::memcmp(a.row(r), b.row(r), static_cast<size_t>(a.cols) * 4) != 0) return false;
  }
  return true;
}

inline bool near(double got, double want, double magnitude, const Tolerance& tolerance) {
  return std::abs(got - want) <= tolerance.absolute + tolerance.relative * magnitude;
}

// A weight matrix in one stored dtype, with its values in double. Rows are row_gap elements longer than cols; the
// memory ends with the last row, so that a sanitizer sees a read past it, and begins at an odd address.
class StoredMatrix {
 public:
  StoredMatrix(DType dtype, int64_t rows, int64_t cols, uint64_t seed, int64_t row_gap = 0);
  const Matrix& matrix() const { return matrix_; }
  double value(int64_t r, int64_t c) const { return values_[static_cast<size_t>(r * matrix_.cols + c)]; }

 private:
  Matrix matrix_;
  std::unique_ptr<unsigned char[]> bytes_, scales_;
  std::vector<double> values_;
};

inline std::unique_ptr<Backend> cpu(const std::string& isa = "auto", int n_threads = 2) {
  CpuOptions options;
  options.isa = isa;
  options.n_threads = n_threads;
  return make_cpu_backend(options);
}

// The instruction sets of this machine, "scalar" first.
std::vector<std::string> machine_isas();

// [n_experts] experts as the ops take them.
struct StoredExperts {
  StoredExperts(DType dtype, int64_t n_experts, int64_t d_model, int64_t d_ff, bool bias, uint64_t seed);
  ExpertMatrices matrices() const;
  std::vector<StoredMatrix> gate, up, down;
  std::vector<std::vector<float>> gate_bias, up_bias, down_bias;

 private:
  std::vector<Matrix> gate_views, up_views, down_views;
  std::vector<Vector> gate_bias_views, up_bias_views, down_bias_views;
};

// A route made by hand: ids [n_tokens * n_slots], weights alike.
struct HandRoute {
  HandRoute(int64_t n_tokens, int32_t n_slots, int64_t n_experts)
      : ids(static_cast<size_t>(n_tokens * n_slots), -1),
        weights(ids.size(), 0.f),
        banned(static_cast<size_t>(n_tokens * n_experts), 0),
        n_slots(n_slots) {}
  Route view() {
    Route route;
    route.n_slots = n_slots;
    route.ids = ids.data();
    route.weights = weights.data();
    route.banned = banned.data();
    return route;
  }
  std::vector<int32_t> ids;
  std::vector<float> weights;
  std::vector<uint8_t> banned;
  int32_t n_slots;
};

// The route of a case, with random weights.
HandRoute make_route(const cases::Experts& c, uint64_t seed = 9);

}  // namespace signalbox::test
