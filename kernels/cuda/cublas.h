// cuBLAS for large dense products, loaded when first asked for. Without the library nothing here does anything.
#pragma once
#include "base/namespaces.h"
#include "kernels/cuda/runtime.h"

namespace signalbox::kernels::DEVICE_SPACE {

#if defined(SIGNALBOX_SHIM)

inline bool cublas_available() { return false; }
inline bool cublas_matmul(Stream, Tensor, Tensor, const Matrix&, bool) { return false; }

#else

// The library has been found, loaded and given a handle for the current device.
bool cublas_available();

// out += x w^T, f32 += bf16 * bf16 (accumulate), or out = x w^T. False: nothing was done.
bool cublas_matmul(Stream stream, Tensor out, Tensor x, const Matrix& w, bool accumulate);

#endif

}  // namespace signalbox::kernels::DEVICE_SPACE
