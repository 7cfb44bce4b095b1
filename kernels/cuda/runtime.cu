// runtime.h on the CUDA runtime. Each failing call ends as one Error that says what was being done.
#include <map>
#include <mutex>
#include <utility>

#include "kernels/cuda/runtime.h"

// "sm_80 sm_90a compute_80", from the build.
#if !defined(SIGNALBOX_GPU_ARCHITECTURES)
#define SIGNALBOX_GPU_ARCHITECTURES "others"
#endif

namespace signalbox::kernels::cuda {

namespace {

constexpr int least_major = 8, least_minor = 0;  // bf16 matrix instructions, asynchronous copies

// Errors that the oldest toolkits have no names for.
constexpr auto contained = static_cast<cudaError_t>(226), tensor_memory_leak = static_cast<cudaError_t>(721);

// 12040 -> "12.4"
std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}
std::string capability_text(int major, int minor) { return std::to_string(major) + "." + std::to_string(minor); }

int driver_version() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

// What to do about an error, or empty.
const char* advice(cudaError_t code) {
  switch (code) {
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorHardwareStackError:
    case contained: return "; the device must be reset (nvidia-smi --gpu-reset) and this process started again";
    case cudaErrorIllegalAddress:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case tensor_memory_leak:
    case cudaErrorExternalDevice:
      return "; a kernel that ran before this has failed, and this process cannot use the device any more";
    case cudaErrorDevicesUnavailable:
      return "; another process has the device for itself (nvidia-smi --query-gpu=compute_mode)";
    case cudaErrorSystemNotReady: return "; the system's fabric manager does not run yet";
    case cudaErrorSystemDriverMismatch:
      return "; the driver's kernel module and its libraries are of two versions: restart the machine";
    case cudaErrorCompatNotSupportedOnDevice: return "; the CUDA compatibility libraries do not support this device";
    default: return "";
  }
}

std::string text_of(cudaError_t code) {
  return std::string(cudaGetErrorString(code)) + " (" + cudaGetErrorName(code) + ")" + advice(code);
}

std::string no_image_text(int index) {
  int major = 0, minor = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index);
  cudaGetLastError();
  return "expected a device that this build has kernels for (" SIGNALBOX_GPU_ARCHITECTURES
         "), found compute capability " +
         capability_text(major, minor);
}

// Throws unless code is success. `where` is what was being done.
void check(cudaError_t code, const std::string& where, const std::string& expected = "success") {
  if (code == cudaSuccess) return;
  cudaGetLastError();  // the next call must not find it again
  int index = 0;
  if (code == cudaErrorNoKernelImageForDevice && cudaGetDevice(&index) == cudaSuccess)
    throw Error(where, no_image_text(index));
  throw Error(where, "expected " + expected + ", found " + text_of(code));
}

// The number of devices, or why there is none.
std::pair<int, std::string> count_devices() {
  int n = 0;
  const cudaError_t code = cudaGetDeviceCount(&n);
  if (code != cudaSuccess) cudaGetLastError();
  const int version = driver_version();
  if (version == 0 && code != cudaSuccess) return {0, "no NVIDIA driver found"};
  if (code == cudaErrorInsufficientDriver)
    return {0, "expected an NVIDIA driver for CUDA " + version_text(CUDART_VERSION / 1000 * 1000) +
                   " or newer, found one for CUDA " + version_text(version)};
  if (code == cudaErrorNoDevice || (code == cudaSuccess && n == 0))
    return {0, "expected an NVIDIA GPU, the driver (for CUDA " + version_text(version) + ") found none"};
  if (code != cudaSuccess) return {0, "expected an NVIDIA GPU, found " + text_of(code)};
  return {n, {}};
}

int attribute(cudaDeviceAttr which, int index) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, index), "properties of device " + std::to_string(index));
  return value;
}

