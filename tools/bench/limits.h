// What the machine can do at most, measured in the same run as what is compared with it.
#pragma once
#include <cstddef>
#include <string>

#include "base/json.h"
#include "base/namespaces.h"
#include "kernels/backend.h"
#include "tools/bench/timer.h"

namespace signalbox::tools {

struct MachineLimits {
  double gbytes = 0;  // GB/s between memory and processors
  double gflops = 0;
  double small_page_gbytes = 0;  // the CPU: the same from pages of 4 KiB
  bool huge_pages = false;       // the CPU: gbytes was read from pages of 2 MiB
  std::string gbytes_measured;   // by what: "read", "copy, bytes read and written"
  std::string gflops_measured;
  bool device = false;  // not the CPU
  // The product was made by the project's own kernel, so that shares of it say nothing of the device.
  bool own_kernel = false;

  // The least time that so much work can take: neither limit can be passed.
  double least_seconds(double flops, double bytes) const;
};

struct LimitOptions {
  size_t buffer_bytes = size_t{1} << 30;  // larger than any cache
  int64_t product_size = 8192;            // of a device's product: [n, n] x [n, n]
  double seconds = 1.5;
};

// The CPU: summing a buffer, and independent f32 fused multiply-adds in registers, on all threads.
MachineLimits measure_cpu_limits(const CpuOptions& cpu, const LimitOptions& options);
// A device: a copy within its memory, and a large bf16 product by the backend's own matmul.
MachineLimits measure_device_limits(Backend& backend, const LimitOptions& options);

// cuBLAS as it was loaded: {"file", "version"}, or "not found".
json::Value cublas_json();

// Adds the limits to a JSON object, under their own names on the CPU as well (read_gbytes_per_second, fma_gflops).
void set_limits(json::Value& object, const MachineLimits& limits);

}  // namespace signalbox::tools
