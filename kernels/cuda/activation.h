// The activation of gated feed-forward blocks.
#pragma once
#include "base/namespaces.h"
#include "kernels/cuda/device.h"

namespace signalbox::kernels::DEVICE_SPACE {

// hidden = activate(gate) * up. NaN stays NaN.
__device__ inline float activate(const Activation& activation, float gate, float up) {
  if (activation.kind == Activation::Kind::silu) return gate / (1.f + expf(-gate)) * up;
  const float limit = activation.limit;
  const float g = gate > limit ? limit : gate;
  const float u = up > limit ? limit : up < -limit ? -limit : up;
  return g * (1.f / (1.f + expf(-activation.alpha * g))) * (u + 1.f);
}

}  // namespace signalbox::kernels::DEVICE_SPACE
