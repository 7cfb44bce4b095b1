#include "train/selection_biases.h"

#include <algorithm>
#include <numeric>

namespace signalbox::train {

void update_biases(std::span<float> biases, std::span<const int64_t> load, double rate) {
  const int64_t total = std::accumulate(load.begin(), load.end(), int64_t{0});
  const auto n = static_cast<int64_t>(load.size());
  for (size_t e = 0; e < load.size(); ++e) {
    const int64_t over = load[e] * n - total;  // n (load - mean), exactly
    if (over != 0) biases[e] += static_cast<float>(over < 0 ? rate : -rate);
  }
}

double load_violation(const std::vector<std::vector<int64_t>>& loads) {
  double sum = 0;
  for (const std::vector<int64_t>& load : loads) {
    const auto total = static_cast<double>(std::accumulate(load.begin(), load.end(), int64_t{0}));
    const double mean = total / static_cast<double>(load.size());
    sum += (static_cast<double>(*std::max_element(load.begin(), load.end())) - mean) / mean;
  }
  return sum / static_cast<double>(loads.size());
}

SelectionBiases::SelectionBiases(Session& session) {
  for (const int32_t l : session.model.moe_layers()) {
    auto& moe = std::get<MoeWeights>(session.weights.layers[static_cast<size_t>(l)].ffn);
    layers_.push_back(l);
    biases_.emplace_back(moe.selection_bias.data, moe.selection_bias.data + moe.selection_bias.n);
    moe.selection_bias.data = biases_.back().data();
  }
}

void SelectionBiases::update(const std::vector<std::vector<int64_t>>& loads, double rate) {
  for (size_t i = 0; i < biases_.size(); ++i) update_biases(biases_[i], loads[i], rate);
}

std::vector<double> SelectionBiases::values() const {
  std::vector<double> values;
  for (const std::vector<float>& of : biases_) values.insert(values.end(), of.begin(), of.end());
  return values;
}

void SelectionBiases::set(std::span<const double> values) {
  size_t at = 0;
  for (std::vector<float>& of : biases_)
    for (float& one : of) one = static_cast<float>(values[at++]);
}

void SelectionBiases::put(ChangedModel& changed) const {
  for (size_t i = 0; i < layers_.size(); ++i) {
    auto& moe = std::get<MoeWeights>(changed.weights.layers[static_cast<size_t>(layers_[i])].ffn);
    moe.selection_bias.data = biases_[i].data();
    changed.replaced.push_back({Role::selection_bias, layers_[i], -1});
  }
}

}  // namespace signalbox::train
