// AdamW and clipping by the global norm, number for number as PyTorch's.
#pragma once
#include <cstdint>
#include <span>

#include "train/namespaces.h"

namespace signalbox::train {

struct AdamW {
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  double decay = 0.01;  // decoupled: w <- w (1 - lr decay) before the step
};

// Step `step` (from 1) of one tensor, all spans of one length, in f32 as torch.optim.AdamW on a CPU:
//   w <- w (1 - lr decay);  m <- m + (1 - beta1)(g - m);  v <- beta2 v + (1 - beta2) g^2
//   w <- w - lr / (1 - beta1^step) m / (sqrt(v) / sqrt(1 - beta2^step) + eps)
// where g is gradient times `factor` (of clip_factor).
void adamw_step(std::span<float> weights, std::span<float> m, std::span<float> v, std::span<const float> gradient,
                const AdamW& adam, int64_t step, double lr, double decay, float factor);

// Sum of squares, in order and in double.
double squared_norm(std::span<const float> values);

// What torch.nn.utils.clip_grad_norm_ multiplies gradients of this norm with: min(1, largest / (norm + 1e-6)); 1 where
// `largest` is 0 (no clipping).
float clip_factor(double norm, double largest);

}  // namespace signalbox::train