// Why this device cannot be used, or empty.
std::string unsupported(int index) {
  const int major = attribute(cudaDevAttrComputeCapabilityMajor, index);
  const int minor = attribute(cudaDevAttrComputeCapabilityMinor, index);
  if (major > least_major || (major == least_major && minor >= least_minor)) return {};
  cudaDeviceProp properties;
  const std::string name = cudaGetDeviceProperties(&properties, index) == cudaSuccess ? properties.name : "it";
  return "expected compute capability " + capability_text(least_major, least_minor) + " or higher, found " +
         capability_text(major, minor) + " (" + name + ")";
}

// Asked for its attributes, to learn whether this build has code for a device.
__global__ void probe_kernel() {}

std::string bytes_text(size_t bytes) {
  return std::to_string(bytes) + " bytes (" + std::to_string(bytes >> 20) + " MiB)";
}

}  // namespace

std::string unavailable() {
  try {
    const auto [n, reason] = count_devices();
    if (n == 0) return reason;
    std::string first;
    for (int i = 0; i < n; ++i) {
      const std::string why = unsupported(i);
      if (why.empty()) return {};
      if (i == 0) first = "device 0: " + why;
    }
    return first;
  } catch (const std::exception& e) {
    return e.what();
  }
}

DeviceInfo open_device(int index) {
  const std::string where = "--device cuda:" + std::to_string(index);
  const auto [n, reason] = count_devices();
  if (n == 0) throw Error(where, reason);
  if (index < 0 || index >= n)
    throw Error(where, "expected a device from 0 to " + std::to_string(n - 1) + " (this machine has " +
                           std::to_string(n) + "), found " + std::to_string(index));
  const std::string why = unsupported(index);
  if (!why.empty()) throw Error(where, why);
  check(cudaSetDevice(index), where, "to open the device");
  check(cudaFree(nullptr), where, "to open the device");  // makes the context, where setting the device has not
  cudaFuncAttributes attributes;
  const cudaError_t probed = cudaFuncGetAttributes(&attributes, probe_kernel);
  if (probed == cudaErrorNoKernelImageForDevice || probed == cudaErrorInvalidDeviceFunction) {
    cudaGetLastError();
    throw Error(where, no_image_text(index));
  }
  check(probed, where, "to load this build's kernels");

  DeviceInfo info;
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, index), where);
  info.name = properties.name;
  info.index = index;
  info.major = properties.major;
  info.minor = properties.minor;
  info.n_processors = properties.multiProcessorCount;
  info.total_bytes = properties.totalGlobalMem;
  info.l2_bytes = static_cast<size_t>(properties.l2CacheSize);
  info.shared_bytes = properties.sharedMemPerBlockOptin;
  info.driver_version = driver_version();
  info.clock_khz = attribute(cudaDevAttrClockRate, index);
  info.memory_clock_khz = attribute(cudaDevAttrMemoryClockRate, index);
  return info;
}

size_t free_device_bytes() {
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "free device memory");
  return free;
}

void* allocate_device(size_t bytes) {
  void* p = nullptr;
  const cudaError_t code = cudaMalloc(&p, bytes == 0 ? 1 : bytes);
  if (code == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t free = 0, total = 0;
    const bool known = cudaMemGetInfo(&free, &total) == cudaSuccess;
    throw Error("device memory", "expected room for " + bytes_text(bytes) + ", found " +
                                     (known ? bytes_text(free) + " free of " + bytes_text(total) : "less"));
  }
  check(code, "device memory", "room for " + bytes_text(bytes));
  return p;
}
void free_device(void* p) noexcept {
  if (p && cudaFree(p) != cudaSuccess) cudaGetLastError();
}

void* allocate_pinned(size_t bytes) {
  void* p = nullptr;
  const cudaError_t code = cudaHostAlloc(&p, bytes == 0 ? 1 : bytes, cudaHostAllocPortable);
  check(code, "pinned host memory", "room for " + bytes_text(bytes));
  return p;
}
void free_pinned(void* p) noexcept {
  if (p && cudaFreeHost(p) != cudaSuccess) cudaGetLastError();
}

