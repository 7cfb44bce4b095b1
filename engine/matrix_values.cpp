#include "engine/matrix_values.h"

#include <cstring>

#include "base/half.h"
#include "base/int_blocks.h"
#include "base/mxfp4.h"

namespace signalbox::engine {

void read_row(const Matrix& host, int64_t row, float* out) {
  const int64_t first = row * host.row_stride, n = host.cols;
  if (host.dtype == DType::f32) {
    std::memcpy(out, static_cast<const float*>(host.data) + first, static_cast<size_t>(n) * sizeof(float));
  } else if (in_blocks(host.dtype)) {
    const uint8_t* codes = static_cast<const uint8_t*>(host.data) + element_bytes(host.dtype, first);
    const uint8_t* scales = host.scales + row * host.scale_stride * scale_bytes(host.dtype);
    for (int64_t block = 0; block < n / weight_block; ++block) {
      const uint8_t* from = codes + element_bytes(host.dtype, block * weight_block);
      float* to = out + block * weight_block;
      if (host.dtype == DType::mxfp4) {
        floats_of_mxfp4(from, scales[block], to);
      } else if (host.dtype == DType::int8) {
        floats_of_int8(from, scales[block], to);
      } else {
        uint16_t scale;
        std::memcpy(&scale, scales + 2 * block, 2);
        floats_of_int4(from, scale, to);
      }
    }
  } else {
    // Stored tensors of two-byte values need not be aligned for them where a view begins at an odd row.
    const auto* bytes = static_cast<const std::byte*>(host.data) + first * 2;
    for (int64_t i = 0; i < n; ++i) {
      uint16_t half;
      std::memcpy(&half, bytes + 2 * i, 2);
      out[i] = host.dtype == DType::f16 ? float_of_f16(half) : float_of_bf16(half);
    }
  }
}

void read_matrix(float* values, const Matrix& host) {
  for (int64_t r = 0; r < host.rows; ++r) read_row(host, r, values + r * host.cols);
}

std::vector<float> values_of(const Matrix& host) {
  std::vector<float> out(static_cast<size_t>(host.rows * host.cols));
  read_matrix(out.data(), host);
  return out;
}

Matrix stored_copy(const float* values, int64_t rows, int64_t cols, DType dtype,
                   std::vector<std::shared_ptr<const void>>& owners) {
  const auto n = static_cast<size_t>(rows * cols);
  const size_t size = dtype_size(dtype);
  auto bytes = std::make_shared<std::vector<std::byte>>(n * size);
  for (size_t i = 0; i < n; ++i) put_float(bytes->data() + i * size, dtype, values[i]);
  const Matrix out{bytes->data(), dtype, rows, cols, cols, nullptr, 0};
  owners.push_back(std::move(bytes));
  return out;
}

Matrix rounded(const float* values, int64_t rows, int64_t cols, DType dtype, Weights& owner) {
  if (dtype == DType::f32) return {values, dtype, rows, cols, cols, nullptr, 0};
  return stored_copy(values, rows, cols, dtype, owner.owners);
}

}  // namespace signalbox::engine
