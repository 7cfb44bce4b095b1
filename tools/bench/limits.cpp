#include "tools/bench/limits.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <thread>
#include <vector>

#include "base/memory.h"
#include "base/thread_pool.h"
#include "kernels/cpu/isa.h"
#include "kernels/dense_library.h"
#include "tools/bench/random_memory.h"

namespace signalbox::tools {

namespace {

template <class F>
double fastest(double budget, F f) {
  double best = INFINITY;
  const double start = now();
  for (int i = 0; i < 3 || now() - start < budget; ++i) {
    const double begin = now();
    f();
    best = std::min(best, now() - begin);
  }
  return best;
}

}  // namespace

double MachineLimits::least_seconds(double flops, double bytes) const {
  return std::max(flops / (gflops * 1e9), bytes / (gbytes * 1e9));
}

MachineLimits measure_cpu_limits(const CpuOptions& cpu, const LimitOptions& options) {
  const cpu::Kernels& kernels = cpu::choose_kernels(cpu.isa);
  ThreadPool pool(cpu.n_threads > 0 ? cpu.n_threads
                                    : static_cast<int>(std::max(1u, std::thread::hardware_concurrency())));
  const int64_t n = static_cast<int64_t>(options.buffer_bytes / sizeof(float)), piece = 1 << 18;
  std::vector<float> sums(static_cast<size_t>(pool.n_threads()), 0.f);  // keeps the reads from being dropped
  const auto threads = static_cast<int64_t>(pool.n_threads());
  MachineLimits limits;
  const auto read = [&](float* buffer) {
    pool.parallel_for((n + piece - 1) / piece,
                      [&](int64_t i, int) { std::fill_n(buffer + i * piece, std::min(piece, n - i * piece), 1.f); });
    const double seconds = fastest(options.seconds / 2, [&] {
      pool.parallel_for((n + piece - 1) / piece, [&](int64_t i, int thread) {
        sums[static_cast<size_t>(thread)] += kernels.read_sum(buffer + i * piece, std::min(piece, n - i * piece));
      });
    });
    return static_cast<double>(n) * 4e-9 / seconds;
  };
  const size_t bytes = static_cast<size_t>(n) * sizeof(float);
  {
    const HugeMemory buffer(bytes, HugeMemory::Pages::small);
    limits.small_page_gbytes = read(reinterpret_cast<float*>(buffer.data()));
  }
  {
    const HugeMemory buffer(bytes);
    limits.gbytes = read(reinterpret_cast<float*>(buffer.data()));
    limits.huge_pages = buffer.huge_bytes() * 10 >= static_cast<int64_t>(bytes) * 9;
  }
  // Whichever pages the system reads faster are the limit.
  limits.gbytes = std::max(limits.gbytes, limits.small_page_gbytes);
  limits.gbytes_measured = limits.huge_pages ? "read, 2 MiB pages" : "read";
  const int64_t steps = 2000000, repeats = 4;  // steps of 12 * 16 multiply-adds
  const double fma = fastest(options.seconds / 3, [&] {
    pool.parallel_for(threads * repeats, [&](int64_t, int thread) {
      sums[static_cast<size_t>(thread)] += kernels.fma_run(steps / repeats);
    });
  });
  limits.gflops = static_cast<double>(threads * steps) * 12 * 16 * 2e-9 / fma;
  limits.gflops_measured = "f32 FMA";
  return limits;
}

MachineLimits measure_device_limits(Backend& backend, const LimitOptions& options) {
  MachineLimits limits;
  limits.device = true;
  Timer timer(backend, {options.seconds / 15, 5});
  RandomMemory memory(true, std::min<size_t>(options.buffer_bytes, size_t{64} << 20));
  {
    const size_t bytes = options.buffer_bytes;
    const auto from = backend.allocate(bytes), to = backend.allocate(bytes);
    backend.upload(from.get(), memory.view(RandomMemory::Kind::nibbles, bytes).get(), bytes);
    const double seconds = timer.measure(1, [&](int64_t) { backend.copy(to.get(), from.get(), bytes); }).seconds;
    limits.gbytes = 2e-9 * static_cast<double>(bytes) / seconds;
    limits.gbytes_measured = "copy, bytes read and written";
  }
  {
    const int64_t n = options.product_size;
    const auto x = backend.allocate(static_cast<size_t>(n * n) * 4),
               out = backend.allocate(static_cast<size_t>(n * n) * 4);
    const DType operand = backend.operand_dtype();
    const auto kind = operand == DType::f32 ? RandomMemory::Kind::unit : RandomMemory::Kind::embeddings;
    const size_t bytes = static_cast<size_t>(n * n) * dtype_size(operand);
    backend.upload(x.get(), memory.view(kind, bytes).get(), bytes);
    Matrix host;
    const auto values = memory.view(RandomMemory::Kind::weights, static_cast<size_t>(n * n) * 2);
    host.data = values.get();
    host.dtype = DType::bf16;
    host.rows = host.cols = host.row_stride = n;
    const Backend::Uploaded w = backend.upload_matrix(host, false);
    const uint64_t before = dense_library_products();
    const double seconds =
        timer
            .measure(1,
                     [&](int64_t) {
                       backend.matmul(Tensor(static_cast<float*>(out.get()), n, n),
                                      Tensor(static_cast<float*>(x.get()), n, n, n, operand), w.matrix, {});
                     })
            .seconds;
    limits.gflops = 2e-9 * std::pow(static_cast<double>(n), 3) / seconds;
    limits.gflops_measured = "bf16 product of " + std::to_string(n) + "^3";
    limits.own_kernel = dense_library_products() == before;
    limits.gflops_measured += limits.own_kernel ? " by our own kernel: no cuBLAS" : " by cuBLAS";
  }
  return limits;
}

json::Value cublas_json() {
  const DenseLibrary found = dense_library();
  if (found.file.empty()) return json::Value("not found");
  json::Value facts = json::Value::object();
  facts.set("file", found.file).set("version", found.version);
  return facts;
}

void set_limits(json::Value& object, const MachineLimits& limits) {
  object.set("memory_gbytes_per_second", limits.gbytes)
      .set("memory_measured", limits.gbytes_measured)
      .set("compute_gflops", limits.gflops)
      .set("compute_measured", limits.gflops_measured);
  if (limits.device) object.set("compute_limit_of_own_kernel", limits.own_kernel).set("cublas", cublas_json());
  if (!limits.device)
    object.set("read_gbytes_per_second", limits.gbytes)
        .set("read_gbytes_per_second_4k_pages", limits.small_page_gbytes)
        .set("fma_gflops", limits.gflops);
}

}  // namespace signalbox::tools
