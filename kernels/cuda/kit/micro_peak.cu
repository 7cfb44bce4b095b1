// M5: how fast tensor cores go, from registers and from shared memory, with the clock that they ran at. Operands are
// random: a device draws more power for those than for zeros, and lowers its clock.
#include <utility>

#include "kernels/cuda/kit/micro.h"
#include "kernels/cuda/kit/operands.h"
#include "kernels/cuda/kit/wgmma.h"

namespace signalbox::kernels::cuda {

namespace {

struct Clock {
  int64_t cycles;
  uint64_t nanoseconds;
};
constexpr uint32_t tile_bytes = 96 << 10;

__device__ inline uint32_t fragment(const uint32_t* random, int i) {
  return random[(blockIdx.x * 131 + threadIdx.x * 17 + static_cast<unsigned>(i)) % 4096];
}

// mma.sync, `chains` sums of each warp, operands in registers all the time.
template <int chains>
__global__ void __launch_bounds__(256) mma_kernel(Clock* clock, float* out, const uint32_t* random, int n) {
  uint32_t a[2][4], b[chains][2];
  for (int i = 0; i < 8; ++i) a[i / 4][i % 4] = fragment(random, i);
  for (int i = 0; i < chains * 2; ++i) b[i / 2][i % 2] = fragment(random, 8 + i);
  float sums[chains][4] = {};
  const uint64_t start = nanoseconds();
  const int64_t begin = cycles();
  for (int i = 0; i < n; ++i) {
#pragma unroll
    for (int c = 0; c < chains; ++c) mma(sums[c], a[c % 2], b[c]);
  }
  if (threadIdx.x == 0 && blockIdx.x == 0) *clock = {cycles() - begin, nanoseconds() - start};
  float all = 0;
  for (int c = 0; c < chains; ++c)
    for (const float x : sums[c]) all += x;
  out[blockIdx.x * blockDim.x + threadIdx.x] = all;
}

// The same with both operands by ldmatrix from shared memory each time, as a tile kernel does: 2 x 4 mma of 4 ldmatrix.
__global__ void __launch_bounds__(256) tile_kernel(Clock* clock, float* out, const uint32_t* random, int n) {
  SharedMemory memory;
  uint32_t* tile = memory.take<uint32_t>(8 * 4 * 128);  // of each warp: four pieces of 16 rows of 16 values
  const int t = static_cast<int>(threadIdx.x), warp = t / 32, lane = t % 32;
  for (int i = t; i < 8 * 4 * 128; i += 256) tile[i] = fragment(random, i);
  __syncthreads();
  const uint32_t* own = tile + warp * 512 + lane * 4;
  float sums[8][4] = {};
  const uint64_t start = nanoseconds();
  const int64_t begin = cycles();
  for (int i = 0; i < n; ++i) {
    uint32_t a[2][4], b[2][4];
    for (int j = 0; j < 2; ++j) load_matrices(a[j], own + j * 128);
    for (int j = 0; j < 2; ++j) load_matrices(b[j], own + 256 + j * 128);
#pragma unroll
    for (int c = 0; c < 8; ++c) mma(sums[c], a[c / 4], {b[c % 4 / 2][c % 2 * 2], b[c % 4 / 2][c % 2 * 2 + 1]});
  }
  if (t == 0 && blockIdx.x == 0) *clock = {cycles() - begin, nanoseconds() - start};
  float all = 0;
  for (const auto& of : sums)
    for (const float x : of) all += x;
  out[blockIdx.x * blockDim.x + t] = all;
}

// wgmma m64nN on a 128-byte swizzled tile of K = 64: four steps a round, and one group of them always waits.
template <int n, bool from_registers>
__global__ void __launch_bounds__(256) wgmma_peak_kernel(Clock* clock, float* out, const uint32_t* random, int rounds) {
  SharedMemory memory;
  unsigned char* raw = memory.take<unsigned char>(tile_bytes + 1024);
  const uint32_t base = (shared_address(raw) + 1023) / 1024 * 1024;
  auto* tile = reinterpret_cast<uint32_t*>(raw + (base - shared_address(raw)));
  const int t = static_cast<int>(threadIdx.x), group = t / 128;
  for (int i = t; i < static_cast<int>(tile_bytes / 4); i += static_cast<int>(blockDim.x))
    tile[i] = fragment(random, i);
  fence_async_proxy();
  __syncthreads();
  const uint64_t bits = descriptor_bits(16, 1024, Swizzle::bytes_128);
  const uint32_t a_at = base + static_cast<uint32_t>(group) * 8192, b_at = base + (16 << 10);
  uint32_t own[4];
  for (int i = 0; i < 4; ++i) own[i] = fragment(random, i);
  float sums[n / 2];
  for (float& x : sums) x = 0;
  const uint64_t start = nanoseconds();
  const int64_t begin = cycles();
  for (int round = 0; round < rounds; ++round) {
    wgmma_fence();
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      const uint64_t b = descriptor(bits, b_at + s * 32);
      if constexpr (from_registers)
        Wgmma<n>::registers(sums, own, b, 1);
      else
        Wgmma<n>::template shared<0>(sums, descriptor(bits, a_at + s * 32), b, 1);
    }
    wgmma_commit();
    wgmma_wait<1>();
  }
  wgmma_wait<0>();
  if (t == 0 && blockIdx.x == 0) *clock = {cycles() - begin, nanoseconds() - start};
  float all = 0;
  for (const float x : sums) all += x;
  out[blockIdx.x * blockDim.x + t] = all;
}

class Peak {
 public:
  Peak(const DeviceInfo& info, const MicroPrint& print)
      : print_(print),
        n_processors_(info.n_processors),
        clock_(std::vector<Clock>(1)),
        out_(std::vector<float>(static_cast<size_t>(info.n_processors) * 8 * 256)),
        random_(pairs()) {}

