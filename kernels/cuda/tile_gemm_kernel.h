// The kernel of tile_gemm.h.
#pragma once
#include "base/namespaces.h"
#include "kernels/cuda/activation.h"
#include "kernels/cuda/mxfp4.h"
#include "kernels/cuda/tile_gemm.h"

namespace signalbox::kernels::DEVICE_SPACE {

namespace {

// A block makes [m, n] of the result in steps of k; its warps stand in a grid of warps_m x warps_n.
template <int m_, int n_, int k_, int warps_m_, int warps_n_, int stages_, int blocks_>
struct TileShape {
  static constexpr int m = m_, n = n_, k = k_, warps_m = warps_m_, warps_n = warps_n_, stages = stages_;
  static constexpr int blocks = blocks_;  // that a processor should hold at once
  static constexpr int n_threads = warps_m * warps_n * warp_size;
  static constexpr int fragments_m = m / warps_m / 16, fragments_n = n / warps_n / 8;  // of a warp
};
using SmallTile = TileShape<16, 32, 128, 1, 2, 4, 4>;
using MediumTile = TileShape<64, 64, 64, 2, 2, 3, 3>;
using LargeTile = TileShape<128, 128, 32, 2, 2, 3, 2>;

// Where a chunk of 8 elements stands in a tile of rows of `chunks`: eight neighbouring rows read at one chunk, and the
// chunks of one row, lie in different banks.
template <int chunks>
__device__ inline int place_of(int row, int chunk) {
  return row * chunks + (chunk ^ (chunks >= 8 ? row & 7 : row >> 1 & 3));
}

template <class Shape, Weights weights>
constexpr size_t tile_shared_bytes() {
  const size_t a = shared_bytes_of<bf16>(size_t{Shape::stages} * Shape::m * Shape::k);
  const size_t b = shared_bytes_of<bf16>(size_t{weights == Weights::mxfp4 ? 2 : Shape::stages} * Shape::n * Shape::k);
  return a + b +
         (weights == Weights::mxfp4 ? shared_bytes_of<uint4>(size_t{Shape::stages} * Shape::n * Shape::k / 32) : 0);
}

__device__ inline void store_pair(const TileGemm& g, int64_t at, int column, float x, float y) {
  const bool both = column + 1 < g.n;
  if (g.out_bf16) {
    bf16* out = static_cast<bf16*>(g.out) + at;
    if (both && g.out_pairs) {
      *reinterpret_cast<uint32_t*>(out) = pack_bf16(x, y);
      return;
    }
    out[0] = to_bf16(x);
    if (both) out[1] = to_bf16(y);
  } else {
    float* out = static_cast<float*>(g.out) + at;
    if (both && g.out_pairs) {
      *reinterpret_cast<float2*>(out) = make_float2(x, y);
      return;
    }
    out[0] = x;
    if (both) out[1] = y;
  }
}

// The part of the weights that a thread brings into shared memory, one form for each way to store them.
//   begin: the copies of step `step` into slot `slot` of the ring.
//   finish: what is left to do in the thread's own landed copies before other threads read them.
template <class Shape, bool gated>
struct RowLoader {
  static constexpr int chunks = Shape::k / 8, rows_a_pass = Shape::n_threads / chunks, passes = Shape::n / rows_a_pass;
  // Every row of this thread belongs to the same one of gate and up.
  static constexpr bool one_matrix = !gated || rows_a_pass % 16 == 0;
  const TileGemm& g;
  int n_first, row, chunk, stride;
  const char *base, *up_base;
  bf16* ring;

