// Choosing the next token.
//
// The order of tokens is (logit descending, id ascending), and the token drawn is the first whose cumulative mass
// passes a target. Nothing is sorted whole: tokens fall into bins by their distance to the largest logit, each bin
// keeps its count and its mass, and only a bin in which a cut or the target lies is looked into. Its few elements are
// sorted; a bin with too many is first narrowed by the bits of the logit.
//
// The mass of a bin is an integer: each element adds its probability, relative to the largest of its bin, in units of
// 2^-43. Integers add up to the same sum in any order, so results depend on nothing but the row. The error is below
// 1e-13 of the mass. Elements of less than e^-48 of the largest probability are left out: together they have less than
// 1e-15 of the mass. So the token is the CPU's unless the draw falls within about 1e-13 of a boundary.
#include <algorithm>
#include <cmath>
#include <string>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/logit_rows.h"
#include "kernels/random.h"

namespace signalbox::kernels::DEVICE_SPACE {

namespace {

constexpr int n_bins = 2048;
constexpr double farthest = 48;  // in units of the temperature
constexpr int mass_bits = 43;
constexpr int64_t max_logits = 1 << 20;  // so that 2^20 masses of 2^43 fit 64 bits
constexpr int max_chunks = 32;           // parts of a row; one warp looks at all
constexpr int draw_threads = n_bins / 2, bins_threads = 512;

struct Extremes {
  uint64_t best = 0;
  uint32_t lowest = 0xffffffffu;  // key of the smallest logit
};

__device__ inline Extremes warp_extremes(Extremes e) {
  for (int m = warp_size / 2; m > 0; m /= 2) {
    const uint64_t best = __shfl_xor_sync(all_lanes, e.best, m);
    const uint32_t lowest = __shfl_xor_sync(all_lanes, e.lowest, m);
    if (best > e.best) e.best = best;
    if (lowest < e.lowest) e.lowest = lowest;
  }
  return e;
}

struct Chunks {
  int64_t cols, stride;
  int64_t length;  // a multiple of 4
  int32_t n;
  bool wide;
};

// Block (row, chunk).
__global__ void extremes_kernel(Extremes* out, const float* logits, Chunks chunks) {
  SharedMemory memory;
  Extremes* scratch = memory.take<Extremes>(warp_size);
  const float* row = logits + int64_t{blockIdx.x} * chunks.stride;
  const int64_t first = blockIdx.y * chunks.length, end = first + chunks.length;
  Extremes e;
  visit(row, first, end < chunks.cols ? end : chunks.cols, chunks.wide, [&](float z, uint32_t id) {
    const uint32_t key = order_key(z);
    const uint64_t best = z != z ? has_nan : uint64_t{key} << 32 | (0xffffffffu - id);
    if (best > e.best) e.best = best;
    if (key < e.lowest) e.lowest = key;
  });
  e = warp_extremes(e);
  const int lane = static_cast<int>(threadIdx.x) % warp_size, warp = static_cast<int>(threadIdx.x) / warp_size;
  if (lane == 0) scratch[warp] = e;
  __syncthreads();
  if (warp != 0) return;
  e = warp_extremes(lane < static_cast<int>(blockDim.x) / warp_size ? scratch[lane] : Extremes());
  if (lane == 0) out[int64_t{blockIdx.x} * chunks.n + blockIdx.y] = e;
}

// All threads get the extremes of the block's row.
__device__ inline Extremes row_extremes(const Extremes* parts, int n_chunks) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  return warp_extremes(lane < n_chunks ? parts[int64_t{blockIdx.x} * n_chunks + lane] : Extremes());
}

// True: the token needs no draw, or there is none (-1).
__device__ inline bool settled(int32_t* id, const Extremes& e, const SampleParams& params) {
  const float best = logit_of(static_cast<uint32_t>(e.best >> 32));
  *id = -1;
  if (e.best == 0 || e.best == has_nan || (__float_as_uint(best) & 0x7fffffffu) == 0x7f800000u) return true;
  *id = static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(e.best));
  return !(static_cast<float>(params.sampling.temperature) > 0) || params.sampling.top_k == 1;
}

