// A stable counting sort of (token, slot) pairs by expert. Up to pairs_a_chunk pairs take one kernel of one block; more
// take three: counts of each chunk, their prefix sums, and the placing of each chunk.
#include "kernels/cuda/tile_map.h"

namespace signalbox::kernels::DEVICE_SPACE {

namespace {

constexpr int pairs_a_chunk = 2048;
constexpr int count_threads = 256, scan_threads = 1024, chunks_ahead = 8;

__host__ __device__ constexpr int64_t n_chunks_of(int64_t n_pairs) { return ceil_div(n_pairs, pairs_a_chunk); }

// The buckets of pairs first .. first + n: the expert, or n_experts where there is none. All threads; ends with a
// barrier. counts [n_experts + 1] are 0 before.
__device__ void count_pairs(int32_t* buckets, int32_t* counts, const int32_t* ids, int64_t first, int n, int n_experts,
                            int n_slots, const uint8_t* banned, uint64_t* leaks) {
  int n_leaks = 0;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) {
    const int id = ids[first + i], bucket = id >= 0 && id < n_experts ? id : n_experts;
    buckets[i] = bucket;
    atomicAdd(&counts[bucket], 1);
    if (banned && leaks && bucket < n_experts) n_leaks += banned[(first + i) / n_slots * n_experts + bucket] != 0;
  }
  for (int m = warp_size / 2; m > 0; m /= 2) n_leaks += __shfl_xor_sync(all_lanes, n_leaks, m);
  if (n_leaks > 0 && threadIdx.x % warp_size == 0)
    atomicAdd(reinterpret_cast<unsigned long long*>(leaks), static_cast<unsigned long long>(n_leaks));
  __syncthreads();
}

// Puts the pairs of a chunk at their places; next [n_experts + 1]: the place of each bucket's next pair. One warp, 32
// pairs at a time: a lane's place is after the lower lanes of its bucket.
__device__ void place_pairs(int32_t* pairs, int32_t* next, const int32_t* buckets, int64_t first, int n,
                            int n_experts) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int n_bits = 32 - __clz(n_experts + 1);
  for (int i = lane; i < round_up(n, warp_size); i += warp_size) {
    const int bucket = i < n ? buckets[i] : n_experts + 1;
    unsigned same = all_lanes;
    for (int bit = 0; bit < n_bits; ++bit) {
      const unsigned votes = __ballot_sync(all_lanes, bucket >> bit & 1);
      same &= bucket >> bit & 1 ? votes : ~votes;
    }
    const int rank = __popc(same & ((1u << lane) - 1));
    if (i < n) pairs[next[bucket] + rank] = static_cast<int32_t>(first + i);
    __syncwarp();
    if (i < n && rank == 0) next[bucket] += __popc(same);
    __syncwarp();
  }
}

// From totals [n_experts + 1] in starts: starts [n_experts + 1] and the tiles. All threads.
// tile_starts [n_experts + 1], warp_sums [2 * 32].
__device__ void make_tiles(int4* tiles, int32_t* n_tiles, int32_t* starts, int32_t* tile_starts, int32_t* warp_sums,
                           int n_pairs, int n_experts, int rows_a_tile) {
  const int n_buckets = n_experts + 1, n_threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  const int lane = thread % warp_size, warp = thread / warp_size, n_warps = n_threads / warp_size;
  const int per_thread = (n_buckets + n_threads - 1) / n_threads;
  const int from = min(n_buckets, thread * per_thread), to = min(n_buckets, from + per_thread);
  int rows = 0, count = 0;
  for (int e = from; e < to; ++e) rows += starts[e], count += (starts[e] + rows_a_tile - 1) / rows_a_tile;
  // Sums over this and all earlier threads.
  int rows_to = rows, count_to = count;
  for (int d = 1; d < warp_size; d *= 2) {
    const int r = __shfl_up_sync(all_lanes, rows_to, static_cast<unsigned>(d));
    const int c = __shfl_up_sync(all_lanes, count_to, static_cast<unsigned>(d));
    if (lane >= d) rows_to += r, count_to += c;
  }
  if (lane == warp_size - 1) warp_sums[warp] = rows_to, warp_sums[32 + warp] = count_to;
  __syncthreads();
  int total = 0;
  for (int w = 0; w < n_warps; ++w) {
    if (w < warp) rows_to += warp_sums[w], count_to += warp_sums[32 + w];
    total += warp_sums[32 + w];
  }
  int start = rows_to - rows, tile_start = count_to - count;
  for (int e = from; e < to; ++e) {
    const int n = starts[e];
    starts[e] = start;
    tile_starts[e] = tile_start;
    start += n;
    tile_start += (n + rows_a_tile - 1) / rows_a_tile;
  }
  __syncthreads();
  if (thread == 0) *n_tiles = total;
  for (int t = thread; t < total; t += n_threads) {
    int low = 0, high = n_buckets;  // the last bucket whose tiles start at t or before is in low .. high - 1
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (tile_starts[middle] <= t ? low : high) = middle;
    }
    const int end = low + 1 < n_buckets ? starts[low + 1] : n_pairs;
    const int tile_first = starts[low] + (t - tile_starts[low]) * rows_a_tile;
    tiles[t] = make_int4(low, tile_first, min(rows_a_tile, end - tile_first), 0);
  }
  __syncthreads();
}

