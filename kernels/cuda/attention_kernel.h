// The attention kernel: a tile of query rows against the keys of one head, tile by tile of keys, with an online softmax
// (Milakov and Gimelshein) and both products on tensor cores.
//
// The rows of a tile are (token, query head) pairs that read the same key head, so grouped and latent queries share
// each tile of keys. The block's warps divide the scores by keys and the sums by columns; probabilities pass from one
// division to the other through shared memory, as bf16.
//
// What a row's result is made of depends on the row's own keys only: tiles of keys lie at multiples of their size from
// position 0, keys that a row does not see are neutral, and where the keys are split over blocks, splits lie at
// multiples of split_keys and are merged in ascending order. So tiles of 16 and of 64 rows give the same bits, and so
// does any company in a tile.
#pragma once
#include "base/namespaces.h"
#include "kernels/cuda/device.h"

namespace signalbox::kernels::DEVICE_SPACE {

namespace {

struct AttendArgs {
  bf16* out;          // [n_tokens, n_heads * d_value]
  float* part_sums;   // [tiles, head tiles, n_slots, rows, DV], where n_slots > 1
  float* part_stats;  // [tiles, head tiles, n_slots, rows, 2] maximum (times log2 e) and mass
  const float* q;     // [n_tokens, n_heads * d_key]
  const bf16* keys;
  const bf16* values;
  const int32_t* positions;
  const int32_t* sequences;
  const int32_t* block_tables;
  const float* sinks;  // [n_heads] or null
  int64_t out_stride, q_stride, key_stride, value_stride, max_blocks;
  float scale;  // times log2 e
  int first_token, last_token;
  int group, d_key, d_value, window, block_size;
  int tokens, heads, head_tiles;  // of a tile; head tiles of a group
  int split_keys, n_slots;
  bool vector_q, vector_keys, vector_values, paired_out;  // what alignment allows
};

// KEYS keys a tile; STAGES tiles of keys and values in shared memory. One: the next keys are loaded during the second
// product, values during the first. Two: the next tile is loaded meanwhile. ALIAS: the values are the first columns of
// the keys and share their tile.
template <int DK_, int DV_, int ROWS_, int KEYS_, int WARPS_, int STAGES_, bool ALIAS_>
struct AttendShape {
  static constexpr int DK = DK_, DV = DV_, ROWS = ROWS_, KEYS = KEYS_, WARPS = WARPS_, STAGES = STAGES_;
  static constexpr bool ALIAS = ALIAS_;
  static constexpr int threads = WARPS * warp_size;
  static constexpr int key_groups = 4;  // warps that divide the keys of a tile
  static constexpr int row_groups = WARPS / key_groups;
  static constexpr int row_tiles = ROWS / 16;                 // of the sums of a warp
  static constexpr int score_tiles = row_tiles / row_groups;  // of the scores of a warp
  static constexpr int key_steps = KEYS / key_groups / 8;     // columns of 8 keys of the scores of a warp
  static constexpr int columns = DV / WARPS;                  // of the sums of a warp
  static constexpr int key_elements = KEYS * DK * STAGES, value_elements = ALIAS ? 0 : KEYS * DV * STAGES;
  static constexpr int min_blocks = ROWS > 16 ? 1 : ALIAS ? 2 : 3;  // of a processor: bounds registers
  static_assert(row_tiles % row_groups == 0 && columns % 16 == 0 && (key_steps == 1 || key_steps == 2));
  static_assert(STAGES == 2 || (STAGES == 1 && !ALIAS));