  __device__ RowLoader(const TileGemm& g, int64_t batch, int n_first, bf16* b, uint4*)
      : g(g),
        n_first(n_first),
        row(static_cast<int>(threadIdx.x) / chunks),
        chunk(static_cast<int>(threadIdx.x) % chunks),
        ring(b) {
    base = reinterpret_cast<const char*>(static_cast<const bf16*>(g.b[0]) + batch * g.b_batch);
    up_base = gated ? reinterpret_cast<const char*>(static_cast<const bf16*>(g.b[1]) + batch * g.b_batch) : base;
    stride = g.b_stride[0];
    if (gated && one_matrix && (row & 8) != 0) base = up_base, stride = g.b_stride[1];
  }
  __device__ void begin(int step, int slot) const {
    const int k = step * Shape::k + chunk * 8;
    const int bytes = max(0, min(16, (g.k - k) * 2));
    bf16* to = ring + slot * Shape::n * Shape::k;
#pragma unroll
    for (int p = 0; p < passes; ++p) {
      const int i = row + p * rows_a_pass;
      const bool up = !one_matrix && (i & 8) != 0;
      const int n = gated ? n_first + (i >> 4) * 8 + (i & 7) : n_first + i;
      const int at = gated ? (n >> 3) * g.b_group + (n & 7) : n;
      const bool on = n < g.n && bytes > 0;
      const char* from = on ? (up ? up_base : base) + (int64_t{at} * (up ? g.b_stride[1] : stride) + k) * 2 : base;
      copy_async(to + place_of<chunks>(i, chunk) * 8, from, on ? bytes : 0);
    }
  }
  __device__ void finish(int, int) {}
  __device__ const bf16* landed(int, int slot) const { return ring + slot * Shape::n * Shape::k; }
};

// [k, n] in memory and in shared memory: ldmatrix transposes it.
template <class Shape>
struct ColumnLoader {
  static constexpr int chunks = Shape::n / 8, rows_a_pass = Shape::n_threads / chunks, passes = Shape::k / rows_a_pass;
  const TileGemm& g;
  int row, chunk, bytes;
  const bf16* base;
  bf16* ring;

  __device__ ColumnLoader(const TileGemm& g, int64_t batch, int n_first, bf16* b, uint4*)
      : g(g), row(static_cast<int>(threadIdx.x) / chunks), chunk(static_cast<int>(threadIdx.x) % chunks), ring(b) {
    const int n = n_first + chunk * 8;
    bytes = max(0, min(16, (g.n - n) * 2));
    base = static_cast<const bf16*>(g.b[0]) + batch * g.b_batch + (bytes > 0 ? n : 0);
  }
  __device__ void begin(int step, int slot) const {
    bf16* to = ring + slot * Shape::n * Shape::k;
#pragma unroll
    for (int p = 0; p < passes; ++p) {
      const int i = row + p * rows_a_pass, k = step * Shape::k + i;
      const bool on = k < g.k && bytes > 0;
      copy_async(to + place_of<chunks>(i, chunk) * 8, on ? base + int64_t{k} * g.b_stride[0] : base, on ? bytes : 0);
    }
  }
  __device__ void finish(int, int) {}
  __device__ const bf16* landed(int, int slot) const { return ring + slot * Shape::n * Shape::k; }
};

// Four bits an element, in a ring of their own; each thread expands what it has copied, into one of two tiles of bf16.
template <class Shape, bool gated>
struct Mxfp4Loader {
  static constexpr int chunks = Shape::k / 32, total = Shape::n * chunks, passes = total / Shape::n_threads;
  static_assert(total % Shape::n_threads == 0);
  const TileGemm& g;
  const unsigned char *base, *up_base;
  const uint8_t *scale_base, *up_scale_base;
  int n_first;
  bf16* tiles;
  uint4* ring;
  uint8_t scales[passes];  // of the next step to be expanded