// Bins of equal width in x = (best - logit) / temperature, over the row's range of x up to `farthest`.
struct Bins {
  double best, per_temperature, width, per_width;

  __device__ Bins(const Extremes& e, float temperature) {
    best = static_cast<double>(logit_of(static_cast<uint32_t>(e.best >> 32)));
    per_temperature = 1 / static_cast<double>(temperature);
    double range = (best - static_cast<double>(logit_of(e.lowest))) * per_temperature;
    if (!(range <= farthest)) range = farthest;
    width = range / (n_bins - 1);
    per_width = range > 0 ? (n_bins - 1) / range : 0;
  }
  // -1: too far away. within: x less the bin's first.
  __device__ int of(float z, double* within) const {
    const double x = (best - static_cast<double>(z)) * per_temperature;
    if (!(x <= farthest)) return -1;
    const int bin = static_cast<int>(x * per_width);
    *within = x - bin * width;
    return bin < n_bins ? bin : n_bins - 1;
  }
  // The mass of one unit of an element of the bin.
  __device__ double unit(int bin) const { return exp(-bin * width) * (1.0 / (int64_t{1} << mass_bits)); }
};

// e^-within in units of 2^-mass_bits: within is at most 48 / 2047, so that the terms left out are below 1e-15.
__device__ inline uint64_t mass_units(double within) {
  const double x = -within;
  const double e = 1 + x * (1 + x * (1.0 / 2 + x * (1.0 / 6 + x * (1.0 / 24 + x * (1.0 / 120 + x * (1.0 / 720))))));
  return static_cast<uint64_t>(e * (int64_t{1} << mass_bits) + 0.5);
}

// Counts and masses in shared memory. A mass is two words: 32-bit atomics are the fast ones.
struct Histogram {
  uint32_t* count;
  uint32_t* low;
  uint32_t* high;

  __device__ void clear() const {
    for (int i = static_cast<int>(threadIdx.x); i < n_bins; i += static_cast<int>(blockDim.x))
      count[i] = low[i] = high[i] = 0;
  }
  __device__ void add(int bin, uint64_t mass) const {
    const uint32_t word = static_cast<uint32_t>(mass);
    const uint32_t old = atomicAdd(low + bin, word);
    const uint32_t rest = static_cast<uint32_t>(mass >> 32) + (old + word < old ? 1u : 0u);
    if (rest != 0) atomicAdd(high + bin, rest);
    atomicAdd(count + bin, 1u);
  }
  __device__ uint64_t mass(int bin) const { return uint64_t{high[bin]} << 32 | low[bin]; }
};

// Block (row, chunk): the bins of a part of a row. Rows that need no draw get their token here.
__global__ void __launch_bounds__(bins_threads)
    bins_kernel(int32_t* ids, uint32_t* counts, uint64_t* masses, const float* logits, const SampleParams* params,
                const Extremes* extremes, Chunks chunks) {
  SharedMemory memory;
  Histogram bins;
  bins.count = memory.take<uint32_t>(n_bins);
  bins.low = memory.take<uint32_t>(n_bins);
  bins.high = memory.take<uint32_t>(n_bins);
  const int64_t r = blockIdx.x;
  const Extremes e = row_extremes(extremes, chunks.n);
  int32_t id;
  if (settled(&id, e, params[r])) {
    if (blockIdx.y == 0 && threadIdx.x == 0) ids[r] = id;
    return;
  }
  bins.clear();
  __syncthreads();
  const Bins scale(e, static_cast<float>(params[r].sampling.temperature));
  const int64_t first = blockIdx.y * chunks.length, end = first + chunks.length;
  visit(logits + r * chunks.stride, first, end < chunks.cols ? end : chunks.cols, chunks.wide, [&](float z, uint32_t) {
    double within = 0;
    const int bin = scale.of(z, &within);
    if (bin >= 0) bins.add(bin, mass_units(within));
  });
  __syncthreads();
  const int64_t at = (r * chunks.n + blockIdx.y) * n_bins;
  for (int i = static_cast<int>(threadIdx.x); i < n_bins; i += static_cast<int>(blockDim.x)) {
    counts[at + i] = bins.count[i];
    masses[at + i] = bins.mass(i);
  }
}

