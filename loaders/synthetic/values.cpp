#include "loaders/synthetic/values.h"

#include <cmath>

namespace signalbox::loaders::synthetic {

namespace {

// SplitMix64's finaliser (Steele, Lea and Flood 2014) over a counter.
uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

// Mean 0, variance 1, near normal: the sum of four uniform numbers of 16 bits. Only integer steps and one product, so
// that every machine gets the same bits; no tails beyond 3.5, so that bounds on activations hold.
float near_normal(uint64_t bits) {
  const int64_t sum =
      static_cast<int64_t>((bits & 0xffff) + ((bits >> 16) & 0xffff) + ((bits >> 32) & 0xffff) + (bits >> 48));
  constexpr float scale = 1.0f / 37837.23f;  // sqrt(4 * (65536^2 - 1) / 12)
  return static_cast<float>(2 * sum - 4 * 65535) * (0.5f * scale);
}

struct Draw {
  double mean = 0, deviation = 0;
};

Draw draw(const Spec& spec, const TensorPlace& slot) {
  const Init& init = spec.init;
  const double fan_in = 1 / std::sqrt(static_cast<double>(slot.cols));
  switch (slot.id.role) {
    case Role::embed: return {0, init.embed};
    case Role::lm_head: return {0, init.head * fan_in};
    case Role::router: return {0, init.router * fan_in};
    case Role::o:
    case Role::dense_down:
    case Role::expert_down:
    case Role::shared_down: return {0, init.output * fan_in};
    case Role::attn_norm:
    case Role::ffn_norm:
    case Role::final_norm:
    case Role::q_norm:
    case Role::k_norm:
    case Role::q_a_norm:
    case Role::kv_a_norm: return {1, init.norm};
    case Role::o_bias:
    case Role::expert_down_bias: return {0, init.bias * init.output};
    case Role::sinks: return {0, 1};
    default: return {0, slot.vector ? init.bias : init.matrix * fan_in};
  }
}

}  // namespace

void draw_rows(const Spec& spec, const TensorPlace& slot, int64_t first, int64_t n, float* out) {
  const Draw parameters = draw(spec, slot);
  const uint64_t tensor = static_cast<uint64_t>(slot.id.role) | static_cast<uint64_t>(slot.id.layer + 1) << 8 |
                          static_cast<uint64_t>(slot.id.expert + 1) << 32;
  const uint64_t key = mix(mix(spec.seed) ^ tensor);
  const auto mean = static_cast<float>(parameters.mean), deviation = static_cast<float>(parameters.deviation);
  for (int64_t i = 0; i < n * slot.cols; ++i)
    out[i] = mean + deviation * near_normal(mix(key + static_cast<uint64_t>(first * slot.cols + i)));
}

CounterDice::CounterDice(uint64_t seed, uint64_t purpose) : key_(mix(mix(seed) ^ mix(purpose))) {}

uint64_t CounterDice::next() { return mix(key_ + count_++); }

void Values::rows(const TensorPlace& slot, int64_t first, int64_t n, float* out) const {
  if (slot.id.role == Role::embed && !circuits_.empty()) {
    for (int64_t i = 0; i < n; ++i) draw_rows(spec_, slot, circuits_.drawn_as(first + i), 1, out + i * slot.cols);
  } else {
    draw_rows(spec_, slot, first, n, out);
  }
  reserved_.apply(slot, first, n, out);
  planting_.apply(slot, first, n, out);
  circuits_.apply(slot, first, n, out);
}

}  // namespace signalbox::loaders::synthetic
