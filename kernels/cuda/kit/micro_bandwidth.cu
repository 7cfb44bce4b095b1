// M1: bandwidth of reading by the bytes that a processor has on their way, by loads into registers, by cp.async and by
// bulk copies. M3: kernels that stream weights one after the other, with what a dependent launch gains.
#include <utility>

#include "kernels/cuda/kit/dependent_launch.h"
#include "kernels/cuda/kit/micro.h"

namespace signalbox::kernels::cuda {

namespace {

constexpr int threads = 256;
constexpr int64_t pool_bytes = int64_t{2} << 30;  // forty times the second-level cache

__device__ inline uint32_t mixed(uint4 v) { return v.x ^ v.y ^ v.z ^ v.w; }

__global__ void fill_kernel(uint4* to, int64_t n) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < n; i += int64_t{gridDim.x} * blockDim.x) {
    const uint32_t x = static_cast<uint32_t>(i) * 2654435761u;
    to[i] = make_uint4(x, x ^ 0x9e3779b9u, x * 3, ~x);
  }
}

// Blocks take turns over pieces of threads * depth * 16 bytes; `depth` loads a thread before the first is used. The
// bound of 4 blocks a processor is what makes ptxas of CUDA 13.0 keep that order (seen in its code): without it, it
// saves registers and puts half of the loads behind the first uses.
template <int depth>
__global__ void __launch_bounds__(threads, 4) load_kernel(uint32_t* out, const uint4* from, int64_t n) {
  uint32_t sum = 0;
  const int64_t step = int64_t{gridDim.x} * threads * depth;
  for (int64_t i = blockIdx.x * int64_t{threads} * depth + threadIdx.x; i < n; i += step) {
    uint4 v[depth];
#pragma unroll
    for (int d = 0; d < depth; ++d) v[d] = load_streaming(from + i + d * threads);
#pragma unroll
    for (int d = 0; d < depth; ++d) sum ^= mixed(v[d]);
  }
  out[blockIdx.x * threads + threadIdx.x] = sum;
}

// A ring of `depth` steps of one cp.async a thread. Each thread reads what it has copied itself: no barrier.
template <int depth>
__global__ void __launch_bounds__(threads) async_kernel(uint32_t* out, const uint4* from, int64_t n) {
  SharedMemory memory;
  uint4* ring = memory.take<uint4>(depth * threads);
  const int t = static_cast<int>(threadIdx.x);
  const int64_t first = blockIdx.x * int64_t{threads} + t, step = int64_t{gridDim.x} * threads;
  int64_t next = first;
  for (int s = 0; s < depth; ++s, next += step) {
    if (next < n) copy_async(ring + s * threads + t, from + next);
    commit_copies();
  }
  uint32_t sum = 0;
  int slot = 0;
  for (int64_t i = first; i < n; i += step, next += step) {
    wait_copies<depth - 1>();
    sum ^= mixed(ring[slot * threads + t]);
    if (next < n) copy_async(ring + slot * threads + t, from + next);
    commit_copies();
    slot = slot + 1 == depth ? 0 : slot + 1;
  }
  wait_copies<0>();
  out[blockIdx.x * threads + t] = sum;
}