  __device__ Mxfp4Loader(const TileGemm& g, int64_t batch, int n_first, bf16* b, uint4* packed)
      : g(g), n_first(n_first), tiles(b), ring(packed) {
    base = static_cast<const unsigned char*>(g.b[0]) + batch * g.b_batch / 2;
    up_base = gated ? static_cast<const unsigned char*>(g.b[1]) + batch * g.b_batch / 2 : base;
    scale_base = g.scales[0] + batch * g.scale_batch;
    up_scale_base = gated ? g.scales[1] + batch * g.scale_batch : scale_base;
    fetch_scales(0);
  }
  struct Place {
    int i, chunk;
    bool up;
    int n;
    int64_t row;
  };
  __device__ Place place(int p) const {
    const int index = static_cast<int>(threadIdx.x) + p * Shape::n_threads, i = index / chunks;
    const int n = gated ? n_first + (i >> 4) * 8 + (i & 7) : n_first + i;
    const int row = gated ? (n >> 3) * g.b_group + (n & 7) : n;
    return {i, index % chunks, gated && (i & 8) != 0, n, row};
  }
  __device__ void fetch_scales(int step) {
#pragma unroll
    for (int p = 0; p < passes; ++p) {
      const Place at = place(p);
      const int k = step * Shape::k + at.chunk * 32;
      const bool on = at.n < g.n && k < g.k;
      const uint8_t* from = (at.up ? up_scale_base : scale_base) + at.row * g.scale_stride + k / 32;
      scales[p] = on ? *from : static_cast<uint8_t>(127);
    }
  }
  __device__ void begin(int step, int slot) const {
#pragma unroll
    for (int p = 0; p < passes; ++p) {
      const Place at = place(p);
      const int k = step * Shape::k + at.chunk * 32;
      const bool on = at.n < g.n && k < g.k;
      const unsigned char* from = on ? (at.up ? up_base : base) + (at.row * g.b_stride[0] + k) / 2 : base;
      copy_async(ring + slot * total + threadIdx.x + p * Shape::n_threads, from, on ? 16 : 0);
    }
  }
  __device__ void finish(int step, int slot) {
    bf16* to = tiles + step % 2 * Shape::n * Shape::k;
#pragma unroll
    for (int p = 0; p < passes; ++p) {
      const Place at = place(p);
      const uint4 packed = ring[slot * total + static_cast<int>(threadIdx.x) + p * Shape::n_threads];
      const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        uint32_t pairs[4];
        unpack_mxfp4(words[j], scales[p], pairs);
        *reinterpret_cast<uint4*>(to + place_of<Shape::k / 8>(at.i, at.chunk * 4 + j) * 8) =
            make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
      }
    }
    fetch_scales(step + 1);
  }
  __device__ const bf16* landed(int step, int) const { return tiles + step % 2 * Shape::n * Shape::k; }
};

template <class Shape, Weights weights, bool gated>
struct LoaderOf {
  using type = RowLoader<Shape, gated>;
};
template <class Shape, bool gated>
struct LoaderOf<Shape, Weights::mxfp4, gated> {
  using type = Mxfp4Loader<Shape, gated>;
};
template <class Shape>
struct LoaderOf<Shape, Weights::columns, false> {
  using type = ColumnLoader<Shape>;
};

// Row tiles that share the second-level cache with each other's columns: blocks that run at the same time work on a
// piece of the result that is about as high as it is wide.
constexpr int raster_rows = 16;

// Block: one tile. Grid x: tiles of rows and columns; z: batches.
template <class Shape, Weights weights, bool gated>
__global__ void __launch_bounds__(Shape::n_threads, Shape::blocks)
    tile_gemm_kernel(const __grid_constant__ TileGemm g) {
  constexpr int chunks = Shape::k / 8, rows_a_pass = Shape::n_threads / chunks, passes = Shape::m / rows_a_pass;
  constexpr int steps_of_16 = Shape::k / 16, out_columns = gated ? Shape::n / 2 : Shape::n;
  constexpr int fm = Shape::fragments_m, fn = Shape::fragments_n;
  static_assert(fn % 2 == 0 && steps_of_16 % 2 == 0 && Shape::m % rows_a_pass == 0);
  SharedMemory memory;
  bf16* a_ring = memory.take<bf16>(size_t{Shape::stages} * Shape::m * Shape::k);
  bf16* b_ring = memory.take<bf16>(size_t{weights == Weights::mxfp4 ? 2 : Shape::stages} * Shape::n * Shape::k);
  uint4* packed_ring = nullptr;
  if constexpr (weights == Weights::mxfp4)
    packed_ring = memory.take<uint4>(size_t{Shape::stages} * Shape::n * Shape::k / 32);

  // ---- which tile

  const bool routed = g.tiles != nullptr;
  int column_tile, rows, first, batch;
  if (routed) {
    const int tile_index = static_cast<int>(blockIdx.x) / g.n_column_tiles;
    column_tile = static_cast<int>(blockIdx.x) % g.n_column_tiles;
    if (tile_index >= *g.n_tiles) return;
    const int4 tile = g.tiles[tile_index];
    batch = tile.x, first = tile.y, rows = tile.z;
  } else {
    const int group = static_cast<int>(blockIdx.x) / (raster_rows * g.n_column_tiles);
    const int rest = static_cast<int>(blockIdx.x) % (raster_rows * g.n_column_tiles);
    const int high = min(raster_rows, g.m_tiles - group * raster_rows);
    column_tile = rest / high;
    batch = static_cast<int>(blockIdx.z);
    first = (group * raster_rows + rest % high) * Shape::m;
    rows = min(Shape::m, static_cast<int>(g.m) - first);
  }
  const bool unused = routed && batch == g.n_experts;
  if (unused) batch = 0;
  const int n_first = column_tile * out_columns;
  const int n_steps = unused ? 0 : static_cast<int>(ceil_div(g.k, Shape::k));

  // ---- copies into the ring

  const int a_chunk = static_cast<int>(threadIdx.x) % chunks, a_row_first = static_cast<int>(threadIdx.x) / chunks;
  const char* a_base = reinterpret_cast<const char*>(g.a + (routed ? 0 : batch * g.a_batch));
  int a_rows[passes];
#pragma unroll
  for (int p = 0; p < passes; ++p) {
    const int i = a_row_first + p * rows_a_pass;
    a_rows[p] = -1;
    if (i < rows) a_rows[p] = routed ? g.pairs[first + i] / g.pairs_a_row : first + i;
  }
  typename LoaderOf<Shape, weights, gated>::type loader(g, batch, n_first, b_ring, packed_ring);
  const auto begin_copies = [&](int step, int slot) {
    const int k = step * Shape::k + a_chunk * 8;
    const int bytes = max(0, min(16, (g.k - k) * 2));
    bf16* to = a_ring + slot * Shape::m * Shape::k;
#pragma unroll
    for (int p = 0; p < passes; ++p) {
      const bool on = a_rows[p] >= 0 && bytes > 0;
      const char* from = on ? a_base + (int64_t{a_rows[p]} * g.a_stride + k) * 2 : a_base;
      copy_async(to + place_of<chunks>(a_row_first + p * rows_a_pass, a_chunk) * 8, from, on ? bytes : 0);
    }
    loader.begin(step, slot);
  };

  // ---- fragments out of the ring

  const int lane = static_cast<int>(threadIdx.x) % warp_size, warp = static_cast<int>(threadIdx.x) / warp_size;
  const int warp_row = warp / Shape::warps_n * (Shape::m / Shape::warps_m);
  const int warp_column = warp % Shape::warps_n * (Shape::n / Shape::warps_n);
  float sums[fm][fn][4] = {};
  uint32_t a_part[2][fm][4], b_part[2][fn / 2][4];
  const auto load_parts = [&](int buffer, const bf16* a, const bf16* b, int k16) {
#pragma unroll
    for (int i = 0; i < fm; ++i)
      load_matrices(a_part[buffer][i], a + place_of<chunks>(warp_row + i * 16 + lane % 16, k16 * 2 + lane / 16) * 8);
#pragma unroll
    for (int j = 0; j < fn / 2; ++j) {
      const int n = warp_column + j * 16;
      if constexpr (weights == Weights::columns) {
        load_matrices_transposed(b_part[buffer][j],
                                 b + place_of<Shape::n / 8>(k16 * 16 + lane % 16, n / 8 + lane / 16) * 8);
      } else {
        load_matrices(b_part[buffer][j],
                      b + place_of<chunks>(n + lane / 16 * 8 + lane % 8, k16 * 2 + lane / 8 % 2) * 8);
      }
    }
  };

  if (n_steps > 0) {
#pragma unroll 1
    for (int s = 0; s < Shape::stages; ++s) {
      if (s < n_steps) begin_copies(s, s);
      commit_copies();
    }
    wait_copies<Shape::stages - 1>();
    loader.finish(0, 0);
    __syncthreads();
    load_parts(0, a_ring, loader.landed(0, 0), 0);
    int slot = 0;
#pragma unroll 1
    for (int step = 0; step < n_steps; ++step) {
      const bf16* a = a_ring + slot * Shape::m * Shape::k;
      const bf16* b = loader.landed(step, slot);
#pragma unroll
      for (int k16 = 0; k16 < steps_of_16; ++k16) {
        const int buffer = k16 % 2;
        if (k16 + 1 < steps_of_16) {
          load_parts(buffer ^ 1, a, b, k16 + 1);
        } else {
          // All of this step is in registers: once every thread is here, its slot takes the copies of a later one.
          const int next = slot + 1 == Shape::stages ? 0 : slot + 1;
          wait_copies<Shape::stages - 2>();
          if (step + 1 < n_steps) loader.finish(step + 1, next);
          __syncthreads();
          if (step + Shape::stages < n_steps) begin_copies(step + Shape::stages, slot);
          commit_copies();
          if (step + 1 < n_steps)
            load_parts(buffer ^ 1, a_ring + next * Shape::m * Shape::k, loader.landed(step + 1, next), 0);
          slot = next;
        }
#pragma unroll
        for (int j = 0; j < fn; ++j) {
          const uint32_t b_fragment[2] = {b_part[buffer][j / 2][j % 2 * 2], b_part[buffer][j / 2][j % 2 * 2 + 1]};
#pragma unroll
          for (int i = 0; i < fm; ++i) mma(sums[i][j], a_part[buffer][i], b_fragment);
        }
      }
    }
  }

  // ---- results

  const int64_t out_base = routed ? 0 : batch * g.out_batch;
  int64_t out_rows[fm][2];
#pragma unroll
  for (int i = 0; i < fm; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = warp_row + i * 16 + half * 8 + lane / 4;
      out_rows[i][half] = r >= rows ? -1 : out_base + (routed ? g.pairs[first + r] : first + r) * g.out_stride;
    }
  }
#pragma unroll
  for (int j = 0; j < fn; j += gated ? 2 : 1) {
    const int c = n_first + (gated ? warp_column / 2 + j / 2 * 8 : warp_column + j * 8) + lane % 4 * 2;
    if (c >= g.n) continue;
    float bias[2][2] = {};
#pragma unroll
    for (int which = 0; which < (gated ? 2 : 1); ++which) {
      if (unused || !g.bias[which]) continue;
      const float* from = g.bias[which] + batch * g.bias_batch + c;
      bias[which][0] = from[0];
      if (c + 1 < g.n) bias[which][1] = from[1];
    }
#pragma unroll
    for (int i = 0; i < fm; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (out_rows[i][half] < 0) continue;
        float x = sums[i][j][half * 2] + bias[0][0], y = sums[i][j][half * 2 + 1] + bias[0][1];
        if constexpr (gated) {
          x = activate(g.activation, x, sums[i][j + 1][half * 2] + bias[1][0]);
          y = activate(g.activation, y, sums[i][j + 1][half * 2 + 1] + bias[1][1]);
        }
        store_pair(g, out_rows[i][half] + c, c, x, y);
      }
    }
  }
}

template <class Shape, Weights weights, bool gated>
void launch_tile_gemm(Stream stream, const char* name, TileGemm g) {
  g.m_tiles = static_cast<int32_t>(ceil_div(g.m, Shape::m));
  g.n_column_tiles = static_cast<int32_t>(ceil_div(g.n, gated ? Shape::n / 2 : Shape::n));
  const int64_t n_blocks = (g.tiles ? g.max_tiles : g.m_tiles) * g.n_column_tiles;
  launch(name, tile_gemm_kernel<Shape, weights, gated>,
         dim3(static_cast<unsigned>(n_blocks), 1, static_cast<unsigned>(g.tiles ? 1 : g.n_batches)),
         dim3(Shape::n_threads), tile_shared_bytes<Shape, weights>(), stream, g);
}

}  // namespace

}  // namespace signalbox::kernels::DEVICE_SPACE
