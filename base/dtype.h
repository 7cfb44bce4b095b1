// The types of numbers that files and tensors hold.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace signalbox {

enum class DType : uint8_t {
  f32,
  f16,
  bf16,
  mxfp4,  // blocks of 32 values with one scale, base/mxfp4.h
  int8,   // the same, base/int_blocks.h
  int4,
  f64,
  i64,
  i32,
  i16,
  i8,
  u64,
  u32,
  u16,
  u8,
  boolean,
  other
};

// "F32", "BF16", ... as in safetensors headers.
std::string_view dtype_name(DType dtype);
// Bytes of one element; 0 for those that come in blocks.
constexpr size_t dtype_size(DType dtype) {
  switch (dtype) {
    case DType::f64:
    case DType::i64:
    case DType::u64: return 8;
    case DType::f32:
    case DType::i32:
    case DType::u32: return 4;
    case DType::f16:
    case DType::bf16:
    case DType::i16:
    case DType::u16: return 2;
    case DType::i8:
    case DType::u8:
    case DType::boolean: return 1;
    case DType::mxfp4:
    case DType::int8:
    case DType::int4:
    case DType::other: return 0;
  }
  return 0;
}

// Weights whose rows are blocks of 32 values: codes, and beside them one scale a block.
inline constexpr int64_t weight_block = 32;
constexpr bool in_blocks(DType dtype) { return dtype == DType::mxfp4 || dtype == DType::int8 || dtype == DType::int4; }
constexpr int64_t scale_bytes(DType dtype) { return !in_blocks(dtype) ? 0 : dtype == DType::int4 ? 2 : 1; }
// Bytes of n elements, scales not counted; n is even where two share a byte.
constexpr int64_t element_bytes(DType dtype, int64_t n) {
  if (dtype == DType::int8) return n;
  return in_blocks(dtype) ? n / 2 : n * static_cast<int64_t>(dtype_size(dtype));
}

}  // namespace signalbox