// One warp brings pieces of `piece` bytes into a ring of `stages`, the others add them up. `early`: the ring is filled
// before wait_for_previous(), as weights may be. dependent: there is something to wait for at all.
struct Streaming {
  int piece, stages, dependent, early;
};
__global__ void __launch_bounds__(threads)
    bulk_kernel(uint32_t* out, const unsigned char* from, int64_t n_pieces, Streaming s) {
  SharedMemory memory;
  uint64_t* full = memory.take<uint64_t>(64);
  uint64_t* empty = memory.take<uint64_t>(64);
  unsigned char* raw = memory.take<unsigned char>(static_cast<size_t>(s.stages) * static_cast<size_t>(s.piece));
  if (s.dependent) launch_dependents();
  const int t = static_cast<int>(threadIdx.x);
  if (t == 0) {
    for (int i = 0; i < s.stages; ++i) {
      barrier_init(full + i, 1);
      barrier_init(empty + i, threads / 32 - 1);
    }
    fence_barrier_init();
  }
  __syncthreads();
  // A contiguous run of pieces for each block.
  const auto all = static_cast<uint32_t>(n_pieces);
  const int64_t begin = all * blockIdx.x / gridDim.x, end = all * (blockIdx.x + 1) / gridDim.x;
  if (s.dependent && !s.early) wait_for_previous();
  if (t < 32) {
    if (t == 0) {
      int slot = 0;
      uint32_t round = 0;
      for (int64_t i = begin; i < end; ++i) {
        if (round > 0 && !barrier_wait(empty + slot, (round + 1) % 2)) break;
        barrier_expect(full + slot, static_cast<uint32_t>(s.piece));
        bulk_load(raw + slot * s.piece, from + i * s.piece, static_cast<uint32_t>(s.piece), full + slot);
        if (++slot == s.stages) slot = 0, ++round;
      }
    }
    if (s.dependent && s.early) wait_for_previous();
    return;
  }
  if (s.dependent && s.early) wait_for_previous();
  uint32_t sum = 0;
  int slot = 0;
  uint32_t round = 0;
  for (int64_t i = begin; i < end; ++i) {
    if (!barrier_wait(full + slot, round % 2)) break;
    const auto* data = reinterpret_cast<const uint4*>(raw + slot * s.piece);
    for (int w = t - 32; w < s.piece / 16; w += threads - 32) sum ^= mixed(data[w]);
    __syncwarp();
    if (t % 32 == 0) barrier_arrive(empty + slot);
    if (++slot == s.stages) slot = 0, ++round;
  }
  out[blockIdx.x * threads + t] = sum;
}

// Device memory to read from, and the words that kernels leave behind.
struct Pool {
  explicit Pool(const DeviceInfo& info)
      : n_processors(info.n_processors),
        bytes(std::min<int64_t>(pool_bytes, static_cast<int64_t>(free_device_bytes() / 2) >> 20 << 20)),
        memory(static_cast<size_t>(bytes)),
        out(std::vector<uint32_t>(static_cast<size_t>(info.n_processors) * 32 * threads, 0)) {
    launch("kit_fill", fill_kernel, dim3(static_cast<unsigned>(n_processors * 8)), dim3(threads), 0, stream,
           memory.as<uint4>(), bytes / 16);
    synchronize(stream);
  }
  // The exclusive or of all that a grid of n blocks has left behind: the same for every way of reading.
  uint32_t sum(int64_t blocks) const {
    uint32_t all = 0;
    for (const uint32_t word : out.get<uint32_t>(static_cast<size_t>(blocks) * threads, stream)) all ^= word;
    return all;
  }
  void clear() const { fill_async(out.as<void>(), 0, static_cast<size_t>(n_processors) * 32 * threads * 4, stream); }

  int n_processors;
  int64_t bytes;
  KitStream stream;
  KitMemory memory, out;
};

void tell(const MicroPrint& print, const Pool& pool, const char* method, int64_t in_flight, int64_t blocks,
          MicroTime time) {
  const double gbytes = static_cast<double>(pool.bytes) * 1e-9 / time.seconds;
  print(MicroLine("bandwidth")
            .set("method", method)
            .set("bytes_in_flight", in_flight)
            .set("blocks_per_processor", blocks)
            .set("gbytes_per_second", gbytes)
            .set("spread", time.spread)
            .set("sum", static_cast<int64_t>(pool.sum(blocks * pool.n_processors)))
            .set("unit", "GB/s")
            .text());
}

template <int depth>
void loads(const Pool& pool, const MicroPrint& print, int blocks) {
  pool.clear();
  const MicroTime time = micro_time(pool.stream, [&] {
    launch("kit_load", load_kernel<depth>, dim3(static_cast<unsigned>(pool.n_processors * blocks)), dim3(threads), 0,
           pool.stream, pool.out.as<uint32_t>(), pool.memory.as<uint4>(), pool.bytes / 16);
  });
  tell(print, pool, "loads", int64_t{blocks} * threads * depth * 16, blocks, time);
}
template <int depth>
void asyncs(const Pool& pool, const MicroPrint& print, int blocks) {
  pool.clear();
  const MicroTime time = micro_time(pool.stream, [&] {
    launch("kit_async", async_kernel<depth>, dim3(static_cast<unsigned>(pool.n_processors * blocks)), dim3(threads),
           shared_bytes_of<uint4>(depth * threads), pool.stream, pool.out.as<uint32_t>(), pool.memory.as<uint4>(),
           pool.bytes / 16);
  });
  tell(print, pool, "cp.async", int64_t{blocks} * threads * depth * 16, blocks, time);
}

