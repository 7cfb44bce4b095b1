// The values of a matrix of any dtype, in host memory.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "base/namespaces.h"
#include "engine/weights.h"
#include "kernels/tensor.h"

namespace signalbox::engine {

// Exact, whatever the dtype: of one row, out [cols]; of all, values [rows, cols].
void read_row(const Matrix& host, int64_t row, float* out);
void read_matrix(float* values, const Matrix& host);
std::vector<float> values_of(const Matrix& host);

// values [rows, cols] as f32, f16 or bf16, rounded to nearest, ties to even: a copy that `owners` keep alive.
Matrix stored_copy(const float* values, int64_t rows, int64_t cols, DType dtype,
                   std::vector<std::shared_ptr<const void>>& owners);
// The same, but of f32 the values themselves.
Matrix rounded(const float* values, int64_t rows, int64_t cols, DType dtype, Weights& owner);

}  // namespace signalbox::engine