  template <class K>
  void measure(const char* method, const char* operands, K kernel, int blocks, int threads, size_t shared, int rounds,
               double flops_of_block) {
    const int n = n_processors_ * blocks;
    const MicroTime time = micro_time(stream_, [&] {
      launch("kit_peak", kernel, dim3(static_cast<unsigned>(n)), dim3(static_cast<unsigned>(threads)), shared, stream_,
             clock_.as<Clock>(), out_.as<float>(), random_.as<uint32_t>(), rounds);
    });
    const Clock clock = clock_.get<Clock>(1, stream_)[0];
    const double mhz =
        1e3 * static_cast<double>(clock.cycles) / static_cast<double>(std::max<uint64_t>(clock.nanoseconds, 1));
    const double tflops = flops_of_block * n / time.seconds * 1e-12;
    print_(MicroLine("peak")
               .set("method", method)
               .set("operands", operands)
               .set("tflops", tflops)
               .set("sm_mhz", mhz)
               .set("flops_per_cycle_and_processor", tflops * 1e6 / (mhz * n_processors_))
               .set("milliseconds", time.seconds * 1e3)
               .set("spread", time.spread)
               .set("unit", "TFLOP/s")
               .text());
  }

 private:
  static std::vector<uint32_t> pairs() {  // of ordinary bf16
    const std::vector<uint16_t> halves = bf16_operand(Values::ordinary, 9, 2, 4096);
    std::vector<uint32_t> words(4096);
    for (size_t i = 0; i < words.size(); ++i) words[i] = halves[2 * i] | uint32_t{halves[2 * i + 1]} << 16;
    return words;
  }

  const MicroPrint& print_;
  int n_processors_;
  KitStream stream_;
  KitMemory clock_, out_, random_;
};

void mma_peak(const DeviceInfo& info, const MicroPrint& print) {
  Peak peak(info, print);
  constexpr double flops = 2. * 16 * 8 * 16;
  const int n = 40000;  // some milliseconds: the clock settles within the rounds
  peak.measure("mma.sync", "registers", mma_kernel<8>, 2, 256, 0, n, flops * 8 * 8 * n);
  peak.measure("mma.sync", "registers, 16 sums a warp", mma_kernel<16>, 1, 256, 0, n, flops * 8 * 16 * n);
  peak.measure("mma.sync", "shared memory by ldmatrix", tile_kernel, 2, 256, shared_bytes_of<uint32_t>(8 * 4 * 128), n,
               flops * 8 * 8 * n);
}

template <int n>
void wgmma_of(Peak& peak, const char* from_shared, const char* from_registers) {
  const int rounds = 20000;
  const double flops = 2. * 64 * n * 64 * 2 * rounds;  // two warpgroups a block
  peak.measure("wgmma", from_shared, wgmma_peak_kernel<n, false>, 1, 256, tile_bytes + 1024, rounds, flops);
  peak.measure("wgmma", from_registers, wgmma_peak_kernel<n, true>, 1, 256, tile_bytes + 1024, rounds, flops);
}

void wgmma_peak(const DeviceInfo& info, const MicroPrint& print) {
  Peak peak(info, print);
  wgmma_of<256>(peak, "n256, both from shared memory", "n256, a from registers");
  wgmma_of<128>(peak, "n128, both from shared memory", "n128, a from registers");
  wgmma_of<64>(peak, "n64, both from shared memory", "n64, a from registers");
}

}  // namespace

std::vector<MicroCase> peak_cases() { return {{"mma", mma_peak}, {"wgmma", wgmma_peak}}; }

std::vector<MicroCase> micro_cases() {
  std::vector<MicroCase> all;
  for (const auto& some : {launch_cases(), bandwidth_cases(), latency_cases(), peak_cases()})
    all.insert(all.end(), some.begin(), some.end());
  return all;
}

}  // namespace signalbox::kernels::cuda
