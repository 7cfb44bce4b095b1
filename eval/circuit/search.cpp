#include "eval/circuit/search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace signalbox::eval {

namespace {

double weighted_mean(std::span<const double> x, std::span<const double> weights) {
  double sum = 0, total = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    sum += weights[i] * x[i];
    total += weights[i];
  }
  return sum / total;
}

double mean_size(std::span<const double> x, std::span<const double> weights) {
  double sum = 0, total = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    sum += weights[i] * std::fabs(x[i]);
    total += weights[i];
  }
  return sum / total;
}

std::vector<std::vector<double>> alone(CircuitScorer& scorer, const NodeMask& tested) {
  std::vector<std::vector<double>> out;
  for (size_t i = 0; i < scorer.nodes().size(); ++i) {
    std::vector<double>& change = out.emplace_back(scorer.n_pairs(), 0.0);
    if (!tested[i]) continue;
    NodeMask rest = scorer.all();
    rest[i] = 0;
    const std::vector<double>& without = scorer.scores(rest);
    for (size_t r = 0; r < change.size(); ++r) change[r] = without[r] - scorer.whole()[r];
  }
  return out;
}

// Takes candidates out one by one, always the one that costs the least distance, and puts them behind those that stay.
// Costs grow as others go, so the one with the least known cost is tried again and goes if it is still the least.
void empty_candidates(CircuitScorer& scorer, Ranking& ranking, std::span<const double> weights) {
  const std::vector<size_t> candidates(ranking.parts.begin(),
                                       ranking.parts.begin() + static_cast<int64_t>(ranking.candidates));
  NodeMask kept = first_parts(scorer, ranking, ranking.candidates);
  double distance = distance_from_whole(scorer, kept, weights);
  const auto without = [&](size_t part) {
    kept[part] = 0;
    const double now = distance_from_whole(scorer, kept, weights);
    kept[part] = 1;
    return now - distance;
  };
  // Of equal ones the later goes, which is smaller alone.
  std::vector<double> costs;
  for (const size_t part : candidates) costs.push_back(without(part));
  std::vector<uint8_t> fresh(candidates.size(), 1), gone(candidates.size(), 0);
  for (size_t left = candidates.size(); left > 0; --left) {
    const auto least = [&] {
      size_t best = candidates.size();
      for (size_t i = 0; i < candidates.size(); ++i)
        if (!gone[i] && (best == candidates.size() || costs[i] <= costs[best])) best = i;
      return best;
    };
    size_t out = least();
    while (!fresh[out]) {
      costs[out] = without(candidates[out]);
      fresh[out] = 1;
      out = least();
    }
    gone[out] = 1;
    kept[candidates[out]] = 0;
    distance += costs[out];
    std::fill(fresh.begin(), fresh.end(), uint8_t{0});
    ranking.parts[left - 1] = candidates[out];
  }
}

double mean_of_all(std::span<const double> x) {
  return std::accumulate(x.begin(), x.end(), 0.0) / static_cast<double>(x.size());
}

}  // namespace

double weighted_faithfulness(SubsetScorer& scorer, const NodeMask& kept, std::span<const double> weights) {
  const double nothing = weighted_mean(scorer.none(), weights);
  return (weighted_mean(scorer.scores(kept), weights) - nothing) / (weighted_mean(scorer.whole(), weights) - nothing);
}

PartEffects measure_parts(CircuitScorer& scorer, CircuitScorer* reverse, const NodeMask& wanted) {
  PartEffects effects;
  effects.tested = scorer.differing();
  for (size_t i = 0; i < wanted.size(); ++i) effects.tested[i] = effects.tested[i] && wanted[i];
  effects.noising = alone(scorer, effects.tested);
  if (reverse) effects.denoising = alone(*reverse, effects.tested);
  return effects;
}

double PartEffects::size(size_t part, std::span<const double> weights) const {
  const std::vector<double> alike(weights.empty() ? noising[part].size() : 0, 1.0);
  const std::span<const double> of = weights.empty() ? std::span<const double>(alike) : weights;
  const double size = mean_size(noising[part], of);
  return denoising.empty() ? size : std::max(size, mean_size(denoising[part], of));
}

double distance_from_whole(SubsetScorer& scorer, const NodeMask& kept, std::span<const double> weights) {
  const std::vector<double>& scores = scorer.scores(kept);
  std::vector<double> gaps;
  for (size_t r = 0; r < scores.size(); ++r) gaps.push_back(scores[r] - scorer.whole()[r]);
  return mean_size(gaps, weights);
}

NodeMask first_parts(const CircuitScorer& scorer, const Ranking& ranking, size_t n) {
  NodeMask mask = scorer.nothing();
  for (size_t i = 0; i < std::min(n, ranking.parts.size()); ++i) mask[ranking.parts[i]] = 1;
  return mask;
}

Ranking rank_parts(CircuitScorer& scorer, const PartEffects& effects, std::span<const double> weights,
                   const SearchRule& rule) {
  const size_t n = scorer.nodes().size();
  std::vector<double> size(n);
  for (size_t i = 0; i < n; ++i) size[i] = effects.size(i, weights);
  Ranking ranking;
  ranking.parts.resize(n);
  std::iota(ranking.parts.begin(), ranking.parts.end(), size_t{0});
  std::stable_sort(ranking.parts.begin(), ranking.parts.end(), [&](size_t a, size_t b) { return size[a] > size[b]; });
  const size_t shortlist = std::min(rule.shortlist, n);
  // 1, 2, 3, 4, 6, 8, 12, 16, 24, ...
  for (size_t k = 1; k <= shortlist; k += k < 4 ? 1 : k & (k - 1) ? k / 3 : k / 2) {
    ranking.candidates = k;
    if (std::fabs(1 - weighted_faithfulness(scorer, first_parts(scorer, ranking, k), weights)) <= rule.tolerance / 2)
      break;
    ranking.candidates = shortlist;
  }
  empty_candidates(scorer, ranking, weights);
  return ranking;
}

std::vector<RedundantParts> find_redundant(CircuitScorer& scorer, const PartEffects& effects, double share,
                                           size_t most) {
  std::vector<RedundantParts> found;
  if (effects.denoising.empty()) return found;
  const double whole = mean_of_all(scorer.whole()), gap = whole - mean_of_all(scorer.none());
  std::vector<size_t> parts;
  for (size_t i = 0; i < scorer.nodes().size(); ++i) {
    const double restored = mean_of_all(effects.denoising[i]) / gap, missed = -mean_of_all(effects.noising[i]) / gap;
    if (restored >= share && missed < restored / 2) parts.push_back(i);
  }
  std::stable_sort(parts.begin(), parts.end(), [&](size_t a, size_t b) {
    return mean_of_all(effects.denoising[a]) / gap > mean_of_all(effects.denoising[b]) / gap;
  });
  if (parts.size() > most) parts.resize(most);
  std::sort(parts.begin(), parts.end());
  for (size_t i = 0; i < parts.size(); ++i)
    for (size_t j = i + 1; j < parts.size(); ++j) {
      NodeMask rest = scorer.all();
      rest[parts[i]] = rest[parts[j]] = 0;
      const RedundantParts pair{parts[i], parts[j], mean_of_all(effects.noising[parts[i]]),
                                mean_of_all(effects.noising[parts[j]]), mean_of_all(scorer.scores(rest)) - whole};
      // More than both alone, by a share of the gap.
      if (-(pair.without_both - pair.without_one - pair.without_two) / gap >= share) found.push_back(pair);
    }
  return found;
}

}  // namespace signalbox::eval