__global__ void one_chunk_kernel(TileMap map, const int32_t* ids, int n_pairs, int n_experts, int n_slots,
                                 int rows_a_tile, const uint8_t* banned, uint64_t* leaks) {
  SharedMemory memory;
  int32_t* buckets = memory.take<int32_t>(pairs_a_chunk);
  int32_t* starts = memory.take<int32_t>(n_experts + 1);
  int32_t* tile_starts = memory.take<int32_t>(n_experts + 1);
  int32_t* warp_sums = memory.take<int32_t>(64);
  for (int e = static_cast<int>(threadIdx.x); e <= n_experts; e += static_cast<int>(blockDim.x)) starts[e] = 0;
  __syncthreads();
  count_pairs(buckets, starts, ids, 0, n_pairs, n_experts, n_slots, banned, leaks);
  make_tiles(map.tiles, map.n_tiles, starts, tile_starts, warp_sums, n_pairs, n_experts, rows_a_tile);
  if (threadIdx.x < warp_size) place_pairs(map.pairs, starts, buckets, 0, n_pairs, n_experts);
}

// Block: one chunk.
__global__ void count_kernel(TileMap map, const int32_t* ids, int64_t n_pairs, int n_experts, int n_slots,
                             const uint8_t* banned, uint64_t* leaks) {
  SharedMemory memory;
  int32_t* buckets = memory.take<int32_t>(pairs_a_chunk);
  int32_t* counts = memory.take<int32_t>(n_experts + 1);
  for (int e = static_cast<int>(threadIdx.x); e <= n_experts; e += static_cast<int>(blockDim.x)) counts[e] = 0;
  __syncthreads();
  const int64_t first = int64_t{blockIdx.x} * pairs_a_chunk;
  const int n = static_cast<int>(min(int64_t{pairs_a_chunk}, n_pairs - first));
  count_pairs(buckets, counts, ids, first, n, n_experts, n_slots, banned, leaks);
  int32_t* out = map.counts + int64_t{blockIdx.x} * (n_experts + 1);
  for (int e = static_cast<int>(threadIdx.x); e <= n_experts; e += static_cast<int>(blockDim.x)) out[e] = counts[e];
}

// One block. The counts become those of the chunks before.
__global__ void __launch_bounds__(scan_threads)
    scan_kernel(TileMap map, int n_chunks, int n_pairs, int n_experts, int rows_a_tile) {
  SharedMemory memory;
  int32_t* starts = memory.take<int32_t>(n_experts + 1);
  int32_t* tile_starts = memory.take<int32_t>(n_experts + 1);
  int32_t* warp_sums = memory.take<int32_t>(64);
  for (int e = static_cast<int>(threadIdx.x); e <= n_experts; e += static_cast<int>(blockDim.x)) {
    int sum = 0;
    int32_t* counts = map.counts + e;
    const int64_t stride = n_experts + 1;
    for (int first = 0; first < n_chunks; first += chunks_ahead) {
      int n[chunks_ahead];  // read together: a load does not pass the stores before it
#pragma unroll
      for (int i = 0; i < chunks_ahead; ++i) n[i] = counts[min(first + i, n_chunks - 1) * stride];
#pragma unroll
      for (int i = 0; i < chunks_ahead; ++i) {
        if (first + i >= n_chunks) continue;
        counts[(first + i) * stride] = sum;
        sum += n[i];
      }
    }
    starts[e] = sum;
  }
  __syncthreads();
  make_tiles(map.tiles, map.n_tiles, starts, tile_starts, warp_sums, n_pairs, n_experts, rows_a_tile);
  for (int e = static_cast<int>(threadIdx.x); e <= n_experts; e += static_cast<int>(blockDim.x))
    map.starts[e] = starts[e];
}