// In place over n_bins values by draw_threads threads, in an order that never changes.
template <class T>
__device__ inline void prefix_sums(T* values, T* scratch) {
  __syncthreads();
  const int t = static_cast<int>(threadIdx.x), lane = t % warp_size, warp = t / warp_size;
  const T a = values[2 * t], b = values[2 * t + 1];
  T sum = a + b;
  for (int d = 1; d < warp_size; d *= 2) {
    const T up = __shfl_up_sync(all_lanes, sum, d);
    if (lane >= d) sum += up;
  }
  if (lane == warp_size - 1) scratch[warp] = sum;
  __syncthreads();
  T warps = scratch[lane];
  for (int d = 1; d < warp_size; d *= 2) {
    const T up = __shfl_up_sync(all_lanes, warps, d);
    if (lane >= d) warps += up;
  }
  const T before_warp = __shfl_sync(all_lanes, warps, warp == 0 ? 0 : warp - 1);
  const T before_lane = __shfl_up_sync(all_lanes, sum, 1);
  const T before = (warp == 0 ? T{0} : before_warp) + (lane == 0 ? T{0} : before_lane);
  values[2 * t] = before + a;
  values[2 * t + 1] = before + a + b;
  __syncthreads();
}

// The first index with test(index), n_bins if there is none; the same for all threads.
template <class Test>
__device__ inline int first_where(int* slot, Test test) {
  __syncthreads();
  if (threadIdx.x == 0) *slot = n_bins;
  __syncthreads();
  const int i = 2 * static_cast<int>(threadIdx.x);
  if (test(i)) {
    atomicMin(slot, i);
  } else if (test(i + 1)) {
    atomicMin(slot, i + 1);
  }
  __syncthreads();
  return *slot;
}

// What is looked for: the element of a rank (from 1), or an earlier one if the mass up to and with it reaches (or, with
// `beyond`, passes) a number.
struct Goal {
  uint32_t rank;
  double mass;
  bool beyond;
  __device__ bool met(uint32_t at_rank, double at_mass) const {
    return at_rank >= rank || (beyond ? at_mass > mass : at_mass >= mass);
  }
};

// An element of a row's order: the mass up to and with it.
struct Place {
  uint32_t rank;
  double mass;
  int32_t id;
};

// Elements of the bins first .. last; of those whose inverted key, shifted, is `prefix`.
struct Filter {
  int first, last;
  int shift;
  uint32_t prefix;
  __device__ bool takes(int bin, uint32_t inverted) const {
    return bin >= first && bin <= last && static_cast<uint32_t>(uint64_t{inverted} >> shift) == prefix;
  }
};

// One row's search: a block of draw_threads.
struct Search {
  const float* row;
  int64_t cols;
  bool wide;
  float temperature;
  Bins bins;
  uint32_t* count_end;  // [n_bins] elements in this bin and those before
  double* mass_end;
  Histogram part;
  uint64_t* keys;   // [n_bins] sorted elements: inverted key high, id low
  double* mass_at;  // [n_bins] mass up to and with an element, from the first of keys
  double* scratch;  // [32]
  uint32_t* count_scratch;
  int* slot;
  uint32_t* n_gathered;
  // What keys holds: all elements of these bins.
  int first_bin = 1, last_bin = 0;
  uint32_t n = 0, rank_before = 0;
  double mass_before = 0;

  __device__ double probability(float z) const {
    return exp((static_cast<double>(z) - bins.best) / static_cast<double>(temperature));
  }

