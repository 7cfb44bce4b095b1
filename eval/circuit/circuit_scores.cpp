#include "eval/circuit/circuit_scores.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "eval/data/dice.h"
#include "eval/statistics/draws.h"
#include "eval/statistics/power.h"

namespace signalbox::eval {

namespace {

double mean_of(std::span<const double> x) {
  return std::accumulate(x.begin(), x.end(), 0.0) / static_cast<double>(x.size());
}

double faithfulness_of(SubsetScorer& scorer, const NodeMask& kept) {
  return faithfulness(scorer.scores(kept), scorer.whole(), scorer.none());
}

std::vector<size_t> members(const NodeMask& mask) {
  std::vector<size_t> out;
  for (size_t i = 0; i < mask.size(); ++i)
    if (mask[i]) out.push_back(i);
  return out;
}

NodeMask without(NodeMask mask, std::span<const size_t> out) {
  for (const size_t i : out) mask[i] = 0;
  return mask;
}

// Random halves of all of them.
std::vector<std::vector<size_t>> halves(const std::vector<size_t>& of, Dice& dice, int64_t draws) {
  std::vector<std::vector<size_t>> out;
  for (int64_t d = 0; d < draws && of.size() > 1; ++d) {
    std::vector<size_t> half = of;
    dice.shuffle(half);
    half.resize(of.size() / 2);
    out.push_back(std::move(half));
  }
  return out;
}

}  // namespace

const std::vector<double>& SubsetScorer::scores(const NodeMask& kept) {
  const auto found = known_.find(kept);
  if (found != known_.end()) return found->second;
  const std::string name(kept.begin(), kept.end());
  return known_.emplace(kept, known_or("mask " + name, [&] { return run(kept); })).first->second;
}

void SubsetScorer::keep_in(std::shared_ptr<RunLog> log, std::string name) {
  log_ = std::move(log);
  name_ = std::move(name);
}

std::vector<double> SubsetScorer::known_or(const std::string& name,
                                           const std::function<std::vector<double>()>& make) const {
  return log_ ? log_->known_or(name_ + " " + name, make) : make();
}

NodeMask complement_of(const NodeMask& kept) {
  NodeMask rest = kept;
  for (uint8_t& x : rest) x = x == 0;
  return rest;
}

int64_t count_of(const NodeMask& kept) { return std::count(kept.begin(), kept.end(), uint8_t{1}); }

bool denominator_known(std::span<const double> whole, std::span<const double> none) {
  ClusteredValues gaps;
  for (size_t i = 0; i < whole.size(); ++i) {
    gaps.sums.push_back(whole[i] - none[i]);
    gaps.counts.push_back(1);
  }
  const MeanError of = mean_error(gaps);
  // Of one pair no error is known, and its gap is all there is.
  return of.mean != 0 && (std::isnan(of.error) || std::fabs(of.mean) >= 2 * of.error);
}

double faithfulness(std::span<const double> circuit, std::span<const double> whole, std::span<const double> none) {
  const double nothing = mean_of(none);
  return (mean_of(circuit) - nothing) / (mean_of(whole) - nothing);
}

Faithfulness faithfulness_with_interval(std::span<const double> circuit, std::span<const double> whole,
                                        std::span<const double> none, uint64_t seed, int64_t resamples) {
  Faithfulness out{faithfulness(circuit, whole, none), {NAN, NAN}};
  const size_t n = circuit.size();
  if (n < 2) return out;
  const ResamplingDraws draws(seed, Resampling::bootstrap);
  std::vector<uint32_t> bits(n);
  std::vector<double> replicates;
  for (int64_t r = 0; r < resamples; ++r) {
    draws.fill(r, bits);
    double above = 0, below = 0;
    for (const uint32_t b : bits) {
      const size_t i = ResamplingDraws::below(b, n);
      above += circuit[i] - none[i];
      below += whole[i] - none[i];
    }
    replicates.push_back(above / below);
  }
  std::sort(replicates.begin(), replicates.end());
  if (std::isfinite(replicates.front()) && std::isfinite(replicates.back()))
    out.ci = {quantile(replicates, 0.025), quantile(replicates, 0.975)};
  return out;
}

SetScores set_scores(std::span<const double> circuit, std::span<const double> whole, std::span<const double> none,
                     uint64_t seed, int64_t resamples) {
  SetScores of{mean_of(whole), mean_of(none), mean_of(circuit), denominator_known(whole, none), {NAN, {NAN, NAN}}};
  if (of.known) of.faithfulness = faithfulness_with_interval(circuit, whole, none, seed, resamples);
  return of;
}

Completeness completeness(SubsetScorer& scorer, const NodeMask& circuit, uint64_t seed, int64_t draws, bool alone) {
  Dice dice(seed, "circuit completeness");
  const std::vector<size_t> parts = members(circuit);
  std::vector<std::vector<size_t>> sets = halves(parts, dice, draws);
  for (size_t i = 0; alone && i < parts.size(); ++i) sets.push_back({parts[i]});
  if (parts.size() > 1) sets.push_back(parts);
  sets.emplace_back();
  Completeness out;
  for (const std::vector<size_t>& set : sets) {
    const double gap =
        std::fabs(faithfulness_of(scorer, without(circuit, set)) - faithfulness_of(scorer, without(scorer.all(), set)));
    if (!(gap > out.gap)) continue;
    out.gap = gap;
    out.worst.clear();
    for (const size_t i : set) out.worst.push_back(scorer.part_name(i));
  }
  return out;
}

std::vector<double> minimality(SubsetScorer& scorer, const NodeMask& circuit, uint64_t seed, int64_t draws) {
  Dice dice(seed, "circuit minimality");
  const std::vector<size_t> parts = members(circuit);
  std::vector<double> out;
  for (const size_t part : parts) {
    std::vector<size_t> others = parts;
    std::erase(others, part);
    std::vector<std::vector<size_t>> sets = halves(others, dice, draws);
    sets.emplace_back();
    double most = 0;
    for (const std::vector<size_t>& set : sets) {
      const NodeMask rest = without(circuit, set);
      const size_t own[] = {part};
      most = std::max(most, std::fabs(faithfulness_of(scorer, without(rest, own)) - faithfulness_of(scorer, rest)));
    }
    out.push_back(most);
  }
  return out;
}

SizeCurve size_curve(CircuitScorer& scorer, std::span<const size_t> ranking) {
  SizeCurve curve;
  const double n = static_cast<double>(scorer.nodes().size());
  for (const double share : curve_shares) {
    const auto size = std::min(ranking.size(), static_cast<size_t>(std::lround(share * n)));
    NodeMask kept = scorer.nothing();
    for (size_t i = 0; i < size; ++i) kept[ranking[i]] = 1;
    // The whole is the model itself, also where the ranking left parts out.
    curve.shares.push_back(share);
    curve.f.push_back(share == 1 ? 1 : faithfulness_of(scorer, kept));
  }
  for (size_t i = 1; i < curve.f.size(); ++i) {
    const double width = (curve.shares[i] - curve.shares[i - 1]) / 2;
    curve.cpr += width * (curve.f[i] + curve.f[i - 1]);
    curve.cmd += width * (std::fabs(1 - curve.f[i]) + std::fabs(1 - curve.f[i - 1]));
  }
  return curve;
}

}  // namespace signalbox::eval
