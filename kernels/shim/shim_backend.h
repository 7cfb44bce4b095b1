// The kernels of kernels/cuda, run on the host thread by thread: their test on machines without a GPU.
#pragma once
#include <memory>

#include "base/namespaces.h"
#include "kernels/backend.h"

namespace signalbox::kernels {

std::unique_ptr<Backend> make_shim_backend(const CudaOptions& options);

}  // namespace signalbox::kernels
