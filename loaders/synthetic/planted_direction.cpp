#include "loaders/synthetic/planted_direction.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/half.h"
#include "loaders/synthetic/values.h"

namespace signalbox::loaders::synthetic {

namespace {

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// Takes out what lies along the others, which are orthonormal; twice, for what rounding leaves. The length that is
// left.
double orthogonalize(std::vector<double>& x, const std::vector<std::vector<double>>& basis) {
  for (int round = 0; round < 2; ++round)
    for (const std::vector<double>& b : basis) {
      const double share = dot(x, b);
      for (size_t i = 0; i < x.size(); ++i) x[i] -= share * b[i];
    }
  return std::sqrt(dot(x, x));
}

void rescale(std::vector<double>& x, double factor) {
  for (double& value : x) value *= factor;
}

// A tensor as the checkpoint will store it, without what is planted in it, cut off from reserved dimensions.
std::vector<double> stored(const Spec& spec, const Reserved& reserved, const TensorPlace& place) {
  std::vector<float> values(static_cast<size_t>(place.rows * place.cols));
  draw_rows(spec, place, 0, place.rows, values.data());
  reserved.apply(place, 0, place.rows, values.data());
  std::vector<double> out;
  for (const float value : values)
    out.push_back(spec.storage == Storage::f32   ? value
                  : spec.storage == Storage::f16 ? float_of_f16(f16_of_float(value))
                                                 : float_of_bf16(bf16_of_float(value)));
  return out;
}

}  // namespace

DirectionParts direction_parts(const Spec& spec, const Reserved& reserved, const CircuitSpec& circuit) {
  const int32_t layer = circuit.experts[0].layer + 1;
  const auto d = static_cast<size_t>(spec.model.d_model);
  const int64_t n_experts = spec.model.layers[static_cast<size_t>(layer)].moe()->router.n_experts;
  TensorPlace router, norm;
  router.id = {Role::router, layer, -1};
  router.rows = n_experts;
  norm.id = {Role::ffn_norm, layer, -1};
  norm.rows = 1;
  router.cols = norm.cols = spec.model.d_model;
  const std::vector<double> w = stored(spec, reserved, router), gamma = stored(spec, reserved, norm);
  const auto row = [&](int64_t e) {
    std::vector<double> r(d);
    for (size_t i = 0; i < d; ++i) r[i] = w[static_cast<size_t>(e) * d + i] * gamma[i];
    return r;
  };
  DirectionParts parts{std::vector<double>(d), std::vector<double>(d)};
  if (circuit.router > 0) {
    const std::vector<double> off = row(circuit.swap.first), on = row(circuit.swap.second);
    for (size_t i = 0; i < d; ++i) parts.router[i] = on[i] - off[i];
    const double length = std::sqrt(dot(parts.router, parts.router));
    if (length == 0) throw Error(circuit.where, "expected init.router above 0 for a direction's router part, found 0");
    rescale(parts.router, circuit.router / length);
  }
  if (circuit.content > 0) {
    if (n_experts >= reserved.first())
      throw Error(circuit.where, "expected a hidden_size with more dimensions that are not reserved than the " +
                                     std::to_string(n_experts) + " experts of layer " + std::to_string(layer) +
                                     ", found " + std::to_string(reserved.first()));
    std::vector<std::vector<double>> basis;
    for (int64_t e = 0; e < n_experts; ++e) {
      std::vector<double> r = row(e);
      const double before = std::sqrt(dot(r, r)), length = orthogonalize(r, basis);
      if (length <= 1e-9 * before) continue;
      rescale(r, 1 / length);
      basis.push_back(std::move(r));
    }
    CounterDice dice(spec.seed, 2000 + static_cast<uint64_t>(layer));
    for (int64_t i = 0; i < reserved.first(); ++i)
      parts.content[static_cast<size_t>(i)] = static_cast<double>(dice.below(2000001)) / 1e6 - 1;
    rescale(parts.content, circuit.content / orthogonalize(parts.content, basis));
  }
  return parts;
}

}  // namespace signalbox::loaders::synthetic
