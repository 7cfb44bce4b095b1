// Sixteen floats, and the few operations kernels.inc is written in. One body an instruction set, chosen by the flags
// of the including file; every operation gives the same bits in all of them: IEEE single operations, fused
// multiply-adds where fma is written, and one fixed tree for sums over lanes.
#pragma once
#include <stddef.h>
#include <stdint.h>
#if defined(__AVX512F__) && defined(__GNUC__) && !defined(__clang__)
// g++ 12 takes the deliberately undefined operands inside its own AVX-512 header for mistakes (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#if defined(__AVX2__)
#include <immintrin.h>

#include "base/namespaces.h"
#else
#include "base/half.h"  // compiled without the flags of an instruction set: other files share these functions
#endif

namespace signalbox::kernels::cpu {
namespace {

inline uint32_t float_bits(float x) {
  uint32_t u;
  __builtin_memcpy(&u, &x, 4);
  return u;
}

inline float bits_float(uint32_t u) {
  float x;
  __builtin_memcpy(&x, &u, 4);
  return x;
}

// 2^(s - 127), the scale of a block of mxfp4 or int8.
inline float exponent_scale(uint8_t s) { return bits_float(s == 0 ? 0x00400000u : static_cast<uint32_t>(s) << 23); }
// The bf16 number at p, the scale of a block of int4.
inline float bf16_scale(const uint8_t* p) {
  uint16_t u;
  __builtin_memcpy(&u, p, 2);
  return bits_float(static_cast<uint32_t>(u) << 16);
}

#if defined(__AVX512F__)

struct Vec {
  __m512 v;
};
struct Ints {
  __m512i v;
};

inline __mmask16 lane_mask(int64_t n) { return static_cast<__mmask16>((1u << n) - 1u); }
inline Vec zero() { return {_mm512_setzero_ps()}; }
inline Vec set1(float x) { return {_mm512_set1_ps(x)}; }
inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline Vec load_first(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(lane_mask(n), p)}; }
inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
inline void store_first(float* p, Vec a, int64_t n) { _mm512_mask_storeu_ps(p, lane_mask(n), a.v); }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec div(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
// a > b ? a : b, so a NaN in b stays; likewise min.
inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Ints as_ints(Vec a) { return {_mm512_castps_si512(a.v)}; }
inline Vec as_floats(Ints a) { return {_mm512_castsi512_ps(a.v)}; }
inline Ints set1_int(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline Ints add(Ints a, Ints b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline Ints sub(Ints a, Ints b) { return {_mm512_sub_epi32(a.v, b.v)}; }
inline Ints half(Ints a) { return {_mm512_srai_epi32(a.v, 1)}; }
inline Ints to_exponent(Ints a) { return {_mm512_slli_epi32(a.v, 23)}; }

inline Vec load_bf16(const void* p) {
  const __m256i u = _mm256_loadu_si256(static_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(u), 16))};
}
inline Vec load_bf16_first(const void* p, int64_t n) {
  const __m256i u = _mm256_maskz_loadu_epi16(lane_mask(n), p);
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(u), 16))};
}
inline Vec load_f16(const void* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)))}; }
inline Vec load_f16_first(const void* p, int64_t n) {
  return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lane_mask(n), p))};
}
inline Vec from_mxfp4(uint64_t nibbles, float scale) {
  const __m512 table = _mm512_setr_ps(0, .5f, 1, 1.5f, 2, 3, 4, 6, -0.f, -.5f, -1, -1.5f, -2, -3, -4, -6);
  const __m128i bytes = _mm_cvtsi64_si128(static_cast<int64_t>(nibbles));
  const __m128i low = _mm_and_si128(bytes, _mm_set1_epi8(15));
  const __m128i high = _mm_and_si128(_mm_srli_epi16(bytes, 4), _mm_set1_epi8(15));
  const __m512i index = _mm512_cvtepu8_epi32(_mm_unpacklo_epi8(low, high));
  return {_mm512_mul_ps(_mm512_permutexvar_ps(index, table), _mm512_set1_ps(scale))};
}
// Sixteen codes of INT8; of INT4 two a byte. All products are exact.
inline Vec from_int8(const void* p, float scale) {
  const __m512i codes = _mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  return {_mm512_mul_ps(_mm512_cvtepi32_ps(codes), _mm512_set1_ps(scale))};
}
inline Vec from_int4(uint64_t nibbles, float scale) {
  const __m512 table = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
  const __m128i bytes = _mm_cvtsi64_si128(static_cast<int64_t>(nibbles));
  const __m128i low = _mm_and_si128(bytes, _mm_set1_epi8(15));
  const __m128i high = _mm_and_si128(_mm_srli_epi16(bytes, 4), _mm_set1_epi8(15));
  const __m512i index = _mm512_cvtepu8_epi32(_mm_unpacklo_epi8(low, high));
  return {_mm512_mul_ps(_mm512_permutexvar_ps(index, table), _mm512_set1_ps(scale))};
}

