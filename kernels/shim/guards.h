// Bytes around pieces of memory that nobody may touch.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/shim/fiber.h"

#if defined(SIMT_ASAN)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) static_cast<void>(size)
#define ASAN_UNPOISON_MEMORY_REGION(address, size) static_cast<void>(size)
#endif

namespace simt {

constexpr size_t guard_bytes = 1024;
constexpr uint16_t guard_value = 0xffa5;  // NaN as bf16 and, twice, as f32

inline void fill_guard(unsigned char* from, const unsigned char* to) {
  const auto* value = reinterpret_cast<const unsigned char*>(&guard_value);
  for (; from < to; ++from) *from = value[reinterpret_cast<uintptr_t>(from) % 2];
}
inline bool guard_holds(const unsigned char* from, const unsigned char* to) {
  const auto* value = reinterpret_cast<const unsigned char*>(&guard_value);
  const uint64_t words = guard_value * 0x0001000100010001ull;
  while (from < to) {
    uint64_t word;
    if (reinterpret_cast<uintptr_t>(from) % 8 == 0 && to - from >= 8) {
      std::memcpy(&word, from, 8);
      if (word != words) return false;
      from += 8;
    } else {
      if (*from != value[reinterpret_cast<uintptr_t>(from) % 2]) return false;
      ++from;
    }
  }
  return true;
}

}  // namespace simt
