#include "train/adamw.h"

#include <algorithm>
#include <cmath>

namespace signalbox::train {

void adamw_step(std::span<float> weights, std::span<float> m, std::span<float> v, std::span<const float> gradient,
                const AdamW& adam, int64_t step, double lr, double decay, float factor) {
  const auto count = static_cast<double>(step);
  const double correction1 = 1 - std::pow(adam.beta1, count), correction2 = 1 - std::pow(adam.beta2, count);
  const auto kept = static_cast<float>(1 - lr * decay), of_new = static_cast<float>(1 - adam.beta1),
             beta2 = static_cast<float>(adam.beta2), of_square = static_cast<float>(1 - adam.beta2),
             root2 = static_cast<float>(std::sqrt(correction2)), eps = static_cast<float>(adam.eps),
             size = static_cast<float>(lr / correction1);
  for (size_t i = 0; i < weights.size(); ++i) {
    const float g = gradient[i] * factor;
    m[i] += of_new * (g - m[i]);
    v[i] = v[i] * beta2 + of_square * g * g;
    weights[i] = weights[i] * kept - size * m[i] / (std::sqrt(v[i]) / root2 + eps);
  }
}

double squared_norm(std::span<const float> values) {
  double sum = 0;
  for (const float x : values) sum += static_cast<double>(x) * static_cast<double>(x);
  return sum;
}

float clip_factor(double norm, double largest) {
  if (largest <= 0) return 1;
  return static_cast<float>(std::min(1.0, largest / (norm + 1e-6)));
}

}  // namespace signalbox::train
