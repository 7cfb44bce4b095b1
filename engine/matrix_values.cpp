#include "engine/matrix_values.h"

#include <cstring>
#include <memory>
#include <vector>

#include "base/half.h"
#include "base/mxfp4.h"

namespace signalbox::engine {

void read_matrix(float* values, const Matrix& host) {
  for (int64_t r = 0; r < host.rows; ++r, values += host.cols) {
    if (host.dtype == DType::mxfp4) {
      const uint8_t* codes = static_cast<const uint8_t*>(host.data) + r * host.row_stride / 2;
      for (int64_t b = 0; b < host.cols / mxfp4_block; ++b)
        floats_of_mxfp4(codes + b * mxfp4_block / 2, host.scales[r * host.scale_stride + b], values + b * mxfp4_block);
      continue;
    }
    const auto* row =
        static_cast<const std::byte*>(host.data) + r * host.row_stride * static_cast<int64_t>(dtype_size(host.dtype));
    if (host.dtype == DType::f32) {
      std::memcpy(values, row, static_cast<size_t>(host.cols) * sizeof(float));
      continue;
    }
    for (int64_t c = 0; c < host.cols; ++c) {
      uint16_t half;
      std::memcpy(&half, row + 2 * c, 2);
      values[c] = host.dtype == DType::f16 ? float_of_f16(half) : float_of_bf16(half);
    }
  }
}

Matrix rounded(const float* values, int64_t rows, int64_t cols, DType dtype, Weights& owner) {
  Matrix matrix;
  matrix.data = values;
  matrix.dtype = dtype;
  matrix.rows = rows;
  matrix.cols = matrix.row_stride = cols;
  if (dtype == DType::f32) return matrix;
  auto halves = std::make_shared<std::vector<uint16_t>>(static_cast<size_t>(rows * cols));
  for (size_t i = 0; i < halves->size(); ++i)
    (*halves)[i] = dtype == DType::f16 ? f16_of_float(values[i]) : bf16_of_float(values[i]);
  matrix.data = halves->data();
  owner.owners.push_back(std::move(halves));
  return matrix;
}

}  // namespace signalbox::engine
