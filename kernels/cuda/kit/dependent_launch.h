// Launches whose kernel may start before the one before it in the stream has ended (programmatic dependent launch).
#pragma once
#include "base/error.h"
#include "kernels/cuda/runtime.h"

namespace signalbox::kernels::cuda {

// As launch() of runtime.h. The kernel has to wait_for_previous() before it touches what earlier ones write.
template <class... P, class... A>
void launch_dependent(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_memory,
                      Stream stream, A... arguments) {
  if (shared_memory > 48 * 1024) allow_shared_memory(reinterpret_cast<const void*>(kernel), shared_memory, name);
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_memory;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  const cudaError_t code = cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...);
  if (code != cudaSuccess) {
    cudaGetLastError();
    throw Error(std::string("kernel ") + name,
                std::string("expected a dependent launch, found ") + cudaGetErrorString(code));
  }
}

}  // namespace signalbox::kernels::cuda
