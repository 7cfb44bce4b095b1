#include "engine/rope_table.h"

#include <algorithm>
#include <cmath>

namespace signalbox::engine {

void RopeCache::put(int64_t row, int64_t position, float* cos, float* sin) const {
  const int64_t half = static_cast<int64_t>(rope_.inv_freq.size());
  for (int64_t i = 0; i < half; ++i) {
    // The angle is rounded to f32 as reference implementations do; its cosine is then exact to f32.
    const float angle = static_cast<float>(position) * rope_.inv_freq[i];
    cos[row * half + i] = static_cast<float>(std::cos(static_cast<double>(angle))) * rope_.magnitude;
    sin[row * half + i] = static_cast<float>(std::sin(static_cast<double>(angle))) * rope_.magnitude;
  }
}

RopeTable RopeCache::upload(const std::vector<float>& cos, const std::vector<float>& sin, int64_t n_rows,
                            std::shared_ptr<void>& device_cos, std::shared_ptr<void>& device_sin) const {
  const size_t bytes = cos.size() * sizeof(float);
  backend_.forget_graphs();  // they name the old tables
  device_cos.reset();
  device_sin.reset();
  device_cos = backend_.allocate(bytes);
  device_sin = backend_.allocate(bytes);
  backend_.upload(device_cos.get(), cos.data(), bytes);
  backend_.upload(device_sin.get(), sin.data(), bytes);
  return {static_cast<const float*>(device_cos.get()), static_cast<const float*>(device_sin.get()), n_rows,
          rope_.n_dims(), rope_.adjacent};
}

const RopeTable& RopeCache::reach(int64_t n_positions) {
  if (placed_.n_positions > 0) {
    backend_.forget_graphs();
    placed_ = {};
  }
  if (n_positions <= table_.n_positions) return table_;
  const int64_t half = static_cast<int64_t>(rope_.inv_freq.size());
  int64_t grown = std::max<int64_t>(1024, table_.n_positions);
  while (grown < n_positions) grown *= 2;
  cos_.resize(static_cast<size_t>(grown * half));
  sin_.resize(static_cast<size_t>(grown * half));
  for (int64_t p = table_.n_positions; p < grown; ++p) put(p, p, cos_.data(), sin_.data());
  table_ = {};
  table_ = upload(cos_, sin_, grown, device_cos_, device_sin_);
  return table_;
}

const RopeTable& RopeCache::at(std::span<const int32_t> places) {
  const auto n = static_cast<int64_t>(places.size());
  std::vector<float> cos(places.size() * rope_.inv_freq.size()), sin(cos.size());
  for (int64_t i = 0; i < n; ++i) put(i, places[static_cast<size_t>(i)], cos.data(), sin.data());
  placed_ = {};
  placed_ = upload(cos, sin, n, placed_cos_, placed_sin_);
  return placed_;
}

}  // namespace signalbox::engine
