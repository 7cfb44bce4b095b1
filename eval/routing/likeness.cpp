#include "eval/routing/likeness.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"
#include "base/no_number.h"

namespace signalbox::eval {

namespace {

void check(const Routes& routes) {
  const auto size = static_cast<size_t>(routes.n_tokens * routes.n_layers * routes.n_slots);
  if (routes.ids.size() != size)
    throw Error("routes", "expected " + std::to_string(size) + " ids, found " + std::to_string(routes.ids.size()));
  if (!routes.weights.empty() && routes.weights.size() != size)
    throw Error("routes",
                "expected " + std::to_string(size) + " weights, found " + std::to_string(routes.weights.size()));
}

double weight_at(const TokenRoute& route, size_t slot) {
  return route.weights.empty() ? 0.0 : static_cast<double>(route.weights[slot]);
}

// The slot that holds the expert, or the number of slots.
size_t slot_of(const TokenRoute& route, int32_t expert) {
  return static_cast<size_t>(std::find(route.ids.begin(), route.ids.end(), expert) - route.ids.begin());
}

// The mean of `value` over the pairs that use an expert.
template <class Value>
std::optional<double> mean_over_pairs(const Routes& mine, const Routes& baseline, Value value) {
  check(mine);
  check(baseline);
  if (mine.n_layers != baseline.n_layers)
    throw Error("routes", "expected as many layers as the baseline's " + std::to_string(baseline.n_layers) +
                              ", found " + std::to_string(mine.n_layers));
  DefinedMean mean;
  for (int64_t token = 0; token < std::min(mine.n_tokens, baseline.n_tokens); ++token)
    for (int64_t layer = 0; layer < mine.n_layers; ++layer) {
      const RoutePair pair = compare_routes(mine.at(token, layer), baseline.at(token, layer));
      if (!pair.empty()) mean.add(value(pair));
    }
  return mean.mean();
}

}  // namespace

double RoutePair::jaccard() const {
  if (empty()) return no_number;
  return static_cast<double>(common) / static_cast<double>(mine + baseline - common);
}

double RoutePair::jaccard_weighted() const { return most > 0 ? least / most : no_number; }

double RoutePair::instability() const {
  if (baseline == 0) return no_number;
  return static_cast<double>(baseline - common) / static_cast<double>(baseline);
}

RoutePair compare_routes(const TokenRoute& mine, const TokenRoute& baseline) {
  RoutePair out;
  for (size_t slot = 0; slot < mine.ids.size(); ++slot) {
    if (mine.ids[slot] < 0) continue;
    ++out.mine;
    const double weight = weight_at(mine, slot);
    const size_t other = slot_of(baseline, mine.ids[slot]);
    if (other == baseline.ids.size()) {
      out.most += weight;
      continue;
    }
    ++out.common;
    out.least += std::min(weight, weight_at(baseline, other));
    out.most += std::max(weight, weight_at(baseline, other));
  }
  for (size_t slot = 0; slot < baseline.ids.size(); ++slot) {
    if (baseline.ids[slot] < 0) continue;
    ++out.baseline;
    if (slot_of(mine, baseline.ids[slot]) == mine.ids.size()) out.most += weight_at(baseline, slot);
  }
  return out;
}

void DefinedMean::add(double value) {
  if (std::isnan(value)) return;
  sum_ += value;
  ++n_;
}

std::optional<double> DefinedMean::mean() const {
  if (n_ == 0) return std::nullopt;
  return sum_ / static_cast<double>(n_);
}

TokenRoute Routes::at(int64_t token, int64_t layer) const {
  const auto start = static_cast<size_t>((token * n_layers + layer) * n_slots), size = static_cast<size_t>(n_slots);
  return {ids.subspan(start, size), weights.empty() ? weights : weights.subspan(start, size)};
}

std::optional<double> route_jaccard(const Routes& mine, const Routes& baseline) {
  return mean_over_pairs(mine, baseline, [](const RoutePair& pair) { return pair.jaccard(); });
}

std::optional<double> route_jaccard_weighted(const Routes& mine, const Routes& baseline) {
  if (mine.weights.empty() || baseline.weights.empty()) return std::nullopt;
  return mean_over_pairs(mine, baseline, [](const RoutePair& pair) { return pair.jaccard_weighted(); });
}

std::optional<double> route_flips(const Routes& mine, const Routes& baseline) {
  return mean_over_pairs(mine, baseline, [](const RoutePair& pair) { return pair.same_experts() ? 0.0 : 1.0; });
}

std::optional<double> route_instability(const Routes& mine, const Routes& baseline) {
  return mean_over_pairs(mine, baseline, [](const RoutePair& pair) { return pair.instability(); });
}

}  // namespace signalbox::eval
