// The values of a matrix of any dtype, in host memory.
#pragma once
#include "base/namespaces.h"
#include "engine/weights.h"
#include "kernels/tensor.h"

namespace signalbox::engine {

// values [rows, cols]: exact, whatever the dtype.
void read_matrix(float* values, const Matrix& host);

// values [rows, cols] in another dtype (f32, f16, bf16), rounded to nearest, ties to even: a copy that `owner` keeps
// alive; of f32 the values themselves.
Matrix rounded(const float* values, int64_t rows, int64_t cols, DType dtype, Weights& owner);

}  // namespace signalbox::engine
