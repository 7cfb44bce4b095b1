// The tile instructions that gemm_tiles.inc is written in: sixteen rows of 64 bytes, and the product of two such. The
// processor's where the compiler's flags have them, else a plain emulation of what their manual says, for tests.
#pragma once
#include "kernels/cpu/vec16.h"
#if defined(__AMX_TILE__) || defined(__AMXTILE__)  // g++, clang
#include <immintrin.h>
#endif

namespace signalbox::kernels::cpu {
namespace {

#if defined(__AMX_TILE__) || defined(__AMXTILE__)  // g++, clang

// Eight tiles of 16 x 64 bytes for this thread, until it goes.
struct Tiles {
  Tiles() {
    alignas(64) uint8_t config[64] = {};
    config[0] = 1;  // palette
    for (int t = 0; t < 8; ++t) {
      config[16 + 2 * t] = 64;  // bytes of a row
      config[48 + t] = 16;      // rows
    }
    _tile_loadconfig(config);
  }
  ~Tiles() { _tile_release(); }
};

// Macros, for g++ wants the numbers of tiles as digits.
#define TILE_ZERO(tiles, t) _tile_zero(t)
#define TILE_LOAD(tiles, t, from, stride) _tile_loadd(t, from, stride)
#define TILE_STORE(tiles, t, to) _tile_stored(t, to, 64)
// C[i][j] += A[i][2r] B[r][2j] + A[i][2r + 1] B[r][2j + 1] of bf16, over r
#define TILE_MULTIPLY(tiles, c, a, b) _tile_dpbf16ps(c, a, b)

#else

struct Tiles {
  alignas(64) unsigned char tiles[8][16][64];

  void zero(int t) { __builtin_memset(tiles[t], 0, sizeof tiles[t]); }
  void load(int t, const void* from, int64_t stride) {
    for (int r = 0; r < 16; ++r)
      __builtin_memcpy(tiles[t][r], static_cast<const unsigned char*>(from) + r * stride, 64);
  }
  void store(int t, float* to) const { __builtin_memcpy(to, tiles[t], sizeof tiles[t]); }
  // Even and odd products are summed apart over r by fused multiply-adds, then both to C. Subnormals count as zeros.
  void multiply(int to, int left, int right) {
    for (int i = 0; i < 16; ++i) {
      float c[16];
      __builtin_memcpy(c, tiles[to][i], 64);
      for (int j = 0; j < 16; ++j) {
        float sums[2] = {};
        for (int r = 0; r < 16; ++r) {
          for (int odd = 0; odd < 2; ++odd)
            sums[odd] = flushed(__builtin_fmaf(number(left, i, 2 * r + odd), number(right, r, 2 * j + odd), sums[odd]));
        }
        c[j] = flushed(c[j] + flushed(sums[0] + sums[1]));
      }
      __builtin_memcpy(tiles[to][i], c, 64);
    }
  }

 private:
  static float flushed(float x) { return __builtin_fabsf(x) < 1.17549435e-38f ? __builtin_copysignf(0.f, x) : x; }
  float number(int tile, int row, int at) const {
    uint16_t u;
    __builtin_memcpy(&u, tiles[tile][row] + 2 * at, 2);
    return flushed(bits_float(static_cast<uint32_t>(u) << 16));
  }
};

#define TILE_ZERO(tiles, t) (tiles).zero(t)
#define TILE_LOAD(tiles, t, from, stride) (tiles).load(t, from, stride)
#define TILE_STORE(tiles, t, to) (tiles).store(t, to)
#define TILE_MULTIPLY(tiles, c, a, b) (tiles).multiply(c, a, b)

#endif

}  // namespace
}  // namespace signalbox::kernels::cpu
