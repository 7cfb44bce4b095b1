// The types of numbers that files and tensors hold.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace signalbox {

enum class DType : uint8_t { f32, f16, bf16, mxfp4, f64, i64, i32, i16, i8, u64, u32, u16, u8, boolean, other };

// "F32", "BF16", ... as in safetensors headers.
std::string_view dtype_name(DType dtype);
// Bytes of one element; 0 for mxfp4, whose blocks of 32 take 16 bytes and one scale byte.
size_t dtype_size(DType dtype);

}  // namespace signalbox
