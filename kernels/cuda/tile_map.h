// Which rows which block of a routed product makes, worked out on the device from a route.
#pragma once
#include "base/namespaces.h"
#include "kernels/cuda/runtime.h"

namespace signalbox::kernels::DEVICE_SPACE {

// Pairs (token, slot) = token * n_slots + slot in the order of their experts, ascending within an expert; unused pairs
// (id -1) last, as those of expert n_experts. Every tile covers up to rows_a_tile neighbouring pairs of one expert.
struct TileMap {
  int32_t* n_tiles = nullptr;
  int4* tiles = nullptr;      // [max_tiles] {expert, first, rows, 0}
  int32_t* pairs = nullptr;   // [n_pairs]
  int32_t* counts = nullptr;  // [n_chunks, n_experts + 1], where there is more than one chunk
  int32_t* starts = nullptr;  // [n_experts + 1]
  int64_t max_tiles = 0;      // what the host knows about n_tiles
};

// What a map is made of, as the host sees it.
struct TileMapKey {
  const int32_t* ids = nullptr;  // [n_tokens, n_slots]
  int64_t n_tokens = 0;
  int32_t n_slots = 0, n_experts = 0, rows_a_tile = 0;
  bool operator==(const TileMapKey&) const = default;
};

size_t tile_map_bytes(const TileMapKey& key);
TileMap tile_map_at(void* memory, const TileMapKey& key);

// Makes the map. With `banned` [n_tokens, n_experts] and `leaks`, counts there the pairs whose expert is banned.
void build_tile_map(Stream stream, const TileMap& map, const TileMapKey& key, const uint8_t* banned, uint64_t* leaks);

}  // namespace signalbox::kernels::DEVICE_SPACE
