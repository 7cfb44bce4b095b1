// The functions of kernels/backend.h that a build with CUDA has; kernels/cuda_absent.cpp has those of one without.
#include "kernels/cuda/cuda_backend.h"

namespace signalbox::kernels {

bool built_with_cuda() { return true; }
std::string cuda_architectures() { return SIGNALBOX_GPU_ARCHITECTURES; }
std::string cuda_unavailable() { return cuda::unavailable(); }
std::unique_ptr<Backend> make_cuda_backend(const CudaOptions& options) {
  return std::make_unique<cuda::CudaBackend>(options);
}

}  // namespace signalbox::kernels