  // Fills keys with the n <= n_bins elements that `filter` takes, in order, and mass_at.
  __device__ void gather(const Filter& filter) {
    const int t = static_cast<int>(threadIdx.x);
    if (t == 0) *n_gathered = 0;
    __syncthreads();
    visit(row, 0, cols, wide, [&](float z, uint32_t id) {
      double within = 0;
      const uint32_t inverted = ~order_key(z);
      if (!filter.takes(bins.of(z, &within), inverted)) return;
      const uint32_t at = atomicAdd(n_gathered, 1u);
      if (at < n_bins) keys[at] = uint64_t{inverted} << 32 | id;
    });
    __syncthreads();
    int size = 2;
    while (size < static_cast<int>(n)) size *= 2;
    for (int i = static_cast<int>(n) + t; i < size; i += draw_threads) keys[i] = ~uint64_t{0};
    // Bitonic: runs of `length` that rise and fall in turn.
    for (int length = 2; length <= size; length *= 2) {
      for (int apart = length / 2; apart > 0; apart /= 2) {
        __syncthreads();
        if (t >= size / 2) continue;
        const int i = 2 * t - (t & (apart - 1)), j = i + apart;
        const uint64_t a = keys[i], b = keys[j];
        if ((a > b) == ((i & length) == 0)) {
          keys[i] = b;
          keys[j] = a;
        }
      }
    }
    __syncthreads();
    for (int i = t; i < n_bins; i += draw_threads)
      mass_at[i] = i < static_cast<int>(n) ? probability(logit_of(~static_cast<uint32_t>(keys[i] >> 32))) : 0;
    prefix_sums(mass_at, scratch);
  }

  // Narrows a bin of too many elements by eleven bits of the key at a time, to the elements among which the goal lies.
  __device__ void narrow(Filter& filter, const Goal& goal) {
    const double unit = bins.unit(filter.first);
    while (n > n_bins && filter.shift > 0) {
      const int n_bits = filter.shift == 32 ? 11 : filter.shift == 21 ? 11 : 10;
      const int shift = filter.shift - n_bits;
      __syncthreads();
      part.clear();
      __syncthreads();
      visit(row, 0, cols, wide, [&](float z, uint32_t) {
        double within = 0;
        const uint32_t inverted = ~order_key(z);
        if (filter.takes(bins.of(z, &within), inverted))
          part.add(static_cast<int>(inverted >> shift & ((1u << n_bits) - 1)), mass_units(within));
      });
      __syncthreads();
      for (int i = static_cast<int>(threadIdx.x); i < n_bins; i += draw_threads)
        mass_at[i] = unit * static_cast<double>(part.mass(i));
      prefix_sums(part.count, count_scratch);
      prefix_sums(mass_at, scratch);
      const int at = first_where(slot, [&](int i) {
        const uint32_t end = part.count[i];
        if (end == (i == 0 ? 0 : part.count[i - 1])) return false;
        return end == n || goal.met(rank_before + end, mass_before + mass_at[i]);
      });
      n = part.count[at] - (at == 0 ? 0 : part.count[at - 1]);
      rank_before += at == 0 ? 0 : part.count[at - 1];
      mass_before += at == 0 ? 0 : mass_at[at - 1];
      filter.prefix = filter.prefix << n_bits | static_cast<uint32_t>(at);
      filter.shift = shift;
    }
  }

  // The goal among more equal logits than keys can hold.
  __device__ Place among_ties(const Filter& filter, const Goal& goal) {
    const double each = probability(logit_of(~filter.prefix));
    const double steps = (goal.mass - mass_before) / each;
    const double by_mass = goal.beyond ? floor(steps) : ceil(steps) - 1;
    uint32_t at = goal.rank - rank_before - 1;
    if (by_mass < static_cast<double>(at)) at = by_mass > 0 ? static_cast<uint32_t>(by_mass) : 0;
    if (at >= n) at = n - 1;
    // The id of tie number `at`.
    const int t = static_cast<int>(threadIdx.x), lane = t % warp_size, warp = t / warp_size;
    uint32_t found = 0;
    for (int64_t first = 0; first < cols; first += draw_threads) {
      const bool tie = first + t < cols && ~order_key(row[first + t]) == filter.prefix;
      const unsigned ties = __ballot_sync(all_lanes, tie);
      __syncthreads();
      if (lane == 0) count_scratch[warp] = static_cast<uint32_t>(__popc(ties));
      __syncthreads();
      uint32_t before = found;
      for (int w = 0; w < draw_threads / warp_size; ++w) {
        if (w < warp) before += count_scratch[w];
        found += count_scratch[w];
      }
      before += static_cast<uint32_t>(__popc(ties & ((1u << lane) - 1)));
      if (tie && before == at) *slot = static_cast<int>(first + t);
      if (found > at) break;  // the same in all threads
    }
    __syncthreads();
    return {rank_before + at + 1, mass_before + (at + 1) * each, *slot};
  }

