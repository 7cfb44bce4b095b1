// Operands of wgmma as they lie in shared memory, and the descriptors that say so: what the PTX ISA's text is
// understood to mean. tests/device/instructions_test.cpp reads the tiles back by addresses; whether a device does is
// what gpu_kit asks.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels/cuda/device.h"

namespace signalbox::kernels::DEVICE_SPACE {

// Swizzle of an operand's rows in shared memory, as descriptors name it.
enum class Swizzle : uint8_t { none = 0, bytes_128 = 1, bytes_64 = 2, bytes_32 = 3 };

// Bits 0-13 the address, 16-29 the leading offset, 32-45 the stride offset, all in units of 16 bytes; 62-63 the
// swizzle.
__host__ __device__ constexpr uint64_t descriptor_bits(uint32_t leading_bytes, uint32_t stride_bytes, Swizzle swizzle) {
  return static_cast<uint64_t>(leading_bytes >> 4 & 0x3fff) << 16 |
         static_cast<uint64_t>(stride_bytes >> 4 & 0x3fff) << 32 | static_cast<uint64_t>(swizzle) << 62;
}

constexpr int n_k = 64, k_step = 16, n_steps = n_k / k_step;  // of a tile, of one wgmma

// Where the operand's bytes lie, and what its descriptors are.
struct Laid {
  std::vector<uint8_t> bytes;
  uint64_t bits = 0;              // of the descriptor, without an address
  uint32_t starts[n_steps] = {};  // of each step along K
};

// [rows, n_k] along K. Swizzled: atoms of 8 rows of `width` bytes, in which the 16-byte piece p of row r lies at
// p ^ r % 8 * width / 128; atoms of all rows first, then of the next columns. None: atoms of 8 rows of 16 bytes;
// `leading_is_k`: the leading offset leads along K and the stride offset along rows, or the other way round.
inline Laid along_k(const std::vector<uint16_t>& values, int rows, Swizzle swizzle, bool leading_is_k) {
  const int width = swizzle == Swizzle::none       ? 16
                    : swizzle == Swizzle::bytes_32 ? 32
                    : swizzle == Swizzle::bytes_64 ? 64
                                                   : 128;
  Laid laid;
  laid.bytes.assign(static_cast<size_t>(rows) * n_k * 2, 0);
  const auto place = [&](int r, int k) {
    const int column = k * 2 / width, piece = k * 2 % width / 16;
    const int moved = piece ^ (r % 8 * width / 128);
    return static_cast<uint32_t>(column * rows * width + r / 8 * 8 * width + r % 8 * width + moved * 16 + k * 2 % 16);
  };
  for (int r = 0; r < rows; ++r)
    for (int k = 0; k < n_k; ++k)
      __builtin_memcpy(&laid.bytes[place(r, k)], &values[static_cast<size_t>(r * n_k + k)], 2);
  const auto along = static_cast<uint32_t>(rows * width), across = static_cast<uint32_t>(8 * width);
  if (swizzle == Swizzle::none)
    laid.bits = leading_is_k ? descriptor_bits(along, across, swizzle) : descriptor_bits(across, along, swizzle);
  else
    laid.bits = descriptor_bits(16, across, swizzle);  // the leading offset is not looked at
  for (int s = 0; s < n_steps; ++s)
    laid.starts[s] = static_cast<uint32_t>(s * k_step * 2 / width * rows * width + s * k_step * 2 % width);
  return laid;
}

// [rows, n_k] along rows, 128-byte swizzle: atoms of 8 k of 64 rows, the piece p of k at p ^ k % 8; atoms of all k
// first, then of the next 64 rows. `leading_is_rows`: the leading offset leads to the next 64 rows and the stride
// offset to the next 8 k, or the other way round.
inline Laid along_rows(const std::vector<uint16_t>& values, int rows, bool leading_is_rows) {
  Laid laid;
  laid.bytes.assign(static_cast<size_t>(rows) * n_k * 2, 0);
  for (int r = 0; r < rows; ++r) {
    for (int k = 0; k < n_k; ++k) {
      const int piece = r % 64 / 8 ^ k % 8;
      const auto at = static_cast<size_t>(r / 64 * n_k * 128 + k * 128 + piece * 16 + r % 8 * 2);
      __builtin_memcpy(&laid.bytes[at], &values[static_cast<size_t>(r * n_k + k)], 2);
    }
  }
  const uint32_t rows_apart = n_k * 128, k_apart = 8 * 128;
  laid.bits = leading_is_rows ? descriptor_bits(rows_apart, k_apart, Swizzle::bytes_128)
                              : descriptor_bits(k_apart, rows_apart, Swizzle::bytes_128);
  for (int s = 0; s < n_steps; ++s) laid.starts[s] = static_cast<uint32_t>(s * k_step * 128);
  return laid;
}

}  // namespace signalbox::kernels::DEVICE_SPACE
