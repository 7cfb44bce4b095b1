// Matrix products in tiles on tensor cores: out = A B^T with A activations and B weights, bf16 with f32 sums.
//
// All of them are one kernel: dense products, batches of heads, and routed experts, whose rows of A are gathered and
// whose results are scattered by a tile map (tile_map.h). Tiles of A and B pass through a ring of shared memory filled
// by asynchronous copies; each warp keeps its part of the result in registers.
//
// Every element is summed in steps of 16 along K, in order, into one accumulator, by the same instruction in all three
// sizes of tiles. So its bits do not depend on the size, on other rows or on the row's place: the invariant mode may
// choose sizes freely.
#pragma once
#include "base/namespaces.h"
#include "kernels/cuda/runtime.h"

namespace signalbox::kernels::DEVICE_SPACE {

// A product as the kernel sees it. Strides count elements. A "batch" is a head, or an expert of a routed product.
struct TileGemm {
  void* out = nullptr;  // f32 or bf16, rows of out_stride
  int64_t out_stride = 0, out_batch = 0;
  bool out_bf16 = false;
  bool out_pairs = false;  // neighbouring columns may be stored as one word (set by run_tile_gemm)

  const bf16* a = nullptr;  // [m, k], rows and base 16-byte aligned
  int64_t a_batch = 0;
  int32_t a_stride = 0;

  // b[0] [n, k], b[1] the up rows of a gated product. Rows r = 8 i + j stand at i * b_group + j. The form `columns`:
  // b[0] [k, n].
  const void* b[2] = {};
  int64_t b_batch = 0;
  int32_t b_stride[2] = {};
  int32_t b_group = 8;
  const uint8_t* scales[2] = {};  // mxfp4: one a row and 32 columns
  int64_t scale_stride = 0, scale_batch = 0;
  const float* bias[2] = {};  // [n] or null
  int64_t bias_batch = 0;

  int64_t m = 0;          // rows of A (routed: set by the map)
  int32_t n = 0, k = 0;   // n: columns of out, half the rows of B of a gated product
  int32_t n_batches = 1;  // not routed
  Activation activation;  // gated

  // Routed: tile t = {expert, first, rows, 0} covers pairs[first .. first + rows). The row of out is the pair, the row
  // of A pair / pairs_a_row. Tiles of expert n_experts hold unused pairs, whose results are 0.
  const int4* tiles = nullptr;
  const int32_t* n_tiles = nullptr;
  const int32_t* pairs = nullptr;
  int64_t max_tiles = 0;
  int32_t n_experts = 0, pairs_a_row = 1;

  int32_t m_tiles = 0, n_column_tiles = 0;  // set by run_tile_gemm
};

// How B is stored: rows of bf16 along K, rows of four-bit floats along K, or rows of bf16 along N.
enum class Weights : uint8_t { rows, mxfp4, columns };

// small: few rows, where reading the weights is what takes time; large: many, where multiplying is.
enum class TileSize : uint8_t { small, medium, large };
constexpr int tile_rows(TileSize size) { return size == TileSize::small ? 16 : size == TileSize::medium ? 64 : 128; }

// The size for a product of m rows and n columns (of B) in n_batches.
TileSize tile_size(int64_t m, int64_t n, int64_t n_batches, int n_processors);
// The size for n_pairs rows spread over n_experts.
TileSize expert_tile_size(int64_t n_pairs, int64_t n_experts);

void run_tile_gemm(Stream stream, const char* name, TileGemm g, Weights weights, bool gated, TileSize size);

}  // namespace signalbox::kernels::DEVICE_SPACE