  __device__ Place find(const Goal& goal) {
    const int bin = first_where(slot, [&](int b) {
      const uint32_t end = count_end[b];
      return end > (b == 0 ? 0 : count_end[b - 1]) && goal.met(end, mass_end[b]);
    });
    if (bin < first_bin || bin > last_bin) {
      // All from the largest on, where they fit.
      const bool whole = count_end[bin] <= n_bins || bin == 0;
      Filter filter = {whole ? 0 : bin, bin, 32, 0};
      rank_before = whole ? 0 : count_end[bin - 1];
      mass_before = whole ? 0 : mass_end[bin - 1];
      n = count_end[bin] - rank_before;
      first_bin = filter.first;
      last_bin = filter.last;
      if (n > n_bins) {
        first_bin = 1;
        last_bin = 0;
        narrow(filter, goal);
        if (n > n_bins) return among_ties(filter, goal);
      }
      gather(filter);
    }
    const int at = first_where(slot, [&](int i) {
      const uint32_t rank = static_cast<uint32_t>(i) + 1;
      return rank <= n && (rank == n || goal.met(rank_before + rank, mass_before + mass_at[i]));
    });
    return {rank_before + static_cast<uint32_t>(at) + 1, mass_before + mass_at[at],
            static_cast<int32_t>(static_cast<uint32_t>(keys[at]))};
  }
};

constexpr size_t draw_shared_bytes = 4 * shared_bytes_of<uint32_t>(n_bins) + 3 * shared_bytes_of<uint64_t>(n_bins) +
                                     shared_bytes_of<double>(warp_size) + shared_bytes_of<uint32_t>(warp_size) +
                                     2 * shared_bytes_of<int>(1);

// One block per row: what top_k keeps, of that what top_p keeps, of that the token drawn.
__global__ void __launch_bounds__(draw_threads, 1)
    draw_kernel(int32_t* ids, const float* logits, const SampleParams* params, const Extremes* extremes,
                const uint32_t* counts, const uint64_t* masses, Chunks chunks) {
  SharedMemory memory;
  uint32_t* count_end = memory.take<uint32_t>(n_bins);
  uint32_t* part_count = memory.take<uint32_t>(n_bins);
  uint32_t* part_low = memory.take<uint32_t>(n_bins);
  uint32_t* part_high = memory.take<uint32_t>(n_bins);
  double* mass_end = memory.take<double>(n_bins);
  uint64_t* keys = memory.take<uint64_t>(n_bins);
  double* mass_at = memory.take<double>(n_bins);
  double* scratch = memory.take<double>(warp_size);
  uint32_t* count_scratch = memory.take<uint32_t>(warp_size);
  int* slot = memory.take<int>(1);
  uint32_t* n_gathered = memory.take<uint32_t>(1);

  const int64_t r = blockIdx.x;
  const Extremes e = row_extremes(extremes, chunks.n);
  int32_t id;
  if (settled(&id, e, params[r])) return;  // bins_kernel has written it
  const SampleParams mine = params[r];
  const auto temperature = static_cast<float>(mine.sampling.temperature),
             top_p = static_cast<float>(mine.sampling.top_p);
  const int32_t top_k = mine.sampling.top_k;
  const Bins bins(e, temperature);
  for (int i = static_cast<int>(threadIdx.x); i < n_bins; i += draw_threads) {
    uint32_t count = 0;
    uint64_t mass = 0;
    for (int c = 0; c < chunks.n; ++c) {
      const int64_t at = (r * chunks.n + c) * n_bins + i;
      count += counts[at];
      mass += masses[at];
    }
    count_end[i] = count;
    mass_end[i] = bins.unit(i) * static_cast<double>(mass);
  }
  prefix_sums(count_end, count_scratch);
  prefix_sums(mass_end, scratch);

  Search search = {
      logits + r * chunks.stride,        chunks.cols, chunks.wide, temperature, bins,          count_end, mass_end,
      {part_count, part_low, part_high}, keys,        mass_at,     scratch,     count_scratch, slot,      n_gathered};
  uint32_t kept = count_end[n_bins - 1];
  double sum = mass_end[n_bins - 1];
  const double uniform = sample_uniform(mine.sampling.seed, mine.record_hash, mine.sample, mine.position);
  for (int step = 0; step < 3; ++step) {
    Goal goal = {kept, 0, false};
    if (step == 0) {
      if (top_k <= 0 || static_cast<uint32_t>(top_k) >= kept) continue;
      goal.rank = static_cast<uint32_t>(top_k);
      goal.mass = INFINITY;
    } else if (step == 1) {
      if (!(top_p < 1)) continue;
      goal.mass = static_cast<double>(top_p) * sum;
    } else {
      goal.mass = uniform * sum;
      goal.beyond = true;
    }
    const Place place = search.find(goal);
    kept = place.rank;
    sum = place.mass;
    id = place.id;
  }
  if (threadIdx.x == 0) ids[r] = id;
}

}  // namespace

