// Attention: tiles of query rows that share a key head, walked over chunks of keys.
//
// A row's state over a chunk (kernels.attend) starts fresh at the chunk's absolute position, and chunks are merged in
// ascending order. So whether one thread walks all chunks of a tile or many threads take a chunk each, the bits agree.
#include <cmath>
#include <limits>

#include "kernels/cpu/cpu_backend.h"

namespace signalbox::kernels::cpu {

namespace {

// Neighbouring tokens of one sequence at neighbouring positions, and some query heads of one key head.
struct Tile {
  int64_t first_token, n_tokens;
  int64_t kv_head, first_head, n_heads;
  int64_t first_key, last_key;  // keys that any of its rows sees
  int64_t n_rows() const { return n_tokens * n_heads; }
};

std::vector<Tile> make_tiles(const BatchView& batch, const AttentionParams& params) {
  const int64_t group = params.n_heads / params.n_kv_heads, heads = std::min(group, attend_max_rows);
  const int64_t tokens = std::max<int64_t>(1, attend_max_rows / heads);
  std::vector<Tile> tiles;
  for (int64_t t = 0; t < batch.n_tokens;) {
    int64_t n = 1;
    while (n < tokens && t + n < batch.n_tokens && batch.sequences[t + n] == batch.sequences[t] &&
           batch.positions[t + n] == batch.positions[t] + n) {
      ++n;
    }
    const int64_t position = batch.positions[t];
    const int64_t first_key = params.window > 0 ? std::max<int64_t>(0, position - params.window + 1) : 0;
    for (int64_t kv_head = 0; kv_head < params.n_kv_heads; ++kv_head) {
      for (int64_t h = 0; h < group; h += heads) {
        tiles.push_back({t, n, kv_head, kv_head * group + h, std::min(heads, group - h), first_key, position + n});
      }
    }
    t += n;
  }
  return tiles;
}

// What a thread needs to attend one tile to one chunk.
struct Walk {
  const Kernels& kernels;
  Tensor q;
  const KvCache& cache;
  const BatchView& batch;
  const AttentionParams& params;

  // maximum [rows], mass [rows], sums [rows, d_value] of the rows of a tile over the chunk that starts at `chunk`.
  // Rows without keys in the chunk are left with mass 0.
  void attend(const Tile& tile, int64_t chunk, float* maximum, float* mass, float* sums) const {
    const float* rows[attend_max_rows];
    int64_t row_first[attend_max_rows], row_last[attend_max_rows];
    const float* keys[attend_chunk];
    const float* values[attend_chunk];
    for (int64_t r = 0; r < tile.n_rows(); ++r) {
      const int64_t t = tile.first_token + r / tile.n_heads, h = tile.first_head + r % tile.n_heads;
      const int64_t position = batch.positions[t];
      rows[r] = q.row(t) + h * params.d_key;
      row_first[r] = params.window > 0 ? std::max<int64_t>(0, position - params.window + 1) : 0;
      row_last[r] = position + 1;
      maximum[r] = -std::numeric_limits<float>::infinity();
      mass[r] = 0;
    }
    std::fill_n(sums, tile.n_rows() * params.d_value, 0.f);
    AttendArgs args{};
    args.n_rows = tile.n_rows();
    args.q = rows;
    args.d_key = params.d_key;
    args.d_value = params.d_value;
    args.scale = params.scale;
    args.first = std::max(chunk, tile.first_key);
    args.last = std::min(chunk + attend_chunk, tile.last_key);
    const int32_t* table = batch.block_tables + batch.sequences[tile.first_token] * batch.max_blocks;
    for (int64_t p = args.first; p < args.last; ++p) {
      const int64_t row = int64_t{table[p / batch.block_size]} * batch.block_size + p % batch.block_size;
      keys[p - args.first] =
          static_cast<const float*>(cache.keys) + row * cache.key_stride + tile.kv_head * params.d_key;
      values[p - args.first] =
          static_cast<const float*>(cache.values) + row * cache.value_stride + tile.kv_head * params.d_value;
    }
    args.keys = keys;
    args.values = values;
    args.row_first = row_first;
    args.row_last = row_last;
    args.maximum = maximum;
    args.mass = mass;
    args.sums = sums;
    kernels.attend(args);
  }

