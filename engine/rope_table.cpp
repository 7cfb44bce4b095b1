#include "engine/rope_table.h"

#include <algorithm>
#include <cmath>

namespace signalbox::engine {

const RopeTable& RopeCache::reach(int64_t n_positions) {
  if (n_positions <= table_.n_positions) return table_;
  const int64_t half = static_cast<int64_t>(rope_.inv_freq.size());
  int64_t grown = std::max<int64_t>(1024, table_.n_positions);
  while (grown < n_positions) grown *= 2;
  cos_.resize(static_cast<size_t>(grown * half));
  sin_.resize(static_cast<size_t>(grown * half));
  for (int64_t p = table_.n_positions; p < grown; ++p) {
    for (int64_t i = 0; i < half; ++i) {
      // The angle is rounded to f32 as reference implementations do; its cosine is then exact to f32.
      const float angle = static_cast<float>(p) * rope_.inv_freq[i];
      cos_[p * half + i] = static_cast<float>(std::cos(static_cast<double>(angle))) * rope_.magnitude;
      sin_[p * half + i] = static_cast<float>(std::sin(static_cast<double>(angle))) * rope_.magnitude;
    }
  }
  const size_t bytes = cos_.size() * sizeof(float);
  backend_.forget_graphs();  // they name the old tables
  table_ = {};
  device_cos_.reset();
  device_sin_.reset();
  device_cos_ = backend_.allocate(bytes);
  device_sin_ = backend_.allocate(bytes);
  backend_.upload(device_cos_.get(), cos_.data(), bytes);
  backend_.upload(device_sin_.get(), sin_.data(), bytes);
  table_ = {static_cast<const float*>(device_cos_.get()), static_cast<const float*>(device_sin_.get()), grown,
            rope_.n_dims(), rope_.adjacent};
  return table_;
}

}  // namespace signalbox::engine
