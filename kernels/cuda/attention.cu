// Attention: how the rows of a batch are cut into tiles and their keys into splits.
//
// The host knows sizes only, so a tile is so many neighbouring tokens of the batch; the kernel finds the sequences in
// it. Many rows take tiles of 64, few take tiles of 16, and where tiles alone would leave processors idle, the keys are
// split over blocks as well. An invariant backend splits at fixed positions, whatever the batch.
#include <algorithm>

#include "kernels/cuda/attention_kernel.h"
#include "kernels/cuda/cuda_backend.h"

namespace signalbox::kernels::DEVICE_SPACE {

namespace {

// Keys of a split. Fixed ones trade a lone token's time against the parts that the rows of a prompt write; others pay
// from so many keys on.
constexpr int64_t invariant_split = 512, min_split = 64, min_keys_to_split = 257;
// Blocks that keep a processor busy, for tiles of 16 and of 64 rows.
constexpr int64_t blocks_of_16 = 4, blocks_of_64 = 2;
// Rows from which tiles of 64 pay, and tokens: those of a few sequences' next tokens share no keys.
constexpr int64_t min_rows_of_64 = 256, min_tokens_of_64 = 32;
// Tokens for each that a tile of 16 rows takes at once.
constexpr int64_t tokens_for_one = 8;
// Parts of one launch; the tiles of longer prompts take several.
constexpr size_t max_part_bytes = size_t{64} << 20;

bool aligned(const void* p, size_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }

// Bytes of the parts of a tile, of one head tile.
template <class S>
size_t part_bytes(int64_t n_slots) {
  return static_cast<size_t>(n_slots) * S::ROWS * (S::DV + 2) * sizeof(float);
}

// `parts`: those of tiles_a_launch tiles.
template <class S>
void launch_attend(AttendArgs args, int64_t n_tokens, int64_t n_kv_heads, int64_t tiles_a_launch, void* parts,
                   Stream stream) {
  const int64_t n_tiles = ceil_div(n_tokens, args.tokens), n_head_tiles = n_kv_heads * args.head_tiles;
  if (parts) {
    args.part_sums = static_cast<float*>(parts);
    args.part_stats = args.part_sums + tiles_a_launch * n_head_tiles * args.n_slots * S::ROWS * S::DV;
  }
  for (int64_t first = 0; first < n_tiles; first += tiles_a_launch) {
    const int64_t tiles = std::min(tiles_a_launch, n_tiles - first);
    args.first_token = static_cast<int>(first * args.tokens);
    args.last_token = static_cast<int>(std::min(n_tokens, (first + tiles) * args.tokens));
    launch("attend", attend<S>,
           dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(n_head_tiles), static_cast<unsigned>(args.n_slots)),
           dim3(S::threads), S::shared(), stream, args);
    if (!parts) continue;
    const int64_t n_heads = n_kv_heads * args.group;
    const int64_t items = (args.last_token - args.first_token) * n_heads * ceil_div(S::DV, 4 * warp_size);
    launch("merge_parts", merge_parts, dim3(static_cast<unsigned>(ceil_div(items, 4))), dim3(4 * warp_size), 0, stream,
           args, n_heads, S::ROWS, S::DV);
  }
}

// What the plan needs to know of the kernels of one class of heads.
struct Kernels {
  int64_t max_key, max_value;  // dims that they hold
  bool alias;
  size_t shared_of_64;
  size_t (*part_bytes)(int64_t n_slots, bool large);
  void (*launch)(bool large, AttendArgs args, int64_t n_tokens, int64_t n_kv_heads, int64_t tiles_a_launch, void* parts,
                 Stream stream);
};

template <class Small, class Large>
constexpr Kernels kernels_of() {
  return {Small::DK,
          Small::DV,
          Small::ALIAS,
          Large::shared(),
          [](int64_t n_slots, bool large) { return large ? part_bytes<Large>(n_slots) : part_bytes<Small>(n_slots); },
          [](bool large, AttendArgs args, int64_t n_tokens, int64_t n_kv_heads, int64_t tiles_a_launch, void* parts,
             Stream stream) {
            (large ? launch_attend<Large> : launch_attend<Small>)(args, n_tokens, n_kv_heads, tiles_a_launch, parts,
                                                                  stream);
          }};
}

const Kernels kernel_classes[] = {
    kernels_of<AttendShape<64, 64, 16, 64, 4, 2, false>, AttendShape<64, 64, 64, 64, 4, 1, false>>(),
    kernels_of<AttendShape<128, 128, 16, 64, 4, 2, false>, AttendShape<128, 128, 64, 64, 4, 1, false>>(),
    kernels_of<AttendShape<256, 256, 16, 64, 4, 1, false>, AttendShape<256, 256, 64, 64, 8, 1, false>>(),
    kernels_of<AttendShape<576, 512, 16, 32, 4, 2, true>, AttendShape<576, 512, 64, 32, 8, 2, true>>(),
    // Latents whose keys or values are edited: the values then have a cache of their own.
    kernels_of<AttendShape<576, 512, 16, 32, 4, 1, false>, AttendShape<576, 512, 64, 32, 8, 1, false>>(),
};

}  // namespace

