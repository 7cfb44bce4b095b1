#include "eval/circuit/edge_circuit.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <memory>

namespace signalbox::eval {

namespace {

double mean_gap(const std::vector<double>& whole, const std::vector<double>& none) {
  double gap = 0;
  for (size_t i = 0; i < whole.size(); ++i) gap += (whole[i] - none[i]) / static_cast<double>(whole.size());
  return std::fabs(gap);
}

double mean_change(const std::vector<double>& now, const std::vector<double>& was) {
  double sum = 0;
  for (size_t i = 0; i < now.size(); ++i) sum += std::fabs(now[i] - was[i]);
  return sum / static_cast<double>(now.size());
}

}  // namespace

std::vector<PrunedEdges> prune_edges(EdgeScorer& scorer, const std::vector<double>& thresholds, bool anything_sends) {
  const std::vector<EdgeId>& edges = scorer.edges();
  NodeMask kept = scorer.only(edges);
  std::vector<PrunedEdges> out;
  for (const double threshold : thresholds) {
    std::map<EdgeId, double> changes;
    for (size_t i = edges.size(); i-- > 0;) {
      if (!kept[i]) continue;
      NodeMask without = kept;
      without[i] = 0;
      const double change = mean_change(scorer.scores(without), scorer.scores(kept));
      if (change < threshold)
        kept = std::move(without);
      else
        changes[edges[i]] = change;
    }
    PrunedEdges left;
    for (size_t i = 0; i < edges.size(); ++i)
      if (kept[i]) left.edges.push_back(edges[i]);
    left.edges = without_dead_ends(std::move(left.edges), anything_sends);
    for (const EdgeId& edge : left.edges) left.changes.push_back(changes.at(edge));
    kept = scorer.only(left.edges);
    out.push_back(std::move(left));
  }
  return out;
}

EdgeCircuit find_edge_circuit(const std::array<ModelScorer*, 3>& sets, std::vector<EdgeId> candidates,
                              const EdgeCircuitRule& rule) {
  std::array<std::unique_ptr<EdgeScorer>, 3> scorers;
  std::array<bool, 3> known = {};
  for (size_t s = 0; s < 3; ++s) {
    scorers[s] = std::make_unique<EdgeScorer>(*sets[s], candidates);
    known[s] = denominator_known(sets[s]->whole(), sets[s]->none());
  }
  const double gap = mean_gap(sets[0]->whole(), sets[0]->none());
  std::vector<double> thresholds;
  for (const double tau : rule.taus) thresholds.push_back(tau * gap);
  rule.begin("taking edges out one by one", candidates.size() * sets[0]->n_pairs());
  std::vector<PrunedEdges> found = prune_edges(*scorers[0], thresholds, rule.anything_sends);

  EdgeCircuit out;
  rule.begin("choosing edges", found.size() * (sets[1]->n_pairs() + sets[2]->n_pairs()));
  size_t best = 0;
  double nearest = std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < found.size(); ++i) {
    EdgeCircuit::Size& size = out.sizes.emplace_back();
    size.tau = rule.taus[i];
    size.edges = found[i].edges.size();
    for (size_t s = 0; s < 3; ++s)
      size.faithfulness[s] = known[s] ? faithfulness(scorers[s]->scores(scorers[s]->only(found[i].edges)),
                                                     sets[s]->whole(), sets[s]->none())
                                      : std::numeric_limits<double>::quiet_NaN();
    // The last one that is faithful enough has the fewest edges. Where the second set says nothing, the first tau.
    const double off = std::fabs(1 - size.faithfulness[1]);
    const bool enough = off <= rule.tolerance;
    if (enough || (!out.chosen && off < nearest)) best = i;
    nearest = std::min(nearest, off);
    out.chosen = out.chosen || enough;
  }
  out.candidates = std::move(candidates);
  out.edges = std::move(found[best].edges);
  out.changes = std::move(found[best].changes);
  out.tau = rule.taus[best];
  const NodeMask circuit = scorers[2]->only(out.edges);
  for (size_t s = 0; s < 3; ++s)
    out.scores[s] =
        set_scores(scorers[s]->scores(circuit), sets[s]->whole(), sets[s]->none(), rule.seed, rule.resamples);
  if (!known[2]) return out;
  EdgeScorer& test = *scorers[2];
  rule.begin("scoring the edges", 2 * out.edges.size() * static_cast<size_t>(rule.subsets + 1) * sets[2]->n_pairs());
  out.completeness = completeness(test, circuit, rule.seed, rule.subsets);
  out.minimality = minimality(test, circuit, rule.seed, rule.subsets);
  rule.begin("running random circuits of edges", static_cast<size_t>(rule.random) * sets[2]->n_pairs());
  if (rule.random > 0) out.random = draw_random_edges(*sets[2], out.edges, rule.seed, rule.random);
  for (const std::vector<EdgeId>& random : out.random.circuits)
    out.random_faithfulness.push_back(
        faithfulness(test.scores_of(KeptEdges(random, false)), sets[2]->whole(), sets[2]->none()));
  return out;
}

}  // namespace signalbox::eval