void CudaBackend::sample(int32_t* ids, Tensor logits, const SampleParams* params) {
  if (logits.rows == 0) return;
  if (logits.cols >= max_logits)
    throw Error("sample",
                "expected fewer than " + std::to_string(max_logits) + " logits, found " + std::to_string(logits.cols));
  // Enough blocks for all processors, none with less than a few thousand logits.
  int64_t n_chunks = std::min<int64_t>(max_chunks, ceil_div(2 * info_.n_processors, logits.rows));
  n_chunks = std::max<int64_t>(1, std::min(n_chunks, ceil_div(logits.cols, 2048)));
  Chunks chunks = {};
  chunks.cols = logits.cols;
  chunks.stride = logits.stride;
  chunks.length = round_up(ceil_div(logits.cols, n_chunks), 4);
  chunks.n = static_cast<int32_t>(n_chunks);
  chunks.wide = wide_rows(logits);

  // As many parts as any number of rows up to 2 * n_processors makes: the scratch memory does not grow row by row.
  const int64_t n_parts = std::max(logits.rows * n_chunks, 2 * int64_t{info_.n_processors} + max_chunks);
  const int64_t mass_bytes = n_parts * n_bins * static_cast<int64_t>(sizeof(uint64_t));
  const int64_t count_bytes = n_parts * n_bins * static_cast<int64_t>(sizeof(uint32_t));
  const int64_t extreme_bytes = n_parts * static_cast<int64_t>(sizeof(Extremes));
  char* base =
      static_cast<char*>(scratch(Scratch::sample, static_cast<size_t>(mass_bytes + count_bytes + extreme_bytes)));
  uint64_t* masses = reinterpret_cast<uint64_t*>(base);
  uint32_t* counts = reinterpret_cast<uint32_t*>(base + mass_bytes);
  Extremes* extremes = reinterpret_cast<Extremes*>(base + mass_bytes + count_bytes);

  const dim3 parts(static_cast<unsigned>(logits.rows), static_cast<unsigned>(n_chunks));
  launch("sample_extremes", extremes_kernel, parts, 256, shared_bytes_of<Extremes>(warp_size), stream_, extremes,
         logits.data, chunks);
  launch("sample_bins", bins_kernel, parts, bins_threads, 3 * shared_bytes_of<uint32_t>(n_bins), stream_, ids, counts,
         masses, logits.data, params, extremes, chunks);
  launch("sample_draw", draw_kernel, dim3(static_cast<unsigned>(logits.rows)), draw_threads, draw_shared_bytes, stream_,
         ids, logits.data, params, extremes, counts, masses, chunks);
}

}  // namespace signalbox::kernels::DEVICE_SPACE