  static constexpr size_t shared() {
    return shared_bytes_of<bf16>(ROWS * DK) + shared_bytes_of<bf16>(key_elements) +
           (ALIAS ? 0 : shared_bytes_of<bf16>(value_elements)) + shared_bytes_of<bf16>(ROWS * KEYS) +
           shared_bytes_of<float>(key_groups * ROWS) + 2 * shared_bytes_of<float>(ROWS) + shared_bytes_of<int>(ROWS) +
           shared_bytes_of<int>(2 * KEYS) + shared_bytes_of<uint32_t>(2);
  }
};

// Elements from the start of a shared matrix, of rows of `chunks` * 8, to chunk c of a row: chunks change places so
// that eight rows' chunks of one column lie in different banks.
template <int chunks>
__device__ inline int chunk_at(int row, int c) {
  if constexpr (chunks % 8 == 0) {
    return row * chunks * 8 + (c ^ (row & 7)) * 8;
  } else {
    static_assert(chunks == 4);
    return row * chunks * 8 + (c ^ (row >> 1 & 3)) * 8;
  }
}

// Neighbouring tokens of the tile, of one sequence at neighbouring positions, and the keys that this block shows them.
struct KeyRun {
  int token, n_tokens;  // within the tile
  int position;         // of the first token
  int first, last;      // keys first .. last - 1
  int key;              // of the tile that is next
  const int32_t* table;
};

// The next run from tile token `from` on that has keys in this block's slot. starts [2]: bit i: token i begins a run.
template <class S>
__device__ bool next_run(KeyRun& run, const AttendArgs& a, int from, int first_token, int n_tokens,
                         const uint32_t* starts, int slot) {
  while (from < n_tokens) {
    int end = n_tokens;
    for (int word = 1; word >= 0; --word) {
      const int behind = from + 1 - word * 32;
      const uint32_t rest = behind <= 0 ? starts[word] : behind >= 32 ? 0 : starts[word] >> behind << behind;
      if (rest != 0) end = word * 32 + __ffs(static_cast<int>(rest)) - 1;
    }
    run.token = from;
    run.n_tokens = end - from;
    run.position = a.positions[first_token + from];
    run.first = a.window > 0 ? max(0, run.position - a.window + 1) : 0;
    run.last = run.position + run.n_tokens;
    from = end;
    if (a.n_slots > 1) {
      // A run touches at most n_slots splits, so the one that is slot modulo n_slots is unique.
      const int low = run.first / a.split_keys;
      const int split = low + (slot - low % a.n_slots + a.n_slots) % a.n_slots;
      if (split > (run.last - 1) / a.split_keys) continue;
      const int begin = split * a.split_keys;
      run.first = max(run.first, begin);
      if (run.last - begin > a.split_keys) run.last = begin + a.split_keys;
    }
    run.key = run.first / S::KEYS * S::KEYS;
    run.table = a.block_tables + a.sequences[first_token + run.token] * a.max_blocks;
    return true;
  }
  return false;
}

// Loads chunks 0 .. n_chunks - 1 (of 8 columns) of the rows of a tile; columns from `width` on and rows < 0 are zeros.
// Asynchronous where `vector`; not committed.
template <int n_rows, int chunks, int threads>
__device__ void load_tile(bf16* to, const bf16* from, int64_t stride, const int* rows, int width, int n_chunks,
                          bool vector) {
  for (int i = static_cast<int>(threadIdx.x); i < n_rows * chunks; i += threads) {
    const int r = i / chunks, c = i % chunks;
    if (c >= n_chunks) continue;
    const int row = rows[r];
    const int n = row < 0 ? 0 : min(8, max(0, width - c * 8));
    const bf16* source = n > 0 ? from + row * stride + c * 8 : from;
    bf16* target = to + chunk_at<chunks>(r, c);
    if (vector) {
      copy_async(target, source, n * 2);
    } else {
      uint32_t words[4];
      for (int j = 0; j < 4; ++j) {
        const uint32_t low = 2 * j < n ? source[2 * j].bits : 0, high = 2 * j + 1 < n ? source[2 * j + 1].bits : 0;
        words[j] = low | high << 16;
      }
      *reinterpret_cast<uint4*>(target) = make_uint4(words[0], words[1], words[2], words[3]);
    }
  }
}

// The queries of a tile, rounded to bf16. Rows without a query are zeros.
template <class S>
__device__ void load_queries(bf16* to, const AttendArgs& a, int first_token, int n_tokens, int first_head,
                             int last_head, int n_chunks) {
  constexpr int chunks = S::DK / 8;
  for (int i = static_cast<int>(threadIdx.x); i < S::ROWS * chunks; i += S::threads) {
    const int r = i / chunks, c = i % chunks;
    if (c >= n_chunks) continue;
    const int token = r / a.heads, head = first_head + r % a.heads;
    const int n = token < n_tokens && head < last_head ? min(8, max(0, a.d_key - c * 8)) : 0;
    float x[8] = {};
    if (n > 0) {
      const float* source = a.q + (first_token + token) * a.q_stride + int64_t{head} * a.d_key + c * 8;
      if (n == 8 && a.vector_q) {
        const float4 low = *reinterpret_cast<const float4*>(source);
        const float4 high = *reinterpret_cast<const float4*>(source + 4);
        x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
        x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
      } else {
        for (int j = 0; j < 8; ++j) x[j] = j < n ? source[j] : 0.f;
      }
    }
    *reinterpret_cast<uint4*>(to + chunk_at<chunks>(r, c)) =
        make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
  }
}

constexpr float log2_e = 1.44269504088896341f;

// What is left to do when a row's maximum and mass are known: sums are multiplied by `factor` of their part and then by
// `inverse`. Multiplications and additions are fused explicitly: they must round alike wherever they are inlined.
__device__ inline float scaled_sink(float sink) {
  return __fmul_rn(sink, log2_e);  // never contracted with the subtraction that follows
}
__device__ inline float softmax_top(float maximum, bool has_sink, float sink) {
  return has_sink ? fmaxf(maximum, sink) : maximum;
}
__device__ inline float sink_mass(float top, bool has_sink, float sink) { return has_sink ? exp2f(sink - top) : 0.f; }

// grid: token tiles (the last first: their rows see most keys), key heads * head tiles, slots.
template <class S>
__global__ void __launch_bounds__(S::threads, S::min_blocks) attend(AttendArgs a) {
  constexpr int key_chunks = S::DK / 8, value_chunks = S::DV / 8, p_chunks = S::KEYS / 8;
  SharedMemory memory;
  bf16* q_tile = memory.take<bf16>(S::ROWS * S::DK);
  bf16* key_tile = memory.take<bf16>(S::key_elements);
  bf16* value_tile = key_tile;
  if constexpr (!S::ALIAS) value_tile = memory.take<bf16>(S::value_elements);
  bf16* p_tile = memory.take<bf16>(S::ROWS * S::KEYS);
  float* group_stats = memory.take<float>(S::key_groups * S::ROWS);  // maxima of a tile, at last the masses
  float* row_scale = memory.take<float>(S::ROWS);                    // of the sums, before a tile's are added
  float* row_max = memory.take<float>(S::ROWS);
  int* row_token = memory.take<int>(S::ROWS);
  int* cache_rows = memory.take<int>(2 * S::KEYS);
  uint32_t* starts = memory.take<uint32_t>(2);

  const int thread = static_cast<int>(threadIdx.x), lane = thread % warp_size, warp = thread / warp_size;
  const int tile = static_cast<int>(gridDim.x - 1 - blockIdx.x), slot = static_cast<int>(blockIdx.z);
  const int kv_head = static_cast<int>(blockIdx.y) / a.head_tiles;
  const int head_tile = static_cast<int>(blockIdx.y) % a.head_tiles;
  const int first_head = kv_head * a.group + head_tile * a.heads;
  const int last_head = min(first_head + a.heads, (kv_head + 1) * a.group);
  const int first_token = a.first_token + tile * a.tokens;
  const int n_tokens = min(a.tokens, a.last_token - first_token);
  const int64_t tile_index = int64_t{tile} * gridDim.y + blockIdx.y;

  if (warp < 2) {
    const int t = thread;
    bool begins = t < n_tokens;
    if (begins && t > 0) {
      const int64_t at = first_token + t;
      begins = a.sequences[at] != a.sequences[at - 1] || a.positions[at] != a.positions[at - 1] + 1;
    }
    const unsigned votes = __ballot_sync(all_lanes, begins);
    if (lane == 0) starts[warp] = votes;
  }
  if (thread < S::ROWS) row_token[thread] = thread / a.heads;
  __syncthreads();

  KeyRun run;
  const bool any = next_run<S>(run, a, 0, first_token, n_tokens, starts, slot);

  // Steps of 16 columns of the first product; an even number where a load of keys covers two.
  const int n_steps = S::key_steps == 2 ? (a.d_key + 15) / 16 : (a.d_key + 31) / 32 * 2;
  const bf16* keys = a.keys + int64_t{kv_head} * a.d_key;
  const bf16* values = a.values + int64_t{kv_head} * a.d_value;
  const auto find_rows = [&](const KeyRun& r, int buffer) {
    if (thread < S::KEYS) {
      const int key = r.key + thread;
      cache_rows[buffer * S::KEYS + thread] =
          key < r.first || key >= r.last ? -1 : r.table[key / a.block_size] * a.block_size + key % a.block_size;
    }
  };
  const auto stage_of = [](int buffer) { return S::STAGES == 2 ? buffer : 0; };
  const auto load_keys = [&](int buffer) {
    load_tile<S::KEYS, key_chunks, S::threads>(key_tile + stage_of(buffer) * S::KEYS * S::DK, keys, a.key_stride,
                                               cache_rows + buffer * S::KEYS, a.d_key, n_steps * 2, a.vector_keys);
  };
  const auto load_values = [&](int buffer) {
    load_tile<S::KEYS, value_chunks, S::threads>(value_tile + stage_of(buffer) * S::KEYS * S::DV, values,
                                                 a.value_stride, cache_rows + buffer * S::KEYS, a.d_value, value_chunks,
                                                 a.vector_values);
  };

  const int g = lane / 4, c2 = lane % 4 * 2;  // place in a fragment
  const int key_group = warp % S::key_groups, row_group = warp / S::key_groups;
  float sums[S::row_tiles][S::columns / 8][4] = {};
  float maximum[S::score_tiles][2], mass[S::score_tiles][2];
#pragma unroll
  for (int i = 0; i < S::score_tiles; ++i) maximum[i][0] = maximum[i][1] = -INFINITY, mass[i][0] = mass[i][1] = 0;

  if (any) {
    find_rows(run, 0);
    __syncthreads();
    load_keys(0);
    commit_copies();
    if constexpr (!S::ALIAS) {
      load_values(0);
      commit_copies();
    }
    load_queries<S>(q_tile, a, first_token, n_tokens, first_head, last_head, n_steps * 2);
  }
  int buffer = 0;
  bool first = true;
  for (bool more = any; more; buffer ^= 1) {
    // Copies that may still be on their way: with two stages this tile's values, else only those of the first tile.
    if (!S::ALIAS && (S::STAGES == 2 || first)) {
      wait_copies<1>();
    } else {
      wait_copies<0>();
    }
    __syncthreads();  // this tile's keys are there; nobody reads the tile before any more
    KeyRun next = run;
    next.key += S::KEYS;
    more = next.key < next.last;
    if (!more) {
      more = next_run<S>(next, a, run.token + run.n_tokens, first_token, n_tokens, starts, slot);
    }
    if (more) find_rows(next, buffer ^ 1);
    if constexpr (S::STAGES == 1) {
      if (!first) {
        load_values(buffer);
        commit_copies();
      }
    }
    first = false;

    // Row tiles that see any of these keys. The others skip all work, which is neutral for them.
    unsigned live = 0;
#pragma unroll
    for (int i = 0; i < S::row_tiles; ++i) {
      const int low = max(row_token[i * 16], run.token);
      const int high = min(row_token[i * 16 + 15], run.token + run.n_tokens - 1);
      const bool sees = low <= high && run.key <= run.position + high - run.token &&
                        (a.window <= 0 || run.key + S::KEYS > run.position + low - run.token - a.window + 1);
      live |= static_cast<unsigned>(sees) << i;
    }

    // Scores of this warp's rows and keys.
    const bf16* tile_keys = key_tile + stage_of(buffer) * S::KEYS * S::DK;
    float scores[S::score_tiles][S::key_steps][4] = {};
    const unsigned live_scores = live >> (row_group * S::score_tiles);
    const bf16* q_row = q_tile + (row_group * S::score_tiles * 16 + lane % 16) * S::DK;
    if constexpr (S::key_steps == 2) {
      const bf16* key_row = tile_keys + (key_group * 16 + lane % 8 + lane / 16 * 8) * S::DK;
#pragma unroll 4
      for (int k = 0; k < n_steps; ++k) {
        uint32_t b[4];
        load_matrices(b, key_row + ((2 * k + lane / 8 % 2) ^ (lane & 7)) * 8);
        const uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
#pragma unroll
        for (int i = 0; i < S::score_tiles; ++i) {
          if (!(live_scores >> i & 1)) continue;
          uint32_t x[4];
          load_matrices(x, q_row + i * 16 * S::DK + ((2 * k + lane / 16) ^ (lane & 7)) * 8);
          mma(scores[i][0], x, b0);
          mma(scores[i][1], x, b1);
        }
      }
    } else {
      const bf16* key_row = tile_keys + (key_group * 8 + lane % 8) * S::DK;
#pragma unroll 2
      for (int k = 0; k < n_steps; k += 2) {
        uint32_t b[4];
        load_matrices(b, key_row + ((2 * k + lane / 8) ^ (lane & 7)) * 8);
        const uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
#pragma unroll
        for (int i = 0; i < S::score_tiles; ++i) {
          if (!(live_scores >> i & 1)) continue;
          uint32_t x[4];
          load_matrices(x, q_row + i * 16 * S::DK + ((2 * k + lane / 16) ^ (lane & 7)) * 8);
          mma(scores[i][0], x, b0);
          load_matrices(x, q_row + i * 16 * S::DK + ((2 * k + 2 + lane / 16) ^ (lane & 7)) * 8);
          mma(scores[i][0], x, b1);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < S::score_tiles; ++i) {
      if (!(live_scores >> i & 1)) continue;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = (row_group * S::score_tiles + i) * 16 + g + h * 8;
        const int token = row_token[row] - run.token;
        const int high = token >= 0 && token < run.n_tokens ? run.position + token : -1;
        const int low = a.window > 0 ? run.position + token - a.window + 1 : 0;
        float top = -INFINITY;
#pragma unroll
        for (int j = 0; j < S::key_steps; ++j) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int key = run.key + (key_group * S::key_steps + j) * 8 + c2 + e;
            float& score = scores[i][j][h * 2 + e];
            if (key < low || key > high) score = -INFINITY;
            top = fmaxf(top, score);
          }
        }
        top = fmaxf(top, __shfl_xor_sync(all_lanes, top, 1));
        top = fmaxf(top, __shfl_xor_sync(all_lanes, top, 2));
        if (lane % 4 == 0) group_stats[key_group * S::ROWS + row] = top;
      }
    }
    __syncthreads();  // the maxima are there, and the rows of the next tile; its keys may come
    if (more) load_keys(buffer ^ 1);
    commit_copies();
    if constexpr (!S::ALIAS && S::STAGES == 2) {
      if (more) load_values(buffer ^ 1);
      commit_copies();
    }

    // Probabilities.
#pragma unroll
    for (int i = 0; i < S::score_tiles; ++i) {
      if (!(live_scores >> i & 1)) continue;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = (row_group * S::score_tiles + i) * 16 + g + h * 8;
        float top = group_stats[row];
#pragma unroll
        for (int j = 1; j < S::key_groups; ++j) top = fmaxf(top, group_stats[j * S::ROWS + row]);
        const float before = maximum[i][h];
        const float now = top == -INFINITY ? before : fmaxf(before, top * a.scale);
        const float scale = before == -INFINITY ? 0.f : exp2f(before - now);
        float sum = 0;
#pragma unroll
        for (int j = 0; j < S::key_steps; ++j) {
          float p[2];
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const float score = scores[i][j][h * 2 + e];
            p[e] = score == -INFINITY ? 0.f : exp2f(fmaf(score, a.scale, -now));
            sum += p[e];
          }
          *reinterpret_cast<uint32_t*>(p_tile + chunk_at<p_chunks>(row, key_group * S::key_steps + j) + c2) =
              pack_bf16(p[0], p[1]);
        }
        mass[i][h] = fmaf(mass[i][h], scale, sum);
        maximum[i][h] = now;
        if (key_group == 0 && lane % 4 == 0) row_scale[row] = scale;
      }
    }
    if constexpr (!S::ALIAS) wait_copies<S::STAGES>();
    __syncthreads();  // probabilities and values are there