Stream make_stream() {
  Stream stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "CUDA stream", "a new one");
  return stream;
}
void destroy_stream(Stream stream) noexcept {
  if (stream && cudaStreamDestroy(stream) != cudaSuccess) cudaGetLastError();
}
void synchronize(Stream stream) { check(cudaStreamSynchronize(stream), "waiting for the device", "its work done"); }

void copy_async(void* to, const void* from, size_t bytes, Stream stream) {
  if (bytes == 0) return;
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream), "copy of " + std::to_string(bytes) + " bytes");
}
void fill_async(void* to, uint8_t byte, size_t bytes, Stream stream) {
  if (bytes == 0) return;
  check(cudaMemsetAsync(to, byte, bytes, stream), "fill of " + std::to_string(bytes) + " bytes");
}

struct Event::State {
  cudaEvent_t event = nullptr;
};
Event::Event(bool timing) : state_(std::make_unique<State>()) {
  check(cudaEventCreateWithFlags(&state_->event, timing ? cudaEventDefault : cudaEventDisableTiming), "CUDA event",
        "a new one");
}
Event::~Event() {
  if (cudaEventDestroy(state_->event) != cudaSuccess) cudaGetLastError();
}
void Event::record(Stream stream) { check(cudaEventRecord(state_->event, stream), "recording a CUDA event"); }
void Event::synchronize() { check(cudaEventSynchronize(state_->event), "waiting for the device", "its work done"); }
bool Event::done() const {
  const cudaError_t code = cudaEventQuery(state_->event);
  if (code == cudaErrorNotReady) {
    cudaGetLastError();
    return false;
  }
  check(code, "asking for a CUDA event");
  return true;
}
void Event::hold(Stream stream) { check(cudaStreamWaitEvent(stream, state_->event, 0), "waiting for a CUDA event"); }
double Event::seconds(Event& from, Event& to) {
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, from.state_->event, to.state_->event), "time between CUDA events");
  return static_cast<double>(milliseconds) * 1e-3;
}

struct Graph::State {
  cudaGraphExec_t graph = nullptr;
};
Graph::Graph(std::unique_ptr<State> state) : state_(std::move(state)) {}
Graph::~Graph() {
  if (cudaGraphExecDestroy(state_->graph) != cudaSuccess) cudaGetLastError();
}
void Graph::begin(Stream stream) {
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "CUDA graph", "to begin a capture");
}
std::unique_ptr<Graph> Graph::end(Stream stream) {
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(stream, &graph), "CUDA graph", "a capture without synchronising calls");
  auto state = std::make_unique<State>();
  const cudaError_t code = cudaGraphInstantiate(&state->graph, graph, 0);
  cudaGraphDestroy(graph);
  if (code == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  check(code, "CUDA graph", "to make what was captured executable");
  std::unique_ptr<Graph> made(new Graph(std::move(state)));
  const cudaError_t uploaded = cudaGraphUpload(made->state_->graph, stream);
  if (uploaded == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  check(uploaded, "CUDA graph", "to upload it");
  return made;
}
void Graph::launch(Stream stream) { check(cudaGraphLaunch(state_->graph, stream), "CUDA graph", "to launch it"); }

void check_launch(const char* name) {
  const cudaError_t code = cudaGetLastError();
  if (code != cudaSuccess) check(code, std::string("kernel ") + name, "to launch it");
}

void allow_shared_memory(const void* kernel, size_t bytes, const char* name) {
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, size_t> allowed;  // by kernel and device
  const std::string where = std::string("kernel ") + name;
  int index = 0;
  check(cudaGetDevice(&index), where);
  const std::lock_guard<std::mutex> lock(mutex);
  size_t& most = allowed[{kernel, index}];
  if (bytes <= most) return;
  const size_t limit = static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, index));
  if (bytes > limit)
    throw Error(where, "expected at most " + std::to_string(limit) + " bytes of shared memory a block, found " +
                           std::to_string(bytes));
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)), where,
        std::to_string(bytes) + " bytes of shared memory a block");
  most = bytes;
}

}  // namespace signalbox::kernels::cuda