  // The state of a row before its first chunk: the sink, if it has one.
  void begin(const Tile& tile, float* maximum, float* mass, float* sums) const {
    for (int64_t r = 0; r < tile.n_rows(); ++r) {
      const float sink =
          params.sinks ? params.sinks[tile.first_head + r % tile.n_heads] : -std::numeric_limits<float>::infinity();
      maximum[r] = sink;
      mass[r] = sink == -std::numeric_limits<float>::infinity() ? 0.f : 1.f;
    }
    std::fill_n(sums, tile.n_rows() * params.d_value, 0.f);
  }

  void merge(const Tile& tile, float* maximum, float* mass, float* sums, const float* chunk_maximum,
             const float* chunk_mass, const float* chunk_sums) const {
    for (int64_t r = 0; r < tile.n_rows(); ++r) {
      if (chunk_mass[r] == 0) continue;
      kernels.attend_merge(maximum + r, mass + r, sums + r * params.d_value, chunk_maximum[r], chunk_mass[r],
                           chunk_sums + r * params.d_value, params.d_value);
    }
  }

  void finish(const Tile& tile, Tensor out, const float* mass, const float* sums) const {
    for (int64_t r = 0; r < tile.n_rows(); ++r) {
      const int64_t t = tile.first_token + r / tile.n_heads, h = tile.first_head + r % tile.n_heads;
      kernels.scale(out.row(t) + h * params.d_value, sums + r * params.d_value, 1.f / mass[r], params.d_value);
    }
  }
};

}  // namespace

void CpuBackend::attention(Tensor out, Tensor q, const KvCache& cache, const BatchView& batch,
                           const AttentionParams& params) {
  const Walk walk{kernels_, q, cache, batch, params};
  const std::vector<Tile> tiles = make_tiles(batch, params);
  const int64_t n_tiles = static_cast<int64_t>(tiles.size());
  const int64_t state = attend_max_rows * (params.d_value + 2);  // floats of one state of a tile
  const auto chunks_of = [](const Tile& tile) {
    return (tile.last_key - 1) / attend_chunk - tile.first_key / attend_chunk + 1;
  };
  int64_t work = 0, most_chunks = 0;
  for (const Tile& tile : tiles) {
    work += tile.n_rows() * (tile.last_key - tile.first_key) * (params.d_key + params.d_value);
    most_chunks = std::max(most_chunks, chunks_of(tile));
  }

  const auto whole_tile = [&](int64_t i, int thread) {
    const Tile& tile = tiles[static_cast<size_t>(i)];
    float* total = scratch_[static_cast<size_t>(thread)].floats(2 * state);
    float* part = total + state;
    const int64_t rows = attend_max_rows;
    walk.begin(tile, total, total + rows, total + 2 * rows);
    for (int64_t c = tile.first_key / attend_chunk * attend_chunk; c < tile.last_key; c += attend_chunk) {
      walk.attend(tile, c, part, part + rows, part + 2 * rows);
      walk.merge(tile, total, total + rows, total + 2 * rows, part, part + rows, part + 2 * rows);
    }
    walk.finish(tile, out, total + rows, total + 2 * rows);
  };

  if (work < 131072 || n_threads() == 1) {
    for (int64_t i = 0; i < n_tiles; ++i) whole_tile(i, 0);
    return;
  }
  if (n_tiles >= 4 * n_threads() || most_chunks == 1) {
    // Later tiles of a prompt see more keys: begin with the longest.
    pool_.parallel_for(n_tiles, [&](int64_t i, int thread) { whole_tile(n_tiles - 1 - i, thread); });
    return;
  }

  // Few tiles, many keys: a task a chunk, at most 4 * n_threads tiles. Neighbouring tasks share a chunk: the heads of a
  // position lie in one page of the cache.
  std::vector<std::pair<int64_t, int64_t>> tasks;  // tile, its chunk
  std::vector<int64_t> first_state(1, 0);
  for (const Tile& tile : tiles) first_state.push_back(first_state.back() + chunks_of(tile));
  for (int64_t c = 0; c < most_chunks; ++c) {
    for (int64_t i = 0; i < n_tiles; ++i) {
      if (c < chunks_of(tiles[static_cast<size_t>(i)])) tasks.emplace_back(i, c);
    }
  }
  const int64_t rows = attend_max_rows;
  float* states = shared_scratch_.floats(static_cast<int64_t>(tasks.size()) * state);
  pool_.parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t i, int) {
    const auto [index, c] = tasks[static_cast<size_t>(i)];
    const Tile& tile = tiles[static_cast<size_t>(index)];
    float* part = states + (first_state[static_cast<size_t>(index)] + c) * state;
    walk.attend(tile, (tile.first_key / attend_chunk + c) * attend_chunk, part, part + rows, part + 2 * rows);
  });
  pool_.parallel_for(n_tiles, [&](int64_t i, int thread) {
    const Tile& tile = tiles[static_cast<size_t>(i)];
    float* total = scratch_[static_cast<size_t>(thread)].floats(2 * state);
    walk.begin(tile, total, total + rows, total + 2 * rows);
    for (int64_t c = 0; c < chunks_of(tile); ++c) {
      const float* part = states + (first_state[static_cast<size_t>(i)] + c) * state;
      walk.merge(tile, total, total + rows, total + 2 * rows, part, part + rows, part + 2 * rows);
    }
    walk.finish(tile, out, total + rows, total + 2 * rows);
  });
}

