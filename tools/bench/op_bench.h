// Speed of the op vocabulary on this machine, against limits measured in the same run.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace signalbox {

struct OpSpeed {
  std::string op, shape;
  double seconds = 0;      // of one call: the fastest of several
  double flops = 0;        // floating-point operations of one call
  double bytes = 0;        // bytes that one call must read or write once: weights, keys and values, outputs
  double gflops() const { return flops / seconds * 1e-9; }
  double gbytes() const { return bytes / seconds * 1e-9; }
};

struct MachineLimits {
  double read_gbytes = 0;  // GB/s of summing a buffer that no cache holds, all threads
  double fma_gflops = 0;   // GFLOP/s of independent f32 fused multiply-adds in registers, all threads
};

struct OpBenchOptions {
  CpuOptions cpu;
  size_t read_buffer_bytes = size_t{1} << 30;
  double seconds_per_op = 0.5;   // time spent on repeating each measurement
  bool prefill = true;           // the measurements with many rows too
};

MachineLimits measure_limits(const OpBenchOptions& options);

// Runs every measurement in turn and reports each as it is made.
void bench_ops(const OpBenchOptions& options, const std::function<void(const OpSpeed&)>& report);

}  // namespace signalbox