size_t bulk_shared(const Streaming& s) {
  return 2 * shared_bytes_of<uint64_t>(64) + shared_bytes(static_cast<size_t>(s.stages) * static_cast<size_t>(s.piece));
}

void bandwidth(const DeviceInfo& info, const MicroPrint& print) {
  const Pool pool(info);
  // 8, 16, 32, 48, 64, 96, 128 KB a processor: 4 KB a block and step.
  loads<1>(pool, print, 2);
  loads<2>(pool, print, 2);
  loads<4>(pool, print, 2);
  loads<4>(pool, print, 3);
  loads<4>(pool, print, 4);
  loads<8>(pool, print, 3);
  loads<8>(pool, print, 4);
  asyncs<1>(pool, print, 2);
  asyncs<2>(pool, print, 2);
  asyncs<4>(pool, print, 2);
  asyncs<6>(pool, print, 2);
  asyncs<8>(pool, print, 2);
  asyncs<12>(pool, print, 2);
  asyncs<16>(pool, print, 2);
  for (const auto& [piece, stages, blocks] :
       {std::tuple(4096, 1, 2), std::tuple(4096, 2, 2), std::tuple(4096, 4, 2), std::tuple(4096, 6, 2),
        std::tuple(4096, 8, 2), std::tuple(4096, 12, 2), std::tuple(4096, 16, 2), std::tuple(8192, 8, 2),
        std::tuple(4096, 24, 1), std::tuple(8192, 12, 1), std::tuple(16384, 6, 1), std::tuple(4096, 24, 2)}) {
    const Streaming s{piece, stages, 0, 0};
    const int n_blocks = blocks;
    pool.clear();
    const MicroTime time = micro_time(pool.stream, [&] {
      launch("kit_bulk_stream", bulk_kernel, dim3(static_cast<unsigned>(pool.n_processors * n_blocks)), dim3(threads),
             bulk_shared(s), pool.stream, pool.out.as<uint32_t>(), pool.memory.as<unsigned char>(),
             pool.bytes / s.piece, s);
    });
    char name[32];
    std::snprintf(name, sizeof name, "bulk, pieces of %d", s.piece);
    tell(print, pool, name, int64_t{n_blocks} * s.piece * s.stages, n_blocks, time);
  }
}

// A chain of kernels, each reading weights that none of the last 32 has read, as decoding does.
void prefetch(const DeviceInfo& info, const MicroPrint& print) {
  const Pool pool(info);
  for (const int megabytes : {5, 10, 20}) {
    const int64_t bytes = int64_t{megabytes} << 20;
    const int n_kernels = static_cast<int>(std::min<int64_t>(64, pool.bytes / bytes));
    for (const auto& [name, dependent, early] : {std::tuple("graph", 0, 0), std::tuple("dependent launch", 1, 0),
                                                 std::tuple("dependent launch, ring filled before the wait", 1, 1)}) {
      // Two blocks on a processor, so that the next kernel's can stand beside this one's.
      const Streaming s{4096, 24, dependent, early};
      const auto graph = captured(pool.stream, [&] {
        for (int i = 0; i < n_kernels; ++i) {
          const auto* from = pool.memory.as<unsigned char>() + i * bytes;
          const dim3 grid(static_cast<unsigned>(pool.n_processors));
          if (s.dependent)
            launch_dependent("kit_bulk_stream", bulk_kernel, grid, dim3(threads), bulk_shared(s), pool.stream,
                             pool.out.as<uint32_t>(), from, bytes / s.piece, s);
          else
            launch("kit_bulk_stream", bulk_kernel, grid, dim3(threads), bulk_shared(s), pool.stream,
                   pool.out.as<uint32_t>(), from, bytes / s.piece, s);
        }
      });
      const MicroTime time = micro_time(pool.stream, [&] { graph->launch(pool.stream); });
      print(MicroLine("prefetch")
                .set("method", name)
                .set("bytes", bytes)
                .set("kernels", n_kernels)
                .set("microseconds_each", time.seconds * 1e6 / n_kernels)
                .set("gbytes_per_second", static_cast<double>(bytes) * n_kernels * 1e-9 / time.seconds)
                .set("spread", time.spread)
                .set("unit", "GB/s")
                .text());
    }
  }
}

}  // namespace

std::vector<MicroCase> bandwidth_cases() { return {{"bandwidth", bandwidth}, {"prefetch", prefetch}}; }

}  // namespace signalbox::kernels::cuda
