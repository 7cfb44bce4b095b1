// The inner loops of the CPU backend, one table of functions an instruction set. kernels.inc is compiled once for each
// of them; all tables give the same bits.
//
// Plain data and pointers only: files compiled with wider instruction sets must not emit inline functions that the
// linker could pick for the whole program.
#pragma once
#include <cstdint>

#include "base/namespaces.h"

namespace signalbox::kernels::cpu {

enum class WeightType : int32_t { f32, f16, bf16, mxfp4, int8, int4 };

// Rows of a weight matrix as stored; the same fields as Matrix, strides in elements and in scales.
struct WeightRows {
  const void* data;
  const uint8_t* scales;
  int64_t row_stride, scale_stride;
  WeightType type;
};

// out[i, n - n_first] = sum_k x[i, k] * w[n, k] (+ bias[n]) for n_first <= n < n_last.
// Row i of x is x + x_rows[i] * x_stride (i itself without x_rows), likewise for out; out points at column n_first.
struct GemmArgs {
  float* out;
  int64_t out_stride;
  const int32_t* out_rows;
  const float* x;
  int64_t x_stride;
  const int32_t* x_rows;
  int64_t m, k;
  WeightRows w;
  int64_t n_first, n_last;
  const float* bias;  // [all n], or null
  // Of PackedX::gemm: what PackedX::pack made of all rows of x, and which of them is row 0 here (a multiple of 16).
  const void* packed;
  int64_t packed_first, packed_m;
  float* scratch;  // gemm_scratch(m, n_last - n_first, k) floats, or PackedX::scratch
};

// out[i, c] = sum_d x[i, d] * w[first_row + d, c], d ascending.   x [m, n_rows], out [m, cols]
struct RowSumArgs {
  float* out;
  int64_t out_stride;
  const float* x;
  int64_t x_stride;
  int64_t m, n_rows, cols;
  WeightRows w;
  int64_t first_row;
};

// Softmax-weighted sums of one chunk of keys for a tile of query rows, as unnormalised partial states: for row r
// maximum[r], mass[r] = sum exp(s - maximum), sums[r, :] = sum exp(s - maximum) * value. Keys of row r: those of
// [row_first[r], row_last[r]) that lie in [first, last). A row without keys here is left alone.
struct AttendArgs {
  int64_t n_rows;
  const float* const* q;  // [n_rows] -> [d_key]
  int64_t d_key, d_value;
  float scale;
  int64_t first, last;         // positions of the keys below
  const float* const* keys;    // [last - first] -> [d_key]
  const float* const* values;  // [last - first] -> [d_value]
  const int64_t* row_first;    // [n_rows]
  const int64_t* row_last;     // [n_rows]
  float* maximum;              // [n_rows]
  float* mass;                 // [n_rows]
  float* sums;                 // [n_rows, d_value]
};

// Keys are taken in blocks and chunks that lie at multiples of these positions, whatever the query.
constexpr int64_t attend_block = 64;
constexpr int64_t attend_chunk = 512;
constexpr int64_t attend_max_rows = 32;

// Columns of a block where some rows read weights in place and partial sums wait in scratch.
constexpr int64_t blocked_n = 48;
// Steps of sixteen k that are converted at a time.
constexpr int64_t gemm_chunk_steps = 128;

// Rows m_first .. m_last of m rows of x, as in GemmArgs; both multiples of 16, or m.
struct PackArgs {
  const float* x;
  int64_t x_stride;
  const int32_t* x_rows;
  int64_t m, m_first, m_last, k;
};

// Products whose x is laid out for the multiplying instructions first, once an op: as one or more bf16 numbers for
// bf16 weights, or in another order. 64-byte aligned.
struct PackedX {
  // Whether it multiplies m rows with weights of these dtypes (`up`: those of the other product of a gated op).
  bool (*takes)(WeightType w, WeightType up, int64_t m);
  bool in_place;  // weights stream through as they are stored; else a block's are converted once
  int64_t (*bytes)(int64_t m, int64_t k);
  void (*pack)(void* packed, const PackArgs& args);
  int64_t (*scratch)(int64_t m, int64_t n, int64_t k);  // floats, for a block of m rows and n columns
  void (*gemm)(const GemmArgs& args);                   // x unused
};

struct ActivationArgs {
  bool clamped;
  float alpha, limit;
};

struct Kernels {
  const char* name;
  // At most so many rows of x read the weights in place, by WeightType; more share one converted copy of a block.
  const int64_t* in_place_rows;
  void (*gemm)(const GemmArgs& args);
  void (*row_sum)(const RowSumArgs& args);
  void (*attend)(const AttendArgs& args);
  // scores[j] = scale * (q . keys[j]), as attend computes them.
  void (*attend_scores)(float* scores, const float* q, const float* const* keys, int64_t n_keys, int64_t d_key,
                        float scale);
  // state (maximum, mass, sums) takes in a chunk's partial state.
  void (*attend_merge)(float* maximum, float* mass, float* sums, float chunk_maximum, float chunk_mass,
                       const float* chunk_sums, int64_t d_value);
  void (*rmsnorm)(float* out, const float* x, const float* weight, int64_t n, float eps);
  void (*convert)(float* out, const WeightRows& w, int64_t row, int64_t n);
  void (*activate)(float* gate, const float* up, int64_t n, const ActivationArgs& activation);
  // out = a + b, out = x * factor, out = clamp(x), out += factor * x
  void (*add)(float* out, const float* a, const float* b, int64_t n);
  void (*scale)(float* out, const float* x, float factor, int64_t n);
  void (*clamp)(float* x, float limit, int64_t n);
  void (*accumulate)(float* out, const float* x, float factor, int64_t n);
  // out[i] = exp(x[i]); the function that softmax and the activations use, for tests
  void (*exp)(float* out, const float* x, int64_t n);
  // Measurement only: sum of n floats, and a chain-free run of n_steps * 12 * 16 fused multiply-adds.
  float (*read_sum)(const float* x, int64_t n);
  float (*fma_run)(int64_t n_steps);
  const PackedX* packed_x;  // null: no products need it
};

// Floats of scratch that gemm needs for m rows of x and n of w: converted weights, or stretches of x, and partial sums.
constexpr int64_t gemm_scratch(int64_t m, int64_t n, int64_t k, bool in_place) {
  if (in_place) return 16 * (6 * 32 + m * blocked_n);
  const int64_t steps = (k + 15) / 16, n_padded = (n + 15) / 16 * 16;
  const bool one_chunk = steps <= gemm_chunk_steps;
  return n_padded * 16 * (one_chunk ? steps + 8 : gemm_chunk_steps + m);
}

const Kernels& kernels_scalar();
const Kernels& kernels_avx2();
const Kernels& kernels_avx512();
const Kernels& kernels_avx512_bf16();
const Kernels& kernels_amx();
const Kernels& kernels_amx_fast();

}  // namespace signalbox::kernels::cpu
