#include "eval/circuit/random_circuits.h"

#include <cmath>
#include <map>
#include <tuple>
#include <utility>

#include "eval/data/dice.h"

namespace signalbox::eval {

namespace {

using Kind = NodeId::Kind;
constexpr int64_t most_tries = 200;

// Parts that may stand for one another, and how many of them the circuit has.
struct Stratum {
  std::vector<size_t> parts;
  size_t taken = 0;
};

std::vector<Stratum> strata_of(const CircuitScorer& scorer, const NodeMask& circuit) {
  std::map<std::tuple<Kind, int32_t, int64_t>, Stratum> by_kind;
  const std::vector<NodeId>& nodes = scorer.nodes();
  bool idle = false;  // the circuit has an expert that never runs
  for (size_t i = 0; i < nodes.size(); ++i) idle = idle || (circuit[i] && scorer.usage()[i] == 0);
  for (size_t i = 0; i < nodes.size(); ++i) {
    const bool routed = nodes[i].kind == Kind::expert || nodes[i].kind == Kind::head;
    if (scorer.usage()[i] == 0 && !idle) continue;
    Stratum& of = by_kind[{nodes[i].kind, routed ? nodes[i].layer : -1, nodes[i].position}];
    of.parts.push_back(i);
    of.taken += circuit[i] != 0;
  }
  std::vector<Stratum> strata;
  for (auto& [key, stratum] : by_kind) strata.push_back(std::move(stratum));
  return strata;
}

double usage_of(const CircuitScorer& scorer, const NodeMask& mask) {
  double sum = 0;
  for (size_t i = 0; i < mask.size(); ++i)
    if (mask[i] && scorer.nodes()[i].kind == Kind::expert) sum += scorer.usage()[i];
  return sum;
}

}  // namespace

RandomCircuits draw_random_circuits(const CircuitScorer& scorer, const NodeMask& circuit, uint64_t seed, int64_t n,
                                    int64_t draw) {
  RandomCircuits out;
  out.usage = usage_of(scorer, circuit);
  const std::vector<Stratum> strata = strata_of(scorer, circuit);
  for (int64_t d = draw; d < draw + n; ++d) {
    Dice dice(seed, "random circuit " + std::to_string(d));
    NodeMask best;
    double nearest = 0;
    for (int64_t attempt = 0; attempt < most_tries; ++attempt) {
      NodeMask mask = scorer.nothing();
      for (const Stratum& stratum : strata) {
        std::vector<size_t> parts = stratum.parts;
        for (size_t i = 0; i < stratum.taken; ++i) {
          std::swap(parts[i], parts[i + dice.below(parts.size() - i)]);
          mask[parts[i]] = 1;
        }
      }
      const double off = std::fabs(usage_of(scorer, mask) - out.usage);
      const bool itself = mask == circuit;
      if (itself && !best.empty()) continue;
      if (best.empty() || best == circuit || off < nearest) {
        nearest = off;
        best = std::move(mask);
      }
      if (!itself && nearest <= usage_tolerance * out.usage) break;
    }
    out.unmatched += nearest > usage_tolerance * out.usage;
    out.mean_usage += usage_of(scorer, best) / static_cast<double>(n);
    out.circuits.push_back(std::move(best));
  }
  return out;
}

}  // namespace signalbox::eval
