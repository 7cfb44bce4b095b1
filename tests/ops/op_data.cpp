#include "tests/ops/op_data.h"

#include "kernels/cpu/isa.h"

namespace signalbox::test {

namespace {

double from_bf16(uint16_t u) {
  const uint32_t bits = static_cast<uint32_t>(u) << 16;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

double from_f16(uint16_t u) {
  const int exponent = (u >> 10) & 31, fraction = u & 0x3ff;
  const double magnitude = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return u & 0x8000 ? -magnitude : magnitude;
}

}  // namespace

StoredMatrix::StoredMatrix(DType dtype, int64_t rows, int64_t cols, uint64_t seed, int64_t row_gap) {
  Noise noise(seed);
  const int64_t stride = cols + row_gap;
  const int64_t elements = rows == 0 ? 0 : (rows - 1) * stride + cols;
  const auto size = static_cast<size_t>(element_bytes(dtype, elements + (dtype_size(dtype) == 0 ? elements % 2 : 0)));
  bytes_.reset(new unsigned char[size + 1]());
  unsigned char* data = bytes_.get() + 1;
  values_.resize(static_cast<size_t>(rows * cols));
  matrix_.data = data;
  matrix_.dtype = dtype;
  matrix_.rows = rows;
  matrix_.cols = cols;
  matrix_.row_stride = stride;
  if (in_blocks(dtype)) {
    matrix_.scale_stride = (stride + 31) / 32;
    const int64_t n = rows * matrix_.scale_stride;
    scales_.reset(new uint8_t[static_cast<size_t>(n * scale_bytes(dtype) + 1)]);
    for (int64_t i = 0; i < n; ++i) {
      if (dtype == DType::int4) {  // either sign, five significant bits
        const auto scale =
            static_cast<uint16_t>(noise.below(2) << 15 | (120 + noise.below(5)) << 7 | noise.below(16) << 3);
        std::memcpy(scales_.get() + 2 * i, &scale, 2);
      } else {
        scales_[static_cast<size_t>(i)] = static_cast<uint8_t>(120 + noise.below(12));
      }
    }
    matrix_.scales = scales_.get();
  }
  static const double e2m1[8] = {0, .5, 1, 1.5, 2, 3, 4, 6};
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      const int64_t at = r * stride + c;
      double& value = values_[static_cast<size_t>(r * cols + c)];
      if (dtype == DType::f32) {
        const float x = noise.normal();
        std::memcpy(data + at * 4, &x, 4);
        value = x;
      } else if (dtype == DType::bf16) {
        const float x = noise.normal();
        uint32_t bits;
        std::memcpy(&bits, &x, 4);
        const uint16_t u = static_cast<uint16_t>(bits >> 16);
        std::memcpy(data + at * 2, &u, 2);
        value = from_bf16(u);
      } else if (dtype == DType::f16) {
        // any sign, exponents of 2^-14 (subnormals included) to 2^1
        const uint16_t u =
            static_cast<uint16_t>((noise.bits() & 0x83ff) | static_cast<uint64_t>(noise.below(17)) << 10);
        std::memcpy(data + at * 2, &u, 2);
        value = from_f16(u);
      } else if (dtype == DType::int8) {
        const int code = static_cast<int>(noise.below(256)) - 128;
        data[at] = static_cast<unsigned char>(code);
        value = std::ldexp(code, scales_[static_cast<size_t>(r * matrix_.scale_stride + c / 32)] - 127);
      } else {
        const int nibble = static_cast<int>(noise.below(16));
        data[at / 2] = static_cast<unsigned char>(data[at / 2] | nibble << (at % 2 * 4));
        const auto block = static_cast<size_t>(r * matrix_.scale_stride + c / 32);
        if (dtype == DType::int4) {
          uint16_t scale;
          std::memcpy(&scale, scales_.get() + 2 * block, 2);
          value = (nibble < 8 ? nibble : nibble - 16) * from_bf16(scale);
        } else {
          value = (nibble & 8 ? -1 : 1) * e2m1[nibble & 7] * std::ldexp(1, scales_[block] - 127);
        }
      }
    }
  }
}

std::vector<std::string> machine_isas() {
  std::vector<std::string> found;
  for (const char* isa : {"scalar", "avx2", "avx512"}) {
    if (cpu::has_isa(isa)) found.push_back(isa);
  }
  return found;
}

StoredExperts::StoredExperts(DType dtype, int64_t n_experts, int64_t d_model, int64_t d_ff, bool bias, uint64_t seed) {
  Noise noise(seed + 77);
  for (int64_t e = 0; e < n_experts; ++e) {
    const uint64_t s = seed * 1000 + static_cast<uint64_t>(e) * 3;
    gate.emplace_back(dtype, d_ff, d_model, s);
    up.emplace_back(dtype, d_ff, d_model, s + 1);
    down.emplace_back(dtype, d_model, d_ff, s + 2);
    gate_views.push_back(gate.back().matrix());
    up_views.push_back(up.back().matrix());
    down_views.push_back(down.back().matrix());
    if (!bias) continue;
    for (auto* list : {&gate_bias, &up_bias, &down_bias}) {
      list->emplace_back();
      for (int64_t i = 0; i < (list == &down_bias ? d_model : d_ff); ++i) list->back().push_back(noise.normal());
    }
  }
  for (size_t e = 0; e < gate_bias.size(); ++e) {
    gate_bias_views.push_back({gate_bias[e].data(), d_ff});
    up_bias_views.push_back({up_bias[e].data(), d_ff});
    down_bias_views.push_back({down_bias[e].data(), d_model});
  }
}

ExpertMatrices StoredExperts::matrices() const {
  ExpertMatrices m;
  m.gate = gate_views;
  m.up = up_views;
  m.down = down_views;
  m.gate_bias = gate_bias_views;
  m.up_bias = up_bias_views;
  m.down_bias = down_bias_views;
  return m;
}

HandRoute make_route(const cases::Experts& c, uint64_t seed) {
  using Case = cases::Experts;
  HandRoute route(c.n_tokens, c.n_slots, c.n_experts);
  Noise noise(seed);
  for (int64_t t = 0; t < c.n_tokens; ++t) {
    int64_t first = noise.below(c.n_experts);
    if (c.pattern == Case::skewed) first = first * first / c.n_experts;
    for (int32_t i = 0; i < c.n_slots; ++i) {
      const size_t slot = static_cast<size_t>(t * c.n_slots + i);
      const bool unused =
          c.pattern == Case::all_unused || (c.pattern == Case::unused_slots && i >= t % (c.n_slots + 1));
      if (unused) continue;
      route.ids[slot] = c.pattern == Case::all_to_one ? 2 : static_cast<int32_t>((first + i) % c.n_experts);
      route.weights[slot] = noise.normal();
    }
  }
  return route;
}

}  // namespace signalbox::test
