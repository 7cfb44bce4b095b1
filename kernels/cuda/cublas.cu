#include "kernels/cuda/cublas.h"
#include "kernels/dense_library.h"

#if __has_include(<cublas_v2.h>)
#define SIGNALBOX_CUBLAS 1
#include <cublas_v2.h>
#include <dlfcn.h>

#include <atomic>
#include <map>
#include <mutex>
#endif

namespace signalbox::kernels::DEVICE_SPACE {

#if defined(SIGNALBOX_CUBLAS)

namespace {

// With memory of its own the library allocates none, so that its kernels can be captured. What NVIDIA asks for on
// sm_90; earlier devices need less.
constexpr size_t workspace_bytes = size_t{32} << 20;

// cublasGemmEx; the header has overloads of it for C++.
using Gemm = cublasStatus_t(CUBLASWINAPI*)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int m, int n, int k,
                                           const void* alpha, const void* a, cudaDataType, int lda, const void* b,
                                           cudaDataType, int ldb, const void* beta, void* c, cudaDataType, int ldc,
                                           cublasComputeType_t, cublasGemmAlgo_t);

// The functions of the library that are used. Null: not found.
struct Library {
  decltype(&cublasCreate_v2) create = nullptr;
  decltype(&cublasSetStream_v2) set_stream = nullptr;
  decltype(&cublasSetWorkspace_v2) set_workspace = nullptr;
  Gemm gemm = nullptr;
  decltype(&cublasGetProperty) property = nullptr;
  bool loaded() const { return create && set_stream && set_workspace && gemm; }

  Library() {
    // Versions 12 and 13 agree in what is used here.
    void* library = nullptr;
    for (const char* name : {"libcublas.so.13", "libcublas.so.12", "libcublas.so"}) {
      if (!library) library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    }
    if (!library) return;
    create = reinterpret_cast<decltype(create)>(dlsym(library, "cublasCreate_v2"));
    set_stream = reinterpret_cast<decltype(set_stream)>(dlsym(library, "cublasSetStream_v2"));
    set_workspace = reinterpret_cast<decltype(set_workspace)>(dlsym(library, "cublasSetWorkspace_v2"));
    gemm = reinterpret_cast<decltype(gemm)>(dlsym(library, "cublasGemmEx"));
    property = reinterpret_cast<decltype(property)>(dlsym(library, "cublasGetProperty"));
  }
};

const Library& library() {
  static const Library loaded;
  return loaded;
}

// A device's handle and workspace, which live as long as the process.
struct Handle {
  bool tried = false;
  cublasHandle_t handle = nullptr;
  void* workspace = nullptr;
};
std::mutex handles_mutex;
std::atomic<uint64_t> n_products = 0;
std::map<int, Handle> handles;  // by device

// Null: there is none, and, while `stream` is being captured, none can be made.
Handle* handle_of(Stream stream) {
  int device = 0;
  if (!library().loaded() || cudaGetDevice(&device) != cudaSuccess) return nullptr;
  Handle& h = handles[device];
  if (!h.tried) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    if (stream && (cudaStreamIsCapturing(stream, &status) != cudaSuccess || status != cudaStreamCaptureStatusNone))
      return nullptr;
    h.tried = true;
    try {
      h.workspace = allocate_device(workspace_bytes);
    } catch (const Error&) {  // no room: the products are made without the library
      return nullptr;
    }
    if (library().create(&h.handle) != CUBLAS_STATUS_SUCCESS) h.handle = nullptr;
    if (!h.handle) free_device(h.workspace);
  }
  return h.handle ? &h : nullptr;
}

}  // namespace

bool cublas_available() {
  const std::lock_guard lock(handles_mutex);
  return handle_of(nullptr) != nullptr;
}

bool cublas_matmul(Stream stream, Tensor out, Tensor x, const Matrix& w, bool accumulate) {
  constexpr int64_t most = 0x7fffffff;
  if (x.rows > most || w.rows > most || w.cols > most || x.stride > most || w.row_stride > most || out.stride > most)
    return false;
  const std::lock_guard lock(handles_mutex);
  Handle* h = handle_of(stream);
  if (!h) return false;
  // Every time: a new stream may have the address of one that is gone, and takes the workspace away.
  if (library().set_stream(h->handle, stream) != CUBLAS_STATUS_SUCCESS ||
      library().set_workspace(h->handle, h->workspace, workspace_bytes) != CUBLAS_STATUS_SUCCESS)
    return false;
  // Column-major there: out^T [n, m] = (w as [k, n])^T (x as [k, m]).
  const float one = 1, zero = 0;
  const cublasStatus_t status =
      library().gemm(h->handle, CUBLAS_OP_T, CUBLAS_OP_N, static_cast<int>(w.rows), static_cast<int>(x.rows),
                     static_cast<int>(w.cols), &one, w.data, CUDA_R_16BF, static_cast<int>(w.row_stride), x.data,
                     CUDA_R_16BF, static_cast<int>(x.stride), accumulate ? &one : &zero, out.data, CUDA_R_32F,
                     static_cast<int>(out.stride), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
  if (status != CUBLAS_STATUS_SUCCESS) return false;
  ++n_products;
  return true;
}

#else

bool cublas_available() { return false; }
bool cublas_matmul(Stream, Tensor, Tensor, const Matrix&, bool) { return false; }

#endif

}  // namespace signalbox::kernels::DEVICE_SPACE

namespace signalbox::kernels {

DenseLibrary dense_library() {
  DenseLibrary facts;
#if defined(SIGNALBOX_CUBLAS)
  const auto& library = cuda::library();
  Dl_info info;
  if (!library.loaded() || !dladdr(reinterpret_cast<const void*>(library.gemm), &info)) return facts;
  facts.file = info.dli_fname;
  for (const auto part : {MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL}) {
    int value = 0;
    if (!library.property || library.property(part, &value) != CUBLAS_STATUS_SUCCESS) continue;
    if (!facts.version.empty()) facts.version.push_back('.');
    facts.version.append(std::to_string(value));
  }
#endif
  return facts;
}

uint64_t dense_library_products() {
#if defined(SIGNALBOX_CUBLAS)
  return cuda::n_products;
#else
  return 0;
#endif
}

}  // namespace signalbox::kernels
