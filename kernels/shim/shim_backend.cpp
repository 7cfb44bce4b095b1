#include "kernels/shim/shim_backend.h"

#include "kernels/cuda/cuda_backend.h"

namespace signalbox::kernels {

std::unique_ptr<Backend> make_shim_backend(const CudaOptions& options) {
  return std::make_unique<shim::CudaBackend>(options);
}

}  // namespace signalbox::kernels