    // Sums of all rows and this warp's columns.
    constexpr int tile_chunks = S::ALIAS ? key_chunks : value_chunks;
    const bf16* tile_values = S::ALIAS ? tile_keys : value_tile + stage_of(buffer) * S::KEYS * S::DV;
#pragma unroll
    for (int i = 0; i < S::row_tiles; ++i) {
      if (!(live >> i & 1)) continue;
      const float scale[2] = {row_scale[i * 16 + g], row_scale[i * 16 + g + 8]};
      if (!__any_sync(all_lanes, scale[0] != 1.f || scale[1] != 1.f)) continue;
#pragma unroll
      for (int j = 0; j < S::columns / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[i][j][e] *= scale[e / 2];
      }
    }
#pragma unroll
    for (int k = 0; k < S::KEYS / 16; ++k) {
      uint32_t x[S::row_tiles][4];
#pragma unroll
      for (int i = 0; i < S::row_tiles; ++i) {
        if (live >> i & 1) load_matrices(x[i], p_tile + chunk_at<p_chunks>(i * 16 + lane % 16, 2 * k + lane / 16));
      }
      const bf16* value_row = tile_values + (k * 16 + lane % 16) * tile_chunks * 8;
#pragma unroll
      for (int j = 0; j < S::columns / 16; ++j) {
        uint32_t b[4];
        load_matrices_transposed(b, value_row + ((warp * (S::columns / 8) + 2 * j + lane / 16) ^ (lane & 7)) * 8);
        const uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
#pragma unroll
        for (int i = 0; i < S::row_tiles; ++i) {
          if (!(live >> i & 1)) continue;
          mma(sums[i][2 * j], x[i], b0);
          mma(sums[i][2 * j + 1], x[i], b1);
        }
      }
    }
    run = next;
  }
  wait_copies<0>();

  if (any) {
#pragma unroll
    for (int i = 0; i < S::score_tiles; ++i) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = (row_group * S::score_tiles + i) * 16 + g + h * 8;
        float m = mass[i][h];
        m += __shfl_xor_sync(all_lanes, m, 1);
        m += __shfl_xor_sync(all_lanes, m, 2);
        if (lane % 4 == 0) {
          group_stats[key_group * S::ROWS + row] = m;
          if (key_group == 0) row_max[row] = maximum[i][h];
        }
      }
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < S::row_tiles; ++i) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = i * 16 + g + h * 8;
        const int token = row_token[row], head = first_head + row - token * a.heads;
        if (token >= n_tokens || head >= last_head) continue;
        float row_mass = group_stats[row];