inline __m256 fold(Vec a) { return _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1)); }

// One register of lanes. Tiles with many partial sums run over all k once a part, so that the sums stay in registers.
using Part = __m512;
constexpr int part_lanes = 16;
inline Part part_load(const float* p) { return _mm512_loadu_ps(p); }
inline void part_store(float* p, Part a) { _mm512_storeu_ps(p, a); }
inline Part part_fma(Part a, Part b, Part c) { return _mm512_fmadd_ps(a, b, c); }

#elif defined(__AVX2__)

struct Vec {
  __m256 lo, hi;
};
struct Ints {
  __m256i lo, hi;
};

inline Vec zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Vec set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline Vec load_first(const float* p, int64_t n) {
  float lanes[16] = {};
  __builtin_memcpy(lanes, p, static_cast<size_t>(n) * 4);
  return load(lanes);
}
inline void store(float* p, Vec a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
inline void store_first(float* p, Vec a, int64_t n) {
  float lanes[16];
  store(lanes, a);
  __builtin_memcpy(p, lanes, static_cast<size_t>(n) * 4);
}
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)}; }
inline Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline Vec sub(Vec a, Vec b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline Vec mul(Vec a, Vec b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline Vec div(Vec a, Vec b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
inline Ints as_ints(Vec a) { return {_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)}; }
inline Vec as_floats(Ints a) { return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)}; }
inline Ints set1_int(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline Ints add(Ints a, Ints b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
inline Ints sub(Ints a, Ints b) { return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)}; }
inline Ints half(Ints a) { return {_mm256_srai_epi32(a.lo, 1), _mm256_srai_epi32(a.hi, 1)}; }
inline Ints to_exponent(Ints a) { return {_mm256_slli_epi32(a.lo, 23), _mm256_slli_epi32(a.hi, 23)}; }

inline Vec load_bf16(const void* p) {
  const __m128i* u = static_cast<const __m128i*>(p);
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(u)), 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(u + 1)), 16))};
}
inline Vec load_f16(const void* p) {
  const __m128i* u = static_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(u)), _mm256_cvtph_ps(_mm_loadu_si128(u + 1))};
}
inline Vec load_bf16_first(const void* p, int64_t n) {
  uint16_t lanes[16] = {};
  __builtin_memcpy(lanes, p, static_cast<size_t>(n) * 2);
  return load_bf16(lanes);
}
inline Vec load_f16_first(const void* p, int64_t n) {
  uint16_t lanes[16] = {};
  __builtin_memcpy(lanes, p, static_cast<size_t>(n) * 2);
  return load_f16(lanes);
}
// Magnitude from a table of eight, sign from bit 3.
inline __m256 from_mxfp4_half(__m128i bytes, __m256 scale) {
  const __m256 table = _mm256_setr_ps(0, .5f, 1, 1.5f, 2, 3, 4, 6);
  const __m256i index = _mm256_cvtepu8_epi32(bytes);
  const __m256i sign = _mm256_slli_epi32(_mm256_and_si256(index, _mm256_set1_epi32(8)), 28);
  const __m256 magnitude = _mm256_permutevar8x32_ps(table, index);
  return _mm256_mul_ps(_mm256_or_ps(magnitude, _mm256_castsi256_ps(sign)), scale);
}
inline Vec from_mxfp4(uint64_t nibbles, float scale) {
  const __m128i bytes = _mm_cvtsi64_si128(static_cast<int64_t>(nibbles));
  const __m128i low = _mm_and_si128(bytes, _mm_set1_epi8(15));
  const __m128i high = _mm_and_si128(_mm_srli_epi16(bytes, 4), _mm_set1_epi8(15));
  const __m128i index = _mm_unpacklo_epi8(low, high);
  const __m256 s = _mm256_set1_ps(scale);
  return {from_mxfp4_half(index, s), from_mxfp4_half(_mm_srli_si128(index, 8), s)};
}
inline __m256 from_bytes(__m128i codes, __m256 scale) {
  return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes)), scale);
}
inline Vec from_int8(const void* p, float scale) {
  const __m128i codes = _mm_loadu_si128(static_cast<const __m128i*>(p));
  const __m256 s = _mm256_set1_ps(scale);
  return {from_bytes(codes, s), from_bytes(_mm_srli_si128(codes, 8), s)};
}
inline Vec from_int4(uint64_t nibbles, float scale) {
  const __m128i table = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
  const __m128i bytes = _mm_cvtsi64_si128(static_cast<int64_t>(nibbles));
  const __m128i low = _mm_and_si128(bytes, _mm_set1_epi8(15));
  const __m128i high = _mm_and_si128(_mm_srli_epi16(bytes, 4), _mm_set1_epi8(15));
  const __m128i codes = _mm_shuffle_epi8(table, _mm_unpacklo_epi8(low, high));
  const __m256 s = _mm256_set1_ps(scale);
  return {from_bytes(codes, s), from_bytes(_mm_srli_si128(codes, 8), s)};
}

