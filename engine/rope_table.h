// The cosines and sines of a model's rotary embedding, in memory of the device.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "base/namespaces.h"
#include "engine/model.h"
#include "kernels/backend.h"

namespace signalbox::engine {

// Made for as many positions as were asked for so far, in powers of two from 1024 on.
class RopeCache {
 public:
  RopeCache(Backend& backend, const Rope& rope) : backend_(backend), rope_(rope) {}
  // A table of at least n_positions. Moves when it grows, and forgets the backend's graphs then.
  const RopeTable& reach(int64_t n_positions);

 private:
  Backend& backend_;
  const Rope& rope_;
  RopeTable table_;
  std::vector<float> cos_, sin_;  // [n_positions, n_dims / 2]
  std::shared_ptr<void> device_cos_, device_sin_;
};

}  // namespace signalbox::engine