#pragma unroll
        for (int j = 1; j < S::key_groups; ++j) row_mass += group_stats[j * S::ROWS + row];
        if (a.n_slots > 1) {
          const int64_t part = (tile_index * a.n_slots + slot) * S::ROWS + row;
          float* to = a.part_sums + part * S::DV + warp * S::columns + c2;
#pragma unroll
          for (int j = 0; j < S::columns / 8; ++j) {
            *reinterpret_cast<float2*>(to + j * 8) = make_float2(sums[i][j][h * 2], sums[i][j][h * 2 + 1]);
          }
          if (warp == 0 && lane % 4 == 0) {
            *reinterpret_cast<float2*>(a.part_stats + part * 2) = make_float2(row_max[row], row_mass);
          }
          continue;
        }
        const bool has_sink = a.sinks != nullptr;
        const float sink = has_sink ? scaled_sink(a.sinks[head]) : 0.f;
        const float top = softmax_top(row_max[row], has_sink, sink), factor = exp2f(row_max[row] - top);
        const float inverse = 1.f / fmaf(factor, row_mass, sink_mass(top, has_sink, sink));
        bf16* out = a.out + (first_token + token) * a.out_stride + int64_t{head} * a.d_value;
#pragma unroll
        for (int j = 0; j < S::columns / 8; ++j) {
          const int c = warp * S::columns + j * 8 + c2;
          const float low = fmaf(factor, sums[i][j][h * 2], 0.f) * inverse;
          const float high = fmaf(factor, sums[i][j][h * 2 + 1], 0.f) * inverse;
          if (a.paired_out && c + 1 < a.d_value) {
            *reinterpret_cast<uint32_t*>(out + c) = pack_bf16(low, high);
          } else {
            if (c < a.d_value) out[c] = to_bf16(low);
            if (c + 1 < a.d_value) out[c + 1] = to_bf16(high);
          }
        }
      }
    }
  }
}

