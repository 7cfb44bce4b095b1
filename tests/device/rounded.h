// Weights as a device holds them, rounded to bf16, for the CPU's side of a comparison.
#pragma once
#include <tuple>
#include <vector>

#include "tests/device/device.h"

namespace signalbox::test {

class RoundedMatrix {
 public:
  // scale: a power of two, or what shall be rounded after it.
  explicit RoundedMatrix(const StoredMatrix& stored, float scale = 1) {
    const Matrix& m = stored.matrix();
    values_.reserve(static_cast<size_t>(m.rows * m.cols));
    for (int64_t r = 0; r < m.rows; ++r) {
      for (int64_t c = 0; c < m.cols; ++c) {
        const float x = rounded_bf16(static_cast<float>(stored.value(r, c)) * scale);
        uint32_t bits;
        std::memcpy(&bits, &x, 4);
        values_.push_back(static_cast<uint16_t>(bits >> 16));
      }
    }
    rows_ = m.rows;
    cols_ = m.cols;
  }
  Matrix matrix() const {
    Matrix m;
    m.data = values_.data();
    m.dtype = DType::bf16;
    m.rows = rows_;
    m.cols = m.row_stride = cols_;
    return m;
  }
  uint16_t bits(int64_t r, int64_t c) const { return values_[static_cast<size_t>(r * cols_ + c)]; }

 private:
  std::vector<uint16_t> values_;
  int64_t rows_ = 0, cols_ = 0;
};

class RoundedExperts {
 public:
  explicit RoundedExperts(const StoredExperts& stored) : original_(stored.matrices()) {
    for (const auto& [from, kept, views] :
         {std::tuple{&stored.gate, &gate_, &gate_views_}, std::tuple{&stored.up, &up_, &up_views_},
          std::tuple{&stored.down, &down_, &down_views_}}) {
      for (const StoredMatrix& m : *from) kept->emplace_back(m);
      for (const RoundedMatrix& m : *kept) views->push_back(m.matrix());
    }
  }
  // Valid as long as what this was made of.
  ExpertMatrices matrices() const {
    ExpertMatrices m = original_;
    m.gate = gate_views_;
    m.up = up_views_;
    m.down = down_views_;
    return m;
  }

 private:
  ExpertMatrices original_;
  std::vector<RoundedMatrix> gate_, up_, down_;
  std::vector<Matrix> gate_views_, up_views_, down_views_;
};

}  // namespace signalbox::test
