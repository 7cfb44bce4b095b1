// The cosines and sines of a model's rotary embedding, in memory of the device.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
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
  // A table whose row i is that of position places[i]; until the next call of either. Forgets the backend's graphs.
  const RopeTable& at(std::span<const int32_t> places);

 private:
  void put(int64_t row, int64_t position, float* cos, float* sin) const;
  RopeTable upload(const std::vector<float>& cos, const std::vector<float>& sin, int64_t n_rows,
                   std::shared_ptr<void>& device_cos, std::shared_ptr<void>& device_sin) const;
  Backend& backend_;
  const Rope& rope_;
  RopeTable table_;
  std::vector<float> cos_, sin_;  // [n_positions, n_dims / 2]
  std::shared_ptr<void> device_cos_, device_sin_;
  RopeTable placed_;  // of at()
  std::shared_ptr<void> placed_cos_, placed_sin_;
};

}  // namespace signalbox::engine