void CudaBackend::attention(Tensor out, Tensor q, const KvCache& cache, const BatchView& batch,
                            const AttentionParams& params) {
  if (batch.n_tokens == 0) return;
  const bool latent = cache.keys == cache.values && params.n_kv_heads == 1 && cache.key_stride == cache.value_stride &&
                      params.d_value <= params.d_key;
  const Kernels* kernels = nullptr;
  for (const Kernels& k : kernel_classes) {
    if (!kernels && params.d_key <= k.max_key && params.d_value <= k.max_value && (latent || !k.alias)) kernels = &k;
  }
  if (!kernels) {
    throw Error("attention on a GPU",
                "expected heads of at most 256 dimensions, or latent keys of at most 576 with "
                "values of at most 512, found keys of " +
                    std::to_string(params.d_key) + " and values of " + std::to_string(params.d_value));
  }

  const int64_t n_tokens = batch.n_tokens, group = params.n_heads / params.n_kv_heads;
  const bool fits = kernels->shared_of_64 <= info_.shared_bytes;
  // Two questions in one: are there rows enough, and do they share keys? BatchView does not say the latter, so a batch
  // of 32 and more sequences of one token each comes here too, whose rows do not.
  const bool large = fits && (group >= 48 || (n_tokens >= min_tokens_of_64 && n_tokens * group >= min_rows_of_64));
  const int64_t rows = large ? 64 : 16, heads = std::min(group, rows);
  int64_t tokens = rows / heads;
  if (!large) tokens = std::clamp<int64_t>(n_tokens / tokens_for_one, 1, tokens);
  const int64_t head_tiles = ceil_div(group, heads), n_head_tiles = params.n_kv_heads * head_tiles;
  const int64_t n_tiles = ceil_div(n_tokens, tokens);

  // Keys that the neighbouring tokens of a tile may see, and the splits that so many keys can touch.
  const int64_t max_keys = std::max<int64_t>(1, batch.max_keys);
  const int64_t window = params.window > 0 && params.window < max_keys ? params.window : 0;
  const int64_t span = window > 0 ? std::min(max_keys, window + tokens - 1) : max_keys;
  int64_t split = invariant_split;
  if (!invariant()) {
    const int64_t wanted = info_.n_processors * (large ? blocks_of_64 : blocks_of_16);
    const int64_t splits = ceil_div(wanted, n_tiles * n_head_tiles);
    split = span < min_keys_to_split ? max_keys : std::max(min_split, round_up(ceil_div(span, splits), 64));
  }
  int64_t n_slots = ceil_div(max_keys, split);
  if (window > 0) n_slots = std::min(n_slots, ceil_div(span - 1, split) + 1);

  AttendArgs args{};
  args.out = out.as<bf16>();
  args.q = q.as<float>();
  args.keys = static_cast<const bf16*>(cache.keys);
  args.values = static_cast<const bf16*>(cache.values);
  args.positions = batch.positions;
  args.sequences = batch.sequences;
  args.block_tables = batch.block_tables;
  args.sinks = params.sinks;
  args.out_stride = out.stride;
  args.q_stride = q.stride;
  args.key_stride = cache.key_stride;
  args.value_stride = cache.value_stride;
  args.max_blocks = batch.max_blocks;
  args.scale = params.scale * log2_e;
  args.group = static_cast<int>(group);
  args.d_key = static_cast<int>(params.d_key);
  args.d_value = static_cast<int>(params.d_value);
  args.window = static_cast<int>(window);
  args.block_size = static_cast<int>(batch.block_size);
  args.tokens = static_cast<int>(tokens);
  args.heads = static_cast<int>(heads);
  args.head_tiles = static_cast<int>(head_tiles);
  args.split_keys = static_cast<int>(split);
  args.n_slots = static_cast<int>(n_slots);
  // The keys of every head begin at a multiple of 8 elements.
  const auto whole_chunks = [&](const void* data, int64_t stride, int64_t width) {
    return aligned(data, 16) && stride % 8 == 0 && (params.n_kv_heads == 1 || width % 8 == 0);
  };
  args.vector_keys = whole_chunks(cache.keys, cache.key_stride, params.d_key);
  args.vector_values = whole_chunks(cache.values, cache.value_stride, params.d_value);
  args.vector_q = aligned(q.data, 16) && q.stride % 4 == 0 && params.d_key % 4 == 0;
  args.paired_out = aligned(out.data, 4) && out.stride % 2 == 0 && params.d_value % 2 == 0;

  void* parts = nullptr;
  int64_t tiles_a_launch = n_tiles;
  if (n_slots > 1) {
    const size_t tile_bytes = kernels->part_bytes(n_slots, large) * static_cast<size_t>(n_head_tiles);
    tiles_a_launch = std::min(n_tiles, std::max<int64_t>(1, static_cast<int64_t>(max_part_bytes / tile_bytes)));
    parts = scratch(Scratch::attention_parts, static_cast<size_t>(tiles_a_launch) * tile_bytes);
  }
  kernels->launch(large, args, n_tokens, params.n_kv_heads, tiles_a_launch, parts, stream_);
}

}  // namespace signalbox::kernels::DEVICE_SPACE
