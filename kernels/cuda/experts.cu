// Routed experts: few tokens go to gemv.h, more through tiles that a map on the device assigns to experts.
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/gemv.h"
#include "kernels/cuda/tile_gemm.h"
#include "kernels/cuda/tile_map.h"

namespace signalbox::kernels::DEVICE_SPACE {

namespace {

TileMapKey key_of(const Route& route, int64_t n_tokens, const ExpertBlock& block, TileSize size) {
  return {route.ids, n_tokens, route.n_slots, static_cast<int32_t>(block.n_experts), tile_rows(size)};
}

const ExpertBlock& block_of(const ExpertMatrices& experts) {
  const auto* block = dynamic_cast<const ExpertBlock*>(experts.packed);
  if (!block) throw Error("CUDA experts", "expected experts that pack_experts has packed, found others");
  return *block;
}

TileGemm routed(Tensor out, Tensor a, const TileMap& map, const ExpertBlock& block) {
  TileGemm g;
  g.out = out.data;
  g.out_stride = out.stride;
  g.out_bf16 = out.dtype == DType::bf16;
  g.a = a.as<bf16>();
  g.a_stride = static_cast<int32_t>(a.stride);
  g.tiles = map.tiles;
  g.n_tiles = map.n_tiles;
  g.pairs = map.pairs;
  g.max_tiles = map.max_tiles;
  g.n_experts = static_cast<int32_t>(block.n_experts);
  g.m = out.rows;
  return g;
}

}  // namespace

void CudaBackend::experts_hidden(Tensor hidden, Tensor x, const Route& route, int64_t n_tokens,
                                 const ExpertMatrices& experts, const Activation& activation, uint64_t* leaks) {
  const ExpertBlock& block = block_of(experts);
  const int64_t n_pairs = n_tokens * route.n_slots;
  if (n_pairs == 0) return;
  if (!invariant() && n_tokens <= gemv_max_tokens) {
    gemv_experts_hidden(stream_, hidden, x, route, n_tokens, block, activation, leaks);
    return;
  }
  x = aligned_operand(x.first_rows(n_tokens));
  const TileSize size = expert_tile_size(n_pairs, block.n_experts);
  const TileMapKey key = key_of(route, n_tokens, block, size);
  void* memory = scratch(Scratch::tile_map, tile_map_bytes(key));
  const TileMap map = tile_map_at(memory, key);
  build_tile_map(stream_, map, key, route.banned, leaks);
  map_key_ = key;

  const bool mxfp4 = block.format == ExpertBlock::Format::mxfp4;
  TileGemm g = routed(hidden, x, map, block);
  const int64_t group_bytes = 8 * block.gate_up_stride * (mxfp4 ? 1 : 4) / 2;
  g.b[0] = block.gate_up;
  g.b[1] = static_cast<const char*>(block.gate_up) + group_bytes;
  g.b_stride[0] = g.b_stride[1] = static_cast<int32_t>(block.gate_up_stride);
  g.b_batch = block.gate_up_rows * block.gate_up_stride;
  g.b_group = 16;
  if (mxfp4) {
    g.scale_stride = block.gate_up_stride / 32;
    g.scale_batch = block.gate_up_rows * g.scale_stride;
    g.scales[0] = block.gate_up_scales;
    g.scales[1] = block.gate_up_scales + 8 * g.scale_stride;
  }
  g.bias[0] = block.gate_bias;
  g.bias[1] = block.up_bias;
  g.bias_batch = block.d_ff;
  g.n = static_cast<int32_t>(block.d_ff);
  g.k = static_cast<int32_t>(block.d_model);
  g.pairs_a_row = route.n_slots;
  g.activation = activation;
  run_tile_gemm(stream_, "experts_hidden", g, mxfp4 ? Weights::mxfp4 : Weights::rows, true, size);
}

void CudaBackend::experts_out(Tensor out, Tensor hidden, const Route& route, int64_t n_tokens,
                              const ExpertMatrices& experts) {
  const ExpertBlock& block = block_of(experts);
  const int64_t n_pairs = n_tokens * route.n_slots;
  if (n_pairs == 0) return;
  if (!invariant() && n_tokens <= gemv_max_tokens) {
    gemv_experts_out(stream_, out, hidden, route, n_tokens, block);
    return;
  }
  hidden = aligned_operand(hidden.first_rows(n_pairs));
  const TileSize size = expert_tile_size(n_pairs, block.n_experts);
  const TileMapKey key = key_of(route, n_tokens, block, size);
  void* memory = scratch(Scratch::tile_map, tile_map_bytes(key));
  const TileMap map = tile_map_at(memory, key);
  if (map_key_ != key) {  // experts_hidden has left the map of its route
    build_tile_map(stream_, map, key, nullptr, nullptr);
    map_key_ = key;
  }

  const bool mxfp4 = block.format == ExpertBlock::Format::mxfp4;
  TileGemm g = routed(out, hidden, map, block);
  g.b[0] = block.down;
  g.b_stride[0] = static_cast<int32_t>(block.down_stride);
  g.b_batch = block.d_model * block.down_stride;
  if (mxfp4) {
    g.scale_stride = block.down_stride / 32;
    g.scale_batch = block.d_model * g.scale_stride;
    g.scales[0] = block.down_scales;
  }
  g.bias[0] = block.down_bias;
  g.bias_batch = block.d_model;
  g.n = static_cast<int32_t>(block.d_model);
  g.k = static_cast<int32_t>(block.d_ff);
  run_tile_gemm(stream_, "experts_out", g, mxfp4 ? Weights::mxfp4 : Weights::rows, false, size);
}

}  // namespace signalbox::kernels::DEVICE_SPACE