// Block: one chunk, which its first warp places.
__global__ void place_kernel(TileMap map, const int32_t* ids, int64_t n_pairs, int n_experts) {
  SharedMemory memory;
  int32_t* buckets = memory.take<int32_t>(pairs_a_chunk);
  int32_t* next = memory.take<int32_t>(n_experts + 1);
  const int64_t first = int64_t{blockIdx.x} * pairs_a_chunk;
  const int n = static_cast<int>(min(int64_t{pairs_a_chunk}, n_pairs - first));
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) {
    const int id = ids[first + i];
    buckets[i] = id >= 0 && id < n_experts ? id : n_experts;
  }
  const int32_t* before = map.counts + int64_t{blockIdx.x} * (n_experts + 1);
  for (int e = static_cast<int>(threadIdx.x); e <= n_experts; e += static_cast<int>(blockDim.x))
    next[e] = map.starts[e] + before[e];
  __syncthreads();
  if (threadIdx.x < warp_size) place_pairs(map.pairs, next, buckets, first, n, n_experts);
}

int64_t max_tiles_of(const TileMapKey& key) {
  const int64_t n_pairs = key.n_tokens * key.n_slots, n_buckets = int64_t{key.n_experts} + 1;
  return n_pairs / key.rows_a_tile + (n_pairs < n_buckets ? n_pairs : n_buckets);
}

}  // namespace

size_t tile_map_bytes(const TileMapKey& key) {
  const TileMap map = tile_map_at(nullptr, key);
  return reinterpret_cast<uintptr_t>(map.starts) + shared_bytes_of<int32_t>(static_cast<size_t>(key.n_experts) + 1);
}

TileMap tile_map_at(void* memory, const TileMapKey& key) {
  const int64_t n_pairs = key.n_tokens * key.n_slots, n_chunks = n_chunks_of(n_pairs);
  uintptr_t at = reinterpret_cast<uintptr_t>(memory);
  const auto take = [&]<class T>(T*& p, int64_t n) {
    p = reinterpret_cast<T*>(at);
    at += shared_bytes_of<T>(static_cast<size_t>(n));
  };
  TileMap map;
  map.max_tiles = max_tiles_of(key);
  take(map.n_tiles, 4);
  take(map.tiles, map.max_tiles);
  take(map.pairs, n_pairs);
  take(map.counts, n_chunks > 1 ? n_chunks * (key.n_experts + 1) : 0);
  take(map.starts, key.n_experts + 1);
  return map;
}

void build_tile_map(Stream stream, const TileMap& map, const TileMapKey& key, const uint8_t* banned, uint64_t* leaks) {
  const int64_t n_pairs = key.n_tokens * key.n_slots, n_chunks = n_chunks_of(n_pairs);
  const size_t bucket_bytes = shared_bytes_of<int32_t>(static_cast<size_t>(key.n_experts) + 1);
  const size_t chunk_bytes = shared_bytes_of<int32_t>(pairs_a_chunk), sum_bytes = shared_bytes_of<int32_t>(64);
  if (n_chunks <= 1) {
    launch("tile_map", one_chunk_kernel, 1, count_threads, chunk_bytes + 2 * bucket_bytes + sum_bytes, stream, map,
           key.ids, n_pairs, key.n_experts, key.n_slots, key.rows_a_tile, banned, leaks);
    return;
  }
  launch("tile_map_count", count_kernel, static_cast<unsigned>(n_chunks), count_threads, chunk_bytes + bucket_bytes,
         stream, map, key.ids, n_pairs, key.n_experts, key.n_slots, banned, leaks);
  launch("tile_map_scan", scan_kernel, 1, scan_threads, 2 * bucket_bytes + sum_bytes, stream, map, n_chunks, n_pairs,
         key.n_experts, key.rows_a_tile);
  launch("tile_map_place", place_kernel, static_cast<unsigned>(n_chunks), count_threads, chunk_bytes + bucket_bytes,
         stream, map, key.ids, n_pairs, key.n_experts);
}

}  // namespace signalbox::kernels::DEVICE_SPACE
