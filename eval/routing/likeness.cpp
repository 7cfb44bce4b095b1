#include "eval/routing/likeness.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"

namespace signalbox {

namespace {

using Weighted = std::vector<std::pair<int32_t, double>>;  // expert and weight, by expert

void check(const Routes& routes) {
  const auto size = static_cast<size_t>(routes.n_tokens * routes.n_layers * routes.n_slots);
  if (routes.ids.size() != size)
    throw Error("routes", "expected " + std::to_string(size) + " ids, found " + std::to_string(routes.ids.size()));
  if (!routes.weights.empty() && routes.weights.size() != size)
    throw Error("routes",
                "expected " + std::to_string(size) + " weights, found " + std::to_string(routes.weights.size()));
}

Weighted experts_at(const Routes& routes, int64_t token, int64_t layer) {
  Weighted out;
  const int64_t start = (token * routes.n_layers + layer) * routes.n_slots;
  for (int64_t slot = start; slot < start + routes.n_slots; ++slot) {
    const auto at = static_cast<size_t>(slot);
    if (routes.ids[at] < 0) continue;
    out.emplace_back(routes.ids[at], routes.weights.empty() ? 0.0 : static_cast<double>(routes.weights[at]));
  }
  std::sort(out.begin(), out.end());
  return out;
}

// What the two sets share at one token and layer.
struct Shared {
  int64_t both = 0, mine = 0, baseline = 0;
  double least = 0, most = 0;  // sums of min and max weights
};

Shared share(const Weighted& mine, const Weighted& baseline) {
  Shared out;
  out.mine = static_cast<int64_t>(mine.size());
  out.baseline = static_cast<int64_t>(baseline.size());
  for (size_t i = 0, j = 0; i < mine.size() || j < baseline.size();) {
    if (j == baseline.size() || (i < mine.size() && mine[i].first < baseline[j].first)) {
      out.most += mine[i++].second;
    } else if (i == mine.size() || baseline[j].first < mine[i].first) {
      out.most += baseline[j++].second;
    } else {
      ++out.both;
      out.least += std::min(mine[i].second, baseline[j].second);
      out.most += std::max(mine[i++].second, baseline[j++].second);
    }
  }
  return out;
}

// The mean of `value` over the pairs that use an expert; a value that is NaN is left out.
template <class Value>
std::optional<double> mean_over_pairs(const Routes& mine, const Routes& baseline, Value value) {
  check(mine);
  check(baseline);
  if (mine.n_layers != baseline.n_layers)
    throw Error("routes", "expected as many layers as the baseline's " + std::to_string(baseline.n_layers) +
                              ", found " + std::to_string(mine.n_layers));
  double sum = 0;
  int64_t n = 0;
  for (int64_t token = 0; token < std::min(mine.n_tokens, baseline.n_tokens); ++token)
    for (int64_t layer = 0; layer < mine.n_layers; ++layer) {
      const Shared shared = share(experts_at(mine, token, layer), experts_at(baseline, token, layer));
      if (shared.mine == 0 && shared.baseline == 0) continue;
      const double one = value(shared);
      if (std::isnan(one)) continue;
      sum += one;
      ++n;
    }
  if (n == 0) return std::nullopt;
  return sum / static_cast<double>(n);
}

}  // namespace

std::optional<double> route_jaccard(const Routes& mine, const Routes& baseline) {
  return mean_over_pairs(mine, baseline, [](const Shared& s) {
    return static_cast<double>(s.both) / static_cast<double>(s.mine + s.baseline - s.both);
  });
}

std::optional<double> route_jaccard_weighted(const Routes& mine, const Routes& baseline) {
  if (mine.weights.empty() || baseline.weights.empty()) return std::nullopt;
  return mean_over_pairs(mine, baseline, [](const Shared& s) { return s.most > 0 ? s.least / s.most : std::nan(""); });
}

std::optional<double> route_flips(const Routes& mine, const Routes& baseline) {
  return mean_over_pairs(mine, baseline,
                         [](const Shared& s) { return s.both == s.mine && s.both == s.baseline ? 0.0 : 1.0; });
}

std::optional<double> route_instability(const Routes& mine, const Routes& baseline) {
  return mean_over_pairs(mine, baseline, [](const Shared& s) {
    if (s.baseline == 0) return std::nan("");
    return static_cast<double>(s.baseline - s.both) / static_cast<double>(s.baseline);
  });
}

}  // namespace signalbox
