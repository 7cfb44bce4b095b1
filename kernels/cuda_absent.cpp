// The functions of kernels/backend.h for CUDA in a build that has none of it; kernels/cuda/factory.cu has the others.
#include "base/error.h"
#include "kernels/backend.h"
#include "kernels/dense_library.h"

namespace signalbox::kernels {

bool built_with_cuda() { return false; }
std::string cuda_architectures() { return {}; }
DenseLibrary dense_library() { return {}; }
uint64_t dense_library_products() { return 0; }
std::string cuda_unavailable() { return "this binary was built without CUDA (tools/build --cuda)"; }
std::unique_ptr<Backend> make_cuda_backend(const CudaOptions& options) {
  throw Error("--device", "expected the CPU, found cuda:" + std::to_string(options.device) + ": " + cuda_unavailable());
}

}  // namespace signalbox::kernels
