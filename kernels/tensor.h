// Views of memory that ops read and write. Nothing here owns memory or knows models and files.
#pragma once
#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "base/namespaces.h"

namespace signalbox::kernels {

// Activations: a row-major view [rows, cols] with `stride` elements from one row to the next. f32 everywhere on the
// CPU; on a device, what feeds a matrix product may be bf16 (Backend::operand_dtype), and `data` is then only the
// address of the first element: as<T>() gives it its type. Higher ranks are folded: [n_tokens, n_active, d_model] is
// rows = n_tokens * n_active.
struct Tensor {
  float* data = nullptr;
  int64_t rows = 0, cols = 0, stride = 0;
  DType dtype = DType::f32;  // f32 or bf16

  Tensor() = default;
  Tensor(float* data, int64_t rows, int64_t cols) : Tensor(data, rows, cols, cols) {}
  Tensor(float* data, int64_t rows, int64_t cols, int64_t stride, DType dtype = DType::f32)
      : data(data), rows(rows), cols(cols), stride(stride), dtype(dtype) {}
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data);
  }
  float* row(int64_t r) const { return data + r * stride; }  // f32 only
  bool contiguous() const { return stride == cols; }
  // The same contiguous memory seen as [rows * factor, cols / factor]: heads or slots as rows.
  Tensor split(int64_t factor) const { return Tensor(data, rows * factor, cols / factor, cols / factor, dtype); }
  Tensor columns(int64_t first, int64_t count) const { return Tensor(offset(first), rows, count, stride, dtype); }
  Tensor first_rows(int64_t count) const { return Tensor(data, count, cols, stride, dtype); }
  Tensor rows_from(int64_t first, int64_t count) const {
    return Tensor(offset(first * stride), count, cols, stride, dtype);
  }
  explicit operator bool() const { return data != nullptr; }

 private:
  float* offset(int64_t elements) const {
    return dtype == DType::f32 ? data + elements : reinterpret_cast<float*>(as<uint16_t>() + elements);
  }
};

// A weight matrix [rows = outputs, cols = inputs] in its stored dtype, read in place (memory-mapped files included).
struct Matrix {
  const void* data = nullptr;
  DType dtype = DType::f32;  // f32, f16, bf16, mxfp4, int8 or int4
  int64_t rows = 0, cols = 0;
  int64_t row_stride = 0;  // elements from one row to the next; interleaved gate and up rows have 2 * cols
  // In blocks (base/mxfp4.h, base/int_blocks.h): data holds the codes, and number r * scale_stride + c / 32 of `scales`
  // is that of the element's block: a byte, of int4 a bf16 number.
  const uint8_t* scales = nullptr;
  int64_t scale_stride = 0;
  explicit operator bool() const { return data != nullptr; }
};

// Bytes of a matrix as it is stored, scales included.
inline int64_t stored_bytes(const Matrix& matrix) {
  const int64_t n = matrix.rows * matrix.cols;
  return element_bytes(matrix.dtype, n) + n / weight_block * scale_bytes(matrix.dtype);
}

// A small weight vector (norms, biases, sinks), always f32 and contiguous.
struct Vector {
  const float* data = nullptr;
  int64_t n = 0;
  explicit operator bool() const { return data != nullptr; }
};

}  // namespace signalbox::kernels
