#include "loaders/synthetic/gates.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace signalbox::loaders::synthetic {

namespace {

// Between the logits of a gate's two experts, in units of the normed constant.
constexpr double gap = 1.0 / 4096;
// Of experts that are always selected, and that never are.
constexpr double always = 3, never = -16;
// Of random rows where these decide between the two: small, so that both have nearly the same weight and the others
// keep clear of them.
constexpr double random_share = 1.0 / 64;
// What the gate projection of a planted expert's first neuron reads: far into the straight part of the activation.
constexpr double drive = 4;

// act(gate) of the first neuron where the normed constant is 1.
double driven(const Activation& activation) {
  const double alpha = activation.kind == Activation::Kind::clamped ? double{activation.alpha} : 1;
  return drive / (1 + std::exp(-alpha * drive));
}

// The weight of one of a gate's experts where the normed constant is 1, by the router's rule.
double nominal_weight(const Router& router) {
  const double others = router.n_active - 1;
  double own = 0.5, beside = 1 / (1 + std::exp(-always));
  if (router.score == Router::Score::softmax) {
    own = 1;
    beside = std::exp(always);
    if (!router.softmax_over_selected) {
      const double rest = router.n_experts - router.n_active - 1;
      const double sum = 2 * own + others * beside + rest * std::exp(never);
      own /= sum;
      beside /= sum;
    }
  }
  if (router.renormalize || router.softmax_over_selected) own /= own + others * beside;
  return own * double{router.scale};
}

}  // namespace

const Gate* Gates::in_layer(int64_t layer) const {
  for (const Gate& gate : gates_)
    if (gate.site.layer == layer) return &gate;
  return nullptr;
}

void Gates::set_vector(int32_t layer, std::vector<double> vector) {
  for (Gate& gate : gates_)
    if (gate.site.layer == layer) gate.vector = std::move(vector);
}

void Gates::add(Gate gate, const std::string& where) {
  const std::string layer = "layer " + std::to_string(gate.site.layer);
  const Router& router = model_.layers[static_cast<size_t>(gate.site.layer)].moe()->router;
  if (in_layer(gate.site.layer))
    throw Error(where, "expected a layer for each planted expert of a circuit, found " + layer + " twice");
  if (router.limits_groups())
    throw Error(where, "expected routers without groups of experts, found groups in " + layer);
  if (router.n_active >= router.n_experts)
    throw Error(where, "expected a router that leaves experts out, found one that selects all in " + layer);
  if (gate.instead < 0) gate.instead = gate.site.expert == 0 ? 1 : 0;
  gates_.push_back(std::move(gate));
}

void Gates::apply(const TensorPlace& slot, int64_t first, int64_t n, float* values) const {
  const Gate* gate = in_layer(slot.id.layer);
  if (!gate) return;
  const int32_t expert = slot.id.expert;
  const bool own = expert == gate->site.expert || expert == gate->instead;
  const int64_t cols = slot.cols;
  const auto set_row = [&](int64_t dim, double value) {  // of the first neuron
    if (first > 0) return;
    std::fill_n(values, cols, 0.0f);
    values[dim] = static_cast<float>(value);
  };
  switch (slot.id.role) {
    case Role::router: apply_router(*gate, slot, first, n, values); return;
    case Role::router_bias:
    case Role::selection_bias: std::fill_n(values, cols, 0.0f); return;
    case Role::expert_gate:
      if (own) set_row(reserved_.constant(), drive / reserved_.constant_size());
      return;
    case Role::expert_up:
      if (own && gate->copies >= 0) set_row(gate->copies, 1 / flag_size);
      if (own && gate->copies < 0) set_row(reserved_.constant(), 1 / reserved_.constant_size());
      return;
    case Role::expert_down:
      if (own) apply_down(*gate, slot, first, n, values);
      return;
    case Role::expert_gate_bias:
      if (own) values[0] = 0;
      return;
    case Role::expert_up_bias:  // the clamped activation adds 1 to what it multiplies
      if (own) values[0] = model_.activation.kind == Activation::Kind::clamped ? -1 : 0;
      return;
    case Role::expert_down_bias:
      if (own) std::fill_n(values, cols, 0.0f);
      return;
    default: return;
  }
}

void Gates::apply_router(const Gate& gate, const TensorPlace& slot, int64_t first, int64_t n, float* values) const {
  const int64_t constant = reserved_.constant();
  int64_t filled = 0;
  const int64_t fills = model_.layers[static_cast<size_t>(gate.site.layer)].moe()->router.n_active - 1;
  for (int64_t e = 0; e < slot.rows; ++e) {
    const bool own = e == gate.site.expert || e == gate.instead;
    const bool fill = !own && filled < fills;
    filled += fill;
    if (e < first || e >= first + n) continue;
    float* row = values + (e - first) * slot.cols;
    const auto set = [&](int64_t dim, double value) {
      row[dim] = static_cast<float>(dim == constant ? value / reserved_.constant_size() : value);
    };
    if (gate.random_rows) {
      for (int64_t c = 0; c < slot.cols; ++c) row[c] *= static_cast<float>(random_share);
      set(constant, own ? 0 : fill ? always : never);
      continue;
    }
    std::fill_n(row, slot.cols, 0.0f);
    if (!own) {
      set(constant, fill ? always : never);
    } else if (e == gate.instead) {  // between nothing and a flag, so that a missing one is none
      set(constant, gate.selected_by.empty() ? 0 : gap * gate.threshold);
    } else if (gate.selected_by.empty()) {
      set(constant, gap);
    } else {
      for (const int64_t flag : gate.selected_by) set(flag, gap / flag_size);
    }
  }
}

void Gates::apply_down(const Gate& gate, const TensorPlace& slot, int64_t first, int64_t n, float* values) const {
  const Moe& moe = *model_.layers[static_cast<size_t>(gate.site.layer)].moe();
  const double one = reserved_.amplitude() / (nominal_weight(moe.router) * driven(model_.activation));
  const double sign = slot.id.expert == gate.site.expert ? 1 : -1;
  std::fill_n(values, n * slot.cols, 0.0f);
  for (int64_t r = first; r < first + n; ++r) {
    double value = std::count(gate.writes.begin(), gate.writes.end(), r) > 0 ? gate.write_size : 0;
    if (!gate.vector.empty()) value += gate.vector[static_cast<size_t>(r)];
    values[(r - first) * slot.cols] = static_cast<float>(sign * one * value);
  }
}

}  // namespace signalbox::loaders::synthetic