// Merges the parts of rows, a warp for each 128 columns of a row. The tiles had tile_rows rows of part_width columns.
__global__ void __launch_bounds__(128) merge_parts(AttendArgs a, int n_heads, int tile_rows, int part_width) {
  constexpr int ahead = 8;
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int columns = static_cast<int>(ceil_div(part_width, 4 * warp_size));
  const int64_t item = int64_t{blockIdx.x} * (blockDim.x / warp_size) + threadIdx.x / warp_size;
  const int64_t place = item / columns / n_heads;  // of the token in this launch
  const int64_t token = a.first_token + place;
  const int head = static_cast<int>(item / columns % n_heads);
  const int c = (static_cast<int>(item % columns) * warp_size + lane) * 4;
  if (token >= a.last_token) return;
  const int in_group = head % a.group, n_head_tiles = n_heads / a.group * a.head_tiles;
  const int64_t tile = place / a.tokens * n_head_tiles + head / a.group * a.head_tiles + in_group / a.heads;
  const int row_in_tile = static_cast<int>(place % a.tokens) * a.heads + in_group % a.heads;
  const int position = a.positions[token];
  const int low = (a.window > 0 ? max(0, position - a.window + 1) : 0) / a.split_keys;
  const int high = position / a.split_keys;
  const auto row_of = [&](int split) { return (tile * a.n_slots + split % a.n_slots) * tile_rows + row_in_tile; };
  const auto load = [&](float4(&x)[ahead], float2(&stats)[ahead], int split) {
#pragma unroll
    for (int i = 0; i < ahead; ++i) {
      x[i] = make_float4(0, 0, 0, 0);
      stats[i] = make_float2(-INFINITY, 0);
      if (split + i > high) continue;
      stats[i] = *reinterpret_cast<const float2*>(a.part_stats + row_of(split + i) * 2);
      if (c < part_width) x[i] = *reinterpret_cast<const float4*>(a.part_sums + row_of(split + i) * part_width + c);
    }
  };
  float4 x[ahead];
  float2 stats[ahead];
  load(x, stats, low);
  float maximum = -INFINITY;
  for (int s = low + lane; s <= high; s += warp_size) maximum = fmaxf(maximum, a.part_stats[row_of(s) * 2]);
  maximum = warp_max(maximum);
  const bool has_sink = a.sinks != nullptr;
  const float sink = has_sink ? scaled_sink(a.sinks[head]) : 0.f;
  const float top = softmax_top(maximum, has_sink, sink);
  float mass = sink_mass(top, has_sink, sink), sums[4] = {};
  for (int s = low; s <= high; s += ahead) {
    if (s > low) load(x, stats, s);
#pragma unroll
    for (int i = 0; i < ahead; ++i) {
      if (s + i > high) continue;
      const float factor = exp2f(stats[i].x - top);
      mass = fmaf(factor, stats[i].y, mass);
      sums[0] = fmaf(factor, x[i].x, sums[0]);
      sums[1] = fmaf(factor, x[i].y, sums[1]);
      sums[2] = fmaf(factor, x[i].z, sums[2]);
      sums[3] = fmaf(factor, x[i].w, sums[3]);
    }
  }
  const float inverse = 1.f / mass;
  bf16* out = a.out + token * a.out_stride + int64_t{head} * a.d_value + c;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (c + i < a.d_value) out[i] = to_bf16(sums[i] * inverse);
  }
}

}  // namespace
}  // namespace signalbox::kernels::DEVICE_SPACE