inline __m256 fold(Vec a) { return _mm256_add_ps(a.lo, a.hi); }

using Part = __m256;
constexpr int part_lanes = 8;
inline Part part_load(const float* p) { return _mm256_loadu_ps(p); }
inline void part_store(float* p, Part a) { _mm256_storeu_ps(p, a); }
inline Part part_fma(Part a, Part b, Part c) { return _mm256_fmadd_ps(a, b, c); }

#else

struct Vec {
  float v[16];
};
struct Ints {
  uint32_t v[16];  // two's complement; unsigned so that wrap-around is defined
};

template <class F>
inline Vec map(F f) {
  Vec r;
  for (int i = 0; i < 16; ++i) r.v[i] = f(i);
  return r;
}
template <class F>
inline Ints map_ints(F f) {
  Ints r;
  for (int i = 0; i < 16; ++i) r.v[i] = f(i);
  return r;
}

inline Vec zero() { return {}; }
inline Vec set1(float x) {
  return map([&](int) { return x; });
}
inline Vec load(const float* p) {
  Vec r;
  __builtin_memcpy(r.v, p, 64);
  return r;
}
inline Vec load_first(const float* p, int64_t n) {
  Vec r = {};
  __builtin_memcpy(r.v, p, static_cast<size_t>(n) * 4);
  return r;
}
inline void store(float* p, const Vec& a) { __builtin_memcpy(p, a.v, 64); }
inline void store_first(float* p, const Vec& a, int64_t n) { __builtin_memcpy(p, a.v, static_cast<size_t>(n) * 4); }
inline Vec fma(const Vec& a, const Vec& b, const Vec& c) {
  return map([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
}
inline Vec add(const Vec& a, const Vec& b) {
  return map([&](int i) { return a.v[i] + b.v[i]; });
}
inline Vec sub(const Vec& a, const Vec& b) {
  return map([&](int i) { return a.v[i] - b.v[i]; });
}
inline Vec mul(const Vec& a, const Vec& b) {
  return map([&](int i) { return a.v[i] * b.v[i]; });
}
inline Vec div(const Vec& a, const Vec& b) {
  return map([&](int i) { return a.v[i] / b.v[i]; });
}
inline Vec max(const Vec& a, const Vec& b) {
  return map([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Vec min(const Vec& a, const Vec& b) {
  return map([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline Ints as_ints(const Vec& a) {
  return map_ints([&](int i) { return float_bits(a.v[i]); });
}
inline Vec as_floats(const Ints& a) {
  return map([&](int i) { return bits_float(a.v[i]); });
}
inline Ints set1_int(int32_t x) {
  return map_ints([&](int) { return static_cast<uint32_t>(x); });
}
inline Ints add(const Ints& a, const Ints& b) {
  return map_ints([&](int i) { return a.v[i] + b.v[i]; });
}
inline Ints sub(const Ints& a, const Ints& b) {
  return map_ints([&](int i) { return a.v[i] - b.v[i]; });
}
inline Ints half(const Ints& a) {
  return map_ints([&](int i) { return static_cast<uint32_t>(static_cast<int32_t>(a.v[i]) >> 1); });
}
inline Ints to_exponent(const Ints& a) {
  return map_ints([&](int i) { return a.v[i] << 23; });
}

// As the processor's instruction does it, which makes a signalling NaN quiet.
inline float half_to_float(uint16_t h) {
  const float x = float_of_f16(h);
  return x == x ? x : bits_float(float_bits(x) | 0x400000u);
}
inline Vec load_bf16_first(const void* p, int64_t n) {
  uint16_t u[16] = {};
  __builtin_memcpy(u, p, static_cast<size_t>(n) * 2);
  return map([&](int i) { return float_of_bf16(u[i]); });
}
inline Vec load_f16_first(const void* p, int64_t n) {
  uint16_t u[16] = {};
  __builtin_memcpy(u, p, static_cast<size_t>(n) * 2);
  return map([&](int i) { return half_to_float(u[i]); });
}
inline Vec load_bf16(const void* p) { return load_bf16_first(p, 16); }
inline Vec load_f16(const void* p) { return load_f16_first(p, 16); }
inline Vec from_mxfp4(uint64_t nibbles, float scale) {
  static const float table[16] = {0, .5f, 1, 1.5f, 2, 3, 4, 6, -0.f, -.5f, -1, -1.5f, -2, -3, -4, -6};
  return map([&](int i) { return table[nibbles >> (4 * i) & 15] * scale; });
}
inline Vec from_int8(const void* p, float scale) {
  signed char codes[16];
  __builtin_memcpy(codes, p, 16);
  return map([&](int i) { return static_cast<float>(codes[i]) * scale; });
}
inline Vec from_int4(uint64_t nibbles, float scale) {
  return map([&](int i) {
    const int code = static_cast<int>(nibbles >> (4 * i) & 15);
    return static_cast<float>(code < 8 ? code : code - 16) * scale;
  });
}

using Part = Vec;
constexpr int part_lanes = 16;
inline Part part_load(const float* p) { return load(p); }
inline void part_store(float* p, const Part& a) { store(p, a); }
inline Part part_fma(const Part& a, const Part& b, const Part& c) { return fma(a, b, c); }

#endif

// Sum of the lanes by one tree: i and i + 8, then i + 4, i + 2, i + 1.
inline float sum(const Vec& a) {
#if defined(__AVX2__)
  const __m256 eight = fold(a);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
  float s[16];
  store(s, a);
  for (int width = 8; width >= 1; width /= 2) {
    for (int i = 0; i < width; ++i) s[i] += s[i + width];
  }
  return s[0];
#endif
}

// Four sums at once: the same tree, its steps shared.
inline void sum4(float* out, const Vec& a, const Vec& b, const Vec& c, const Vec& d) {
#if defined(__AVX2__)
  const __m256 ea = fold(a), eb = fold(b), ec = fold(c), ed = fold(d);
  const __m128 fa = _mm_add_ps(_mm256_castps256_ps128(ea), _mm256_extractf128_ps(ea, 1));
  const __m128 fb = _mm_add_ps(_mm256_castps256_ps128(eb), _mm256_extractf128_ps(eb, 1));
  const __m128 fc = _mm_add_ps(_mm256_castps256_ps128(ec), _mm256_extractf128_ps(ec, 1));
  const __m128 fd = _mm_add_ps(_mm256_castps256_ps128(ed), _mm256_extractf128_ps(ed, 1));
  const __m128 ab = _mm_add_ps(_mm_movelh_ps(fa, fb), _mm_movehl_ps(fb, fa));  // a0 a1 b0 b1
  const __m128 cd = _mm_add_ps(_mm_movelh_ps(fc, fd), _mm_movehl_ps(fd, fc));
  _mm_storeu_ps(out, _mm_add_ps(_mm_shuffle_ps(ab, cd, 0x88), _mm_shuffle_ps(ab, cd, 0xdd)));
#else
  out[0] = sum(a), out[1] = sum(b), out[2] = sum(c), out[3] = sum(d);
#endif
}

inline float max_lane(const Vec& a) {
  float s[16];
  store(s, a);
  float m = s[0];
  for (int i = 1; i < 16; ++i) m = m > s[i] ? m : s[i];
  return m;
}

// e^x within 2 ulp; 0 below -104, inf above 88.73, NaN stays NaN. x = n ln 2 + r, |r| <= ln 2 / 2; the exponent is
// applied in two halves so that subnormal results round once.
inline Vec exp(const Vec& x) {
  const Vec magic = set1(12582912.f);  // 1.5 * 2^23: adding it rounds to an integer in the low mantissa bits
  const Vec clamped = max(set1(-105.f), min(set1(89.f), x));
  const Vec t = fma(clamped, set1(1.44269504f), magic);
  const Vec n = sub(t, magic);
  Vec r = fma(n, set1(-0.693359375f), clamped);
  r = fma(n, set1(2.12194440e-4f), r);
  Vec p = set1(1.f / 5040);
  p = fma(p, r, set1(1.f / 720));
  p = fma(p, r, set1(1.f / 120));
  p = fma(p, r, set1(1.f / 24));
  p = fma(p, r, set1(1.f / 6));
  p = fma(p, r, set1(0.5f));
  p = fma(p, r, set1(1.f));
  p = fma(p, r, set1(1.f));
  const Ints whole = sub(as_ints(t), as_ints(magic));
  const Ints first = half(whole), second = sub(whole, first), bias = set1_int(127);
  return mul(mul(p, as_floats(to_exponent(add(first, bias)))), as_floats(to_exponent(add(second, bias))));
}

}  // namespace
}  // namespace signalbox::kernels::cpu
