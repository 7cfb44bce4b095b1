// The library that makes large dense products on a GPU: cuBLAS where it is found at run time, else nothing, and the
// products are made by the project's own kernels.
#pragma once
#include <cstdint>
#include <string>

#include "base/namespaces.h"

namespace signalbox::kernels {

struct DenseLibrary {
  std::string file;     // as loaded; empty: not found
  std::string version;  // "13.1.0"
};
// Looks for the library where that has not been done. Empty in a build without CUDA.
DenseLibrary dense_library();
// Products that it has made in this process.
uint64_t dense_library_products();

}  // namespace signalbox::kernels
