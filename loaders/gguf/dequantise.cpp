// Stored values as f32, as ggml's reference functions (dequantize_row_*) compute them: a block of 32 values has one
// scale d (and, Q4_1, one offset m) in F16; the low halves of its bytes are values 0 to 15, the high ones 16 to 31.
#include <algorithm>
#include <cstring>
#include <iterator>

#include "base/error.h"
#include "base/half.h"
#include "loaders/gguf/gguf_file.h"

namespace signalbox::loaders::gguf {

namespace {

float half_at(const std::byte* from) {
  uint16_t bits;
  std::memcpy(&bits, from, 2);
  return float_of_f16(bits);
}

void f32_block(const std::byte* from, float* out) { std::memcpy(out, from, 4); }
void f16_block(const std::byte* from, float* out) { *out = half_at(from); }
void bf16_block(const std::byte* from, float* out) {
  uint16_t bits;
  std::memcpy(&bits, from, 2);
  *out = float_of_bf16(bits);
}

void q4_0_block(const std::byte* from, float* out) {
  const float d = half_at(from);
  for (int i = 0; i < 16; ++i) {
    const int byte = std::to_integer<int>(from[2 + i]);
    out[i] = static_cast<float>((byte & 15) - 8) * d;
    out[i + 16] = static_cast<float>((byte >> 4) - 8) * d;
  }
}

void q4_1_block(const std::byte* from, float* out) {
  const float d = half_at(from), m = half_at(from + 2);
  for (int i = 0; i < 16; ++i) {
    const int byte = std::to_integer<int>(from[4 + i]);
    out[i] = static_cast<float>(byte & 15) * d + m;
    out[i + 16] = static_cast<float>(byte >> 4) * d + m;
  }
}

void q8_0_block(const std::byte* from, float* out) {
  const float d = half_at(from);
  for (int i = 0; i < 32; ++i) out[i] = static_cast<float>(static_cast<int8_t>(from[2 + i])) * d;
}

struct TypeRow {
  uint32_t number;
  const char* name;
  int64_t block;   // values
  uint64_t bytes;  // of a block
  void (*read)(const std::byte* from, float* out);
};

constexpr TypeRow types[] = {
    {0, "F32", 1, 4, f32_block},     {1, "F16", 1, 2, f16_block},     {2, "Q4_0", 32, 18, q4_0_block},
    {3, "Q4_1", 32, 20, q4_1_block}, {8, "Q8_0", 32, 34, q8_0_block}, {30, "BF16", 1, 2, bf16_block},
};

const TypeRow* row_of(uint32_t type) {
  const auto* found =
      std::find_if(std::begin(types), std::end(types), [&](const auto& row) { return row.number == type; });
  return found == std::end(types) ? nullptr : found;
}

}  // namespace

uint64_t stored_bytes(uint32_t type, uint64_t elements) {
  const TypeRow& row = *row_of(type);
  return elements / static_cast<uint64_t>(row.block) * row.bytes;
}

int64_t block_of(uint32_t type) { return row_of(type)->block; }

bool known_type(uint32_t type) { return row_of(type) != nullptr; }

std::string type_text(uint32_t type) {
  const TypeRow* row = row_of(type);
  return row ? row->name : "type " + std::to_string(type);
}

void File::dequantise(const TensorInfo& tensor, int64_t first, int64_t n, float* out) const {
  const TypeRow* row = row_of(tensor.type);
  if (!row) {
    std::string names;
    for (const TypeRow& known : types) names += (names.empty() ? "" : ", ") + std::string(known.name);
    throw Error(name_ + ": tensor \"" + tensor.name + "\"",
                "expected one of the types " + names + ", found " + type_text(tensor.type));
  }
  if (mapped_) mapped_->check_unchanged();
  const std::byte* from = data_ + tensor.begin + stored_bytes(tensor.type, static_cast<uint64_t>(first));
  for (int64_t i = 0; i < n; i += row->block, from += row->bytes) row->read(from, out + i);
}

std::vector<float> File::dequantise(const TensorInfo& tensor) const {
  if (!known_type(tensor.type)) dequantise(tensor, 0, 0, nullptr);  // tells so
  std::vector<float> out(static_cast<size_t>(tensor.elements()));
  dequantise(tensor, 0, tensor.elements(), out.data());
  return out;
}

}  // namespace signalbox::loaders::gguf
