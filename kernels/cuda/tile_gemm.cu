#include "kernels/cuda/tile_gemm_kernel.h"

namespace signalbox::kernels::DEVICE_SPACE {

// Large tiles read each operand least often, but only pay if there are enough of them for all processors; with few rows
// the weights are read once in any size, and many small tiles keep more reads under way.
TileSize tile_size(int64_t m, int64_t n, int64_t n_batches, int n_processors) {
  if (m <= tile_rows(TileSize::small)) return TileSize::small;
  const auto n_tiles = [&](int64_t rows, int64_t columns) {
    return ceil_div(m, rows) * ceil_div(n, columns) * n_batches;
  };
  if (m > tile_rows(TileSize::medium) && n_tiles(128, 128) >= n_processors) return TileSize::large;
  // Narrow products of few dozen rows: small tiles give every processor something to read.
  const int64_t wanted = m > 2 * tile_rows(TileSize::small) ? ceil_div(n_processors, 2) : n_processors;
  return n_tiles(64, 64) >= wanted ? TileSize::medium : TileSize::small;
}

// Half of a last tile is waste on average, so a tile is a good deal shorter than the rows of an expert.
TileSize expert_tile_size(int64_t n_pairs, int64_t n_experts) {
  if (n_pairs <= 12 * n_experts) return TileSize::small;
  return n_pairs <= 128 * n_experts ? TileSize::medium : TileSize::large;
}

namespace {

template <Weights weights, bool gated>
void run_size(Stream stream, const char* name, const TileGemm& g, TileSize size) {
  switch (size) {
    case TileSize::small: return launch_tile_gemm<SmallTile, weights, gated>(stream, name, g);
    case TileSize::medium: return launch_tile_gemm<MediumTile, weights, gated>(stream, name, g);
    case TileSize::large: return launch_tile_gemm<LargeTile, weights, gated>(stream, name, g);
  }
}

}  // namespace

void run_tile_gemm(Stream stream, const char* name, TileGemm g, Weights weights, bool gated, TileSize size) {
  if ((!g.tiles && g.m == 0) || g.n == 0) return;
  const size_t pair_bytes = g.out_bf16 ? 4 : 8;
  g.out_pairs = reinterpret_cast<uintptr_t>(g.out) % pair_bytes == 0 && g.out_stride % 2 == 0 && g.out_batch % 2 == 0;
  if (weights == Weights::columns) {
    run_size<Weights::columns, false>(stream, name, g, size);
  } else if (weights == Weights::mxfp4) {
    gated ? run_size<Weights::mxfp4, true>(stream, name, g, size)
          : run_size<Weights::mxfp4, false>(stream, name, g, size);
  } else {
    gated ? run_size<Weights::rows, true>(stream, name, g, size)
          : run_size<Weights::rows, false>(stream, name, g, size);
  }
}

}  // namespace signalbox::kernels::DEVICE_SPACE
