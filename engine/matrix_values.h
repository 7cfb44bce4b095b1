// The values of a matrix of any dtype, in host memory.
#pragma once
#include "base/namespaces.h"
#include "kernels/tensor.h"

namespace signalbox::engine {

// values [rows, cols]: exact, whatever the dtype.
void read_matrix(float* values, const Matrix& host);

}  // namespace signalbox::engine
