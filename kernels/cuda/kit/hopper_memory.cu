// mbarrier, bulk copies, stmatrix, named barriers, registers that move between warps, dependent launches. What each
// word of a result means, and should be, stands in tools/bench/instructions.py.
#include <utility>

#include "kernels/cuda/kit/dependent_launch.h"
#include "kernels/cuda/kit/hopper_kit.h"
#include "kernels/cuda/kit/operands.h"

namespace signalbox::kernels::cuda {

namespace {

// ---- mbarrier: twelve answers of test_wait, one thread

constexpr int n_answers = 12;

__global__ void barrier_kernel(uint32_t* out) {
  SharedMemory memory;
  uint64_t* one = memory.take<uint64_t>(1);
  uint64_t* bytes = memory.take<uint64_t>(1);
  if (threadIdx.x == 0) {
    barrier_init(one, 2);
    barrier_init(bytes, 1);
    fence_barrier_init();
    int n = 0;
    out[n++] = barrier_test(one, 1);  // the phase before the first has ended
    out[n++] = barrier_test(one, 0);
    barrier_arrive(one);
    out[n++] = barrier_test(one, 0);  // one of two is there
    barrier_arrive(one);
    out[n++] = barrier_test(one, 0);  // both
    out[n++] = barrier_test(one, 1);  // the second phase has begun
    barrier_arrive(one);
    barrier_arrive(one);
    out[n++] = barrier_test(one, 1);  // and ended: arrivals count anew
    out[n++] = barrier_test(one, 0);
    barrier_expect(bytes, 64);
    out[n++] = barrier_test(bytes, 0);  // the arrival is there, 64 bytes are not
    // 48 bytes, then the last 16, as copies would tell.
    asm volatile("mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [%0], 48;" ::"r"(shared_address(bytes)) : "memory");
    out[n++] = barrier_test(bytes, 0);
    asm volatile("mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [%0], 16;" ::"r"(shared_address(bytes)) : "memory");
    out[n++] = barrier_test(bytes, 0);
    out[n++] = barrier_test(bytes, 1);
    barrier_expect(bytes, 0);
    out[n++] = barrier_test(bytes, 1);  // an arrival that expects nothing ends a phase
  }
}

void barriers(const KitReport& report) {
  const KitMemory out(std::vector<uint32_t>(n_answers, 0xdeadbeefu));
  const KitStream stream;
  launch("kit_barrier", barrier_kernel, dim3(1), dim3(32), 2 * shared_bytes_of<uint64_t>(1), stream,
         out.as<uint32_t>());
  report({"mbarrier", "answers", 0, 1, out.get<uint32_t>(n_answers, stream)});
}

// ---- bulk copies: into the middle of a field of 0xaa, and out again

constexpr int field = 64 << 10, margin = 64;

__global__ void bulk_kernel(uint4* out, const uint4* from, int bytes, int stored, uint32_t* waited) {
  SharedMemory memory;
  uint64_t* barrier = memory.take<uint64_t>(1);
  uint32_t* to = memory.take<uint32_t>(static_cast<size_t>(field + 2 * margin) / 4);
  const int t = static_cast<int>(threadIdx.x);
  for (int i = t; i < (field + 2 * margin) / 4; i += 128) to[i] = 0xaaaaaaaau;
  if (t == 0) {
    barrier_init(barrier, 1);
    fence_barrier_init();
  }
  fence_async_proxy();  // the copy must not come before the field
  __syncthreads();
  if (t == 0) {
    barrier_expect(barrier, static_cast<uint32_t>(bytes));
    bulk_load(to + margin / 4, from, static_cast<uint32_t>(bytes), barrier);
  }
  const bool landed = barrier_wait(barrier, 0);
  if (!landed || t == 0) *waited = landed;
  __syncthreads();
  if (stored) {
    if (t == 0) {
      bulk_store(out + margin / 16, to + margin / 4, static_cast<uint32_t>(bytes));
      wait_bulk_stores();
    }
  } else {
    for (int i = t; i < (field + 2 * margin) / 16; i += 128) out[i] = reinterpret_cast<uint4*>(to)[i];
  }
}

// Words: landed; bytes copied, from the first on, that are right; bytes outside that were left alone.
void bulk(const KitReport& report) {
  const std::vector<uint32_t> words = word_operand(3000, field / 4);
  const KitMemory from(words);
  const KitStream stream;
  for (const bool stored : {false, true}) {
    for (const int bytes : {16, 32, 48, 256, 1008, 4096, 16384, 65536}) {
      const KitMemory out(std::vector<uint32_t>((field + 2 * margin) / 4, 0xaaaaaaaau));
      const KitMemory waited(std::vector<uint32_t>(1, 0));
      launch("kit_bulk", bulk_kernel, dim3(1), dim3(128),
             shared_bytes_of<uint64_t>(1) + shared_bytes_of<uint32_t>(static_cast<size_t>(field + 2 * margin) / 4),
             stream, out.as<uint4>(), from.as<uint4>(), bytes, stored, waited.as<uint32_t>());
      const std::vector<uint32_t> got = out.get<uint32_t>((field + 2 * margin) / 4, stream);
      uint32_t right = 0, alone = 0;
      for (int i = 0; i < (field + 2 * margin) / 4; ++i) {
        const int at = i - margin / 4;
        const uint32_t word = got[static_cast<size_t>(i)];
        if (at >= 0 && at * 4 < bytes)
          right += word == words[static_cast<size_t>(at)] ? 4 : 0;
        else
          alone += word == 0xaaaaaaaau ? 4 : 0;
      }
      report({stored ? "cp.async.bulk store" : "cp.async.bulk load",
              std::to_string(bytes) + " bytes",
              3000,
              1,
              {waited.get<uint32_t>(1, stream)[0], right, alone}});
    }
  }
}

// A ring: one warp keeps `stages` pieces on their way, three warps add their words up.
__global__ void ring_kernel(uint32_t* sums, const uint4* from, int n_pieces, int piece, int stages, uint32_t* stuck) {
  SharedMemory memory;
  uint64_t* full = memory.take<uint64_t>(16);
  uint64_t* empty = memory.take<uint64_t>(16);
  unsigned char* ring = memory.take<unsigned char>(static_cast<size_t>(stages * piece));
  const int t = static_cast<int>(threadIdx.x);
  if (t == 0) {
    for (int s = 0; s < stages; ++s) {
      barrier_init(full + s, 1);
      barrier_init(empty + s, 96);
    }
    fence_barrier_init();
  }
  __syncthreads();
  if (t < 32) {
    if (t == 0) {
      for (int i = 0; i < n_pieces; ++i) {
        const int s = i % stages;
        // The first round finds the ring empty: the phase before the first counts as ended.
        if (!barrier_wait(empty + s, static_cast<uint32_t>(i / stages + 1) % 2)) {
          *stuck = 1;
          return;
        }
        barrier_expect(full + s, static_cast<uint32_t>(piece));
        bulk_load(ring + s * piece, reinterpret_cast<const unsigned char*>(from) + int64_t{i} * piece,
                  static_cast<uint32_t>(piece), full + s);
      }
    }
    return;
  }
  uint32_t sum = 0;
  for (int i = 0; i < n_pieces; ++i) {
    const int s = i % stages;
    if (!barrier_wait(full + s, static_cast<uint32_t>(i / stages) % 2)) {
      *stuck = 2;
      return;
    }
    for (int w = t - 32; w < piece / 4; w += 96) sum += reinterpret_cast<uint32_t*>(ring + s * piece)[w];
    barrier_arrive(empty + s);
  }
  sums[t - 32] = sum;
}

// Words: stuck; the sum found; the sum expected.
void ring(const KitReport& report) {
  const std::vector<uint32_t> words = word_operand(3100, 37 * 1024);
  uint32_t expected = 0;
  for (const uint32_t word : words) expected += word;
  const KitMemory from(words);
  const KitStream stream;
  for (const int stages : {1, 2, 3, 4, 16}) {
    const KitMemory sums(std::vector<uint32_t>(96, 0)), stuck(std::vector<uint32_t>(1, 0));
    launch("kit_ring", ring_kernel, dim3(1), dim3(128),
           2 * shared_bytes_of<uint64_t>(16) + shared_bytes(static_cast<size_t>(stages) * 4096), stream,
           sums.as<uint32_t>(), from.as<uint4>(), 37, 4096, stages, stuck.as<uint32_t>());
    uint32_t sum = 0;
    for (const uint32_t part : sums.get<uint32_t>(96, stream)) sum += part;
    report({"ring of bulk loads",
            std::to_string(stages) + " stages",
            3100,
            1,
            {stuck.get<uint32_t>(1, stream)[0], sum, expected}});
  }
}

// ---- stmatrix: what ldmatrix does, the other way. out [32 rows of 8 values]; lane i points at row i * 5 % 32.

__global__ void store_kernel(uint32_t* out, const uint32_t* from, int transposed) {
  SharedMemory memory;
  uint32_t* rows = memory.take<uint32_t>(32 * 4);
  const int lane = static_cast<int>(threadIdx.x);
  uint32_t r[4];
  for (int i = 0; i < 4; ++i) r[i] = from[lane * 4 + i];
  if (transposed)
    store_matrices_transposed(rows + lane * 5 % 32 * 4, r);
  else
    store_matrices(rows + lane * 5 % 32 * 4, r);
  __syncthreads();
  for (int i = 0; i < 4; ++i) out[lane * 4 + i] = rows[lane * 4 + i];
}

void matrices(const KitReport& report) {
  const KitMemory from(word_operand(3200, 128));
  const KitStream stream;
  for (const bool transposed : {false, true}) {
    const KitMemory out(std::vector<uint32_t>(128, 0xdeadbeefu));
    launch("kit_store", store_kernel, dim3(1), dim3(32), shared_bytes_of<uint32_t>(128), stream, out.as<uint32_t>(),
           from.as<uint32_t>(), transposed);
    report({transposed ? "stmatrix.x4.trans" : "stmatrix.x4", "words", 3200, 1, out.get<uint32_t>(128, stream)});
  }
}

// ---- named barriers and registers that move: one warpgroup hands rounds over to two

constexpr int rounds = 100;

template <bool moves>
__global__ void __launch_bounds__(384, 1) groups_kernel(uint32_t* out) {
  SharedMemory memory;
  uint32_t* slot = memory.take<uint32_t>(256);
  const int t = static_cast<int>(threadIdx.x), group = t / 128;
  if (group == 0) {
    if constexpr (moves) fewer_registers<40>();
    for (int i = 0; i < rounds; ++i) {
      named_barrier(1, 384);  // the slot is free
      slot[t] = static_cast<uint32_t>(i * 1000 + t);
      slot[t + 128] = static_cast<uint32_t>(i * 7 + t);
      named_barrier_arrive(2, 384);  // and filled
    }
  } else {
    if constexpr (moves) more_registers<232>();
    uint32_t sums[64];
    for (uint32_t& sum : sums) sum = 0;
    for (int i = 0; i < rounds; ++i) {
      named_barrier(1, 384);
      named_barrier(2, 384);
#pragma unroll
      for (int j = 0; j < 64; ++j) sums[j] += slot[(t - 128 + j) % 256];
    }
    uint32_t all = 0;
#pragma unroll
    for (int j = 0; j < 64; ++j) all = all * 31 + sums[j];
    out[t - 128] = all;
  }
}

void groups(const KitReport& report) {
  const KitStream stream;
  for (const bool moves : {false, true}) {
    const KitMemory out(std::vector<uint32_t>(256, 0xdeadbeefu));
    const auto go = [&](auto kernel) {
      launch("kit_groups", kernel, dim3(1), dim3(384), shared_bytes_of<uint32_t>(256), stream, out.as<uint32_t>());
    };
    if (moves)
      go(groups_kernel<true>);
    else
      go(groups_kernel<false>);
    report(
        {moves ? "setmaxnreg" : "bar.sync and bar.arrive", "three warpgroups", 0, 1, out.get<uint32_t>(256, stream)});
  }
}

// ---- dependent launches: a chain of kernels that each need all that the one before has written

constexpr int n_links = 8, n_chained = 64 * 1024;

__global__ void link_kernel(uint32_t* to, const uint32_t* from, uint64_t* times, int i) {
  launch_dependents();
  const int at = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (at == 0) times[2 * i] = nanoseconds();
  const int64_t begin = cycles();
  while (cycles() - begin < 4000) {
  }
  wait_for_previous();
  // Not the element that this thread's place has: one that another block wrote.
  to[at] = from[(at + 12347) % n_chained] * 3 + static_cast<uint32_t>(i);
  if (at == 0) times[2 * i + 1] = nanoseconds();
}

// Words: how many elements are right; how many kernels began before the one before them had ended.
void dependents(const KitReport& report) {
  const std::vector<uint32_t> words = word_operand(3300, n_chained);
  std::vector<uint32_t> expected = words;
  for (int i = 0; i < n_links; ++i) {
    std::vector<uint32_t> next(n_chained);
    for (int at = 0; at < n_chained; ++at)
      next[static_cast<size_t>(at)] =
          expected[static_cast<size_t>((at + 12347) % n_chained)] * 3 + static_cast<uint32_t>(i);
    expected = next;
  }
  for (const bool captured : {false, true}) {
    const KitMemory first(words), second(words);
    const KitMemory times(std::vector<uint64_t>(2 * n_links, 0));
    const KitStream stream;
    const auto chain = [&] {
      for (int i = 0; i < n_links; ++i) {
        uint32_t* to = (i % 2 ? first : second).as<uint32_t>();
        const uint32_t* from = (i % 2 ? second : first).as<uint32_t>();
        launch_dependent("kit_link", link_kernel, dim3(n_chained / 256), dim3(256), 0, stream, to, from,
                         times.as<uint64_t>(), i);
      }
    };
    std::unique_ptr<Graph> graph;
    if (captured) {
      Graph::begin(stream);
      chain();
      graph = Graph::end(stream);
      if (!graph) throw Error("dependents", "expected memory for a graph, found none");
      graph->launch(stream);
    } else {
      chain();
    }
    const std::vector<uint32_t> got = first.get<uint32_t>(n_chained, stream);
    uint32_t right = 0, early = 0;
    for (size_t i = 0; i < got.size(); ++i) right += got[i] == expected[i];
    const std::vector<uint64_t> at = times.get<uint64_t>(2 * n_links, stream);
    for (size_t i = 1; i < n_links; ++i) early += at[2 * i] < at[2 * i - 1];
    report({"griddepcontrol", captured ? "in a graph" : "in a stream", 3300, 1, {right, early}});
  }
}

}  // namespace

std::vector<KitCase> memory_cases() {
  return {{"mbarrier", barriers}, {"bulk", bulk},     {"ring", ring},
          {"stmatrix", matrices}, {"groups", groups}, {"dependents", dependents}};
}

}  // namespace signalbox::kernels::cuda
