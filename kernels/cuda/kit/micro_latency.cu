// M4: what one access, one fence, one barrier, one cold piece of code costs.
#include <numeric>
#include <utility>

#include "kernels/cuda/kit/micro.h"
#include "kernels/cuda/kit/operands.h"

namespace signalbox::kernels::cuda {

namespace {

struct Took {
  int64_t cycles = 0;
  uint64_t nanoseconds = 0;
};

// One thread follows `next` for n steps.
__global__ void chase_kernel(Took* took, uint32_t* end, const uint32_t* next, int n) {
  uint32_t at = 0;
  const uint64_t start = nanoseconds();
  const int64_t begin = cycles();
  for (int i = 0; i < n; ++i)
    asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(at) : "l"(next + at));  // past the first-level cache
  *took = {cycles() - begin, nanoseconds() - start};
  *end = at;
}

// n times: a fence, an atomic addition that another block might wait for, a fence.
__global__ void fence_kernel(Took* took, uint32_t* counter, int n) {
  const uint64_t start = nanoseconds();
  const int64_t begin = cycles();
  uint32_t sum = 0;
  for (int i = 0; i < n; ++i) {
    __threadfence();
    sum += atomicAdd(counter, 1);
    __threadfence();
  }
  *took = {cycles() - begin, nanoseconds() - start};
  counter[1] = sum;
}

__global__ void barrier_time_kernel(Took* took, int n) {
  const uint64_t start = nanoseconds();
  const int64_t begin = cycles();
  for (int i = 0; i < n; ++i) __syncthreads();
  if (threadIdx.x == 0) *took = {cycles() - begin, nanoseconds() - start};
}

// A straight line of dependent instructions, each with a constant of its own, so that nothing can be folded: 16 bytes
// of code each, passed `passes` times. The first pass brings the code in.
constexpr int line = 100;  // what the compiler's depth of templates allows
template <int n>
__device__ __forceinline__ float line_of_code(float x) {
  if constexpr (n > 0) {
    x = fmaf(x, x, static_cast<float>(n) * 0x1p-20f);
    return line_of_code<n - 1>(x);
  } else {
    return x;
  }
}
template <int n>
__global__ void code_kernel(Took* took, float* out, int passes) {
  float x = *out;
  for (int pass = 0; pass < passes; ++pass) {
    const uint64_t start = nanoseconds();
    const int64_t begin = cycles();
#pragma unroll
    for (int i = 0; i < n; ++i) x = line_of_code<line>(x + static_cast<float>(i));
    if (threadIdx.x == 0) took[pass] = {cycles() - begin, nanoseconds() - start};
  }
  out[1] = x;
}

// A cycle through n places, `stride` words apart, in an order by chance.
std::vector<uint32_t> random_cycle(int64_t n, int64_t stride) {
  std::vector<uint32_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0u);
  for (size_t i = order.size() - 1; i > 0; --i) std::swap(order[i], order[draw(5, i) % i]);  // Sattolo: one cycle
  std::vector<uint32_t> next(static_cast<size_t>(n * stride), 0);
  for (size_t i = 0; i < order.size(); ++i)
    next[i * static_cast<size_t>(stride)] = order[i] * static_cast<uint32_t>(stride);
  return next;
}

MicroLine figure(const char* name, const Took& took, double per) {
  MicroLine line(name);
  line.set("cycles", static_cast<double>(took.cycles) / per)
      .set("nanoseconds", static_cast<double>(took.nanoseconds) / per)
      .set("unit", "ns");
  return line;
}

void memory_latency(const DeviceInfo& info, const MicroPrint& print) {
  const KitStream stream;
  const KitMemory took(std::vector<Took>(1)), end(std::vector<uint32_t>(1, 0));
  // 4 MB that stay in the second-level cache; and four times that cache, each place once.
  const int64_t large = std::max<int64_t>(static_cast<int64_t>(info.l2_bytes), int64_t{50} << 20) * 4;
  for (const auto& [name, bytes, warm] :
       {std::tuple("l2_latency", int64_t{4} << 20, true), std::tuple("dram_latency", large, false)}) {
    const int64_t stride = 64, n = bytes / (stride * 4);
    const KitMemory next(random_cycle(n, stride));
    if (!warm) {  // what the upload has left in the cache goes
      const KitMemory other(static_cast<size_t>(large));
      fill_async(other.as<void>(), 1, static_cast<size_t>(large), stream);
      synchronize(stream);
    }
    const int steps = static_cast<int>(warm ? n : std::min<int64_t>(n, 20000));
    for (int i = 0; i < (warm ? 3 : 1); ++i)
      launch("kit_chase", chase_kernel, dim3(1), dim3(1), 0, stream, took.as<Took>(), end.as<uint32_t>(),
             next.as<uint32_t>(), steps);
    print(figure(name, took.get<Took>(1, stream)[0], steps).set("bytes", bytes).text());
  }
}

void order_latency(const DeviceInfo&, const MicroPrint& print) {
  const KitStream stream;
  const KitMemory took(std::vector<Took>(1)), counter(std::vector<uint32_t>(2, 0));
  for (int i = 0; i < 2; ++i)
    launch("kit_fence", fence_kernel, dim3(1), dim3(1), 0, stream, took.as<Took>(), counter.as<uint32_t>(), 1000);
  print(figure("fence_atomic_fence", took.get<Took>(1, stream)[0], 1000).text());
  for (const int n : {64, 128, 256, 512, 1024}) {
    for (int i = 0; i < 2; ++i)
      launch("kit_barrier_time", barrier_time_kernel, dim3(1), dim3(static_cast<unsigned>(n)), 0, stream,
             took.as<Took>(), 1000);
    print(figure("syncthreads", took.get<Took>(1, stream)[0], 1000).set("threads", n).text());
  }
}

template <int n>
void cold_code(const MicroPrint& print, const KitMemory& cold) {
  const KitStream stream;
  const KitMemory took(std::vector<Took>(3)), out(std::vector<float>(2, 0.25f));
  // Other code and data in between, so that the first pass finds neither.
  fill_async(cold.as<void>(), 1, size_t{256} << 20, stream);
  launch("kit_code", code_kernel<n>, dim3(1), dim3(32), 0, stream, took.as<Took>(), out.as<float>(), 3);
  const std::vector<Took> passes = took.get<Took>(3, stream);
  const double instructions = (line + 1.) * n;
  print(figure("cold_code", passes[0], 1)
            .set("code_bytes", static_cast<int64_t>(instructions * 16))
            .set("warm_cycles", static_cast<double>(passes[2].cycles))
            .set("cold_bytes_per_cycle",
                 instructions * 16 / std::max(1., static_cast<double>(passes[0].cycles - passes[2].cycles)))
            .text());
}

void code_latency(const DeviceInfo&, const MicroPrint& print) {
  const KitMemory cold(size_t{256} << 20);
  cold_code<4>(print, cold);
  cold_code<16>(print, cold);
  cold_code<64>(print, cold);  // 100 KB
}

}  // namespace

std::vector<MicroCase> latency_cases() {
  return {{"memory", memory_latency}, {"order", order_latency}, {"code", code_latency}};
}

}  // namespace signalbox::kernels::cuda