void CpuBackend::attention_pattern(Tensor pattern, Tensor q, const KvCache& cache, const BatchView& batch,
                                   const AttentionParams& params) {
  const int64_t group = params.n_heads / params.n_kv_heads, n_keys = pattern.cols / params.n_heads;
  for_ranges(batch.n_tokens, pattern.cols * params.d_key, [&](int64_t begin, int64_t end, int) {
    std::vector<const float*> keys;
    for (int64_t t = begin; t < end; ++t) {
      const int64_t last = batch.positions[t] + int64_t{1};
      const int64_t first = params.window > 0 ? std::max<int64_t>(0, last - params.window) : 0;
      const int32_t* table = batch.block_tables + batch.sequences[t] * batch.max_blocks;
      for (int64_t h = 0; h < params.n_heads; ++h) {
        if (h % group == 0) {  // the next key head
          keys.clear();
          for (int64_t p = first; p < last; ++p) {
            const int64_t row = int64_t{table[p / batch.block_size]} * batch.block_size + p % batch.block_size;
            keys.push_back(static_cast<const float*>(cache.keys) + row * cache.key_stride + h / group * params.d_key);
          }
        }
        float* out = pattern.row(t) + h * n_keys;
        std::fill_n(out, n_keys, 0.f);
        float* shares = out + first;
        kernels_.attend_scores(shares, q.row(t) + h * params.d_key, keys.data(), last - first, params.d_key,
                               params.scale);
        float top = *std::max_element(shares, shares + (last - first));
        if (params.sinks) top = std::max(top, params.sinks[h]);
        for (int64_t i = 0; i < last - first; ++i) shares[i] -= top;
        kernels_.exp(shares, shares, last - first);
        double mass = params.sinks ? std::exp(static_cast<double>(params.sinks[h] - top)) : 0;
        for (int64_t i = 0; i < last - first; ++i) mass += static_cast<double>(shares[i]);
        kernels_.scale(shares, shares, static_cast<float>(1 / mass), last - first);
      }
    }
  });
}

}  // namespace signalbox::kernels::cpu
