// circuit.json and graph.json of a study.
#include <algorithm>
#include <cmath>

#include "base/files.h"
#include "eval/circuit/discover.h"
#include "eval/store/lock.h"

namespace signalbox::eval {

namespace {

constexpr std::array<const char*, 3> set_names = {"discover", "size", "test"};

json::Value number(double x) { return std::isfinite(x) ? json::Value(x) : json::Value(); }

json::Value limit(size_t n) { return n == SIZE_MAX ? json::Value() : json::Value(static_cast<int64_t>(n)); }

json::Value names_of(const std::vector<NodeId>& nodes) {
  json::Value out = json::Value::array();
  for (const NodeId& node : nodes) out.push_back(node_name(node));
  return out;
}

json::Value split_json(const Discovery& found, const DiscoverRequest& request) {
  json::Value split = json::Value::object();
  if (request.split.key.empty())
    split.set("drawn", "seeded halves and quarters, pairs whole");
  else
    split.set("key", request.split.key);
  for (size_t s = 0; s < 3; ++s) {
    json::Value pairs = json::Value::array();
    for (const size_t i : found.sets[s]) pairs.push_back(found.pairs.pairs[i].name);
    json::Value set = json::Value::object();
    if (!request.split.key.empty()) set.set("value", request.split.names[s]);
    split.set(set_names[s], std::move(set.set("pairs", std::move(pairs))));
  }
  return split;
}

json::Value scores_json(const std::array<SetScores, 3>& by_set, const Discovery& found) {
  json::Value scores = json::Value::object();
  for (size_t s = 0; s < 3; ++s) {
    const SetScores& of = by_set[s];
    scores.set(set_names[s], json::Value::object()
                                 .set("pairs", static_cast<int64_t>(found.sets[s].size()))
                                 .set("whole", of.whole)
                                 .set("none", of.none)
                                 .set("circuit", of.circuit)
                                 .set("gap_known", of.known)
                                 .set("faithfulness", number(of.faithfulness.f))
                                 .set("ci_lo", number(of.faithfulness.ci.lo))
                                 .set("ci_hi", number(of.faithfulness.ci.hi)));
  }
  return scores;
}

json::Value sizes_json(const Discovery& found) {
  json::Value sizes = json::Value::array();
  for (const SizeScores& row : found.sizes) {
    json::Value f = json::Value::object();
    for (size_t s = 0; s < 3; ++s) f.set(set_names[s], number(row.faithfulness[s]));
    sizes.push_back(json::Value::object()
                        .set("size", static_cast<int64_t>(row.size))
                        .set("added", row.size > 0 ? json::Value(node_name(row.added)) : json::Value())
                        .set("faithfulness", std::move(f))
                        .set("completeness", number(row.completeness))
                        .set("minimality", number(row.minimality))
                        .set("random", json::Value::object()
                                           .set("mean", number(row.random_mean))
                                           .set("lo", number(row.random_lo))
                                           .set("hi", number(row.random_hi))));
  }
  return sizes;
}

json::Value random_json(const RandomCircuits& random, std::vector<double> f, const char* matched) {
  std::sort(f.begin(), f.end());
  double sum = 0;
  for (const double x : f) sum += x;
  const bool any = !f.empty();
  return json::Value::object()
      .set("n", static_cast<int64_t>(f.size()))
      .set("matched", matched)
      .set("usage_of_circuit", random.usage)
      .set("mean_usage", random.mean_usage)
      .set("unmatched", random.unmatched)
      .set("mean", any ? number(sum / static_cast<double>(f.size())) : json::Value())
      .set("lo", any ? number(quantile(f, 0.025)) : json::Value())
      .set("hi", any ? number(quantile(f, 0.975)) : json::Value())
      .set("most", any ? number(f.back()) : json::Value());
}

json::Value edges_json(const Discovery& found) {
  if (!found.edges) return json::Value();
  const EdgeCircuit& of = *found.edges;
  const bool known = of.scores[2].known;
  json::Value taus = json::Value::array(), edges = json::Value::array(), worst = json::Value::array();
  for (const EdgeCircuit::Size& size : of.sizes) {
    json::Value f = json::Value::object();
    for (size_t s = 0; s < 3; ++s) f.set(set_names[s], number(size.faithfulness[s]));
    taus.push_back(json::Value::object()
                       .set("tau", size.tau)
                       .set("edges", static_cast<int64_t>(size.edges))
                       .set("faithfulness", std::move(f)));
  }
  for (size_t i = 0; i < of.edges.size(); ++i)
    edges.push_back(json::Value::object()
                        .set("edge", edge_name(of.edges[i]))
                        .set("change", of.changes[i])
                        .set("minimality", known ? number(of.minimality[i]) : json::Value()));
  for (const std::string& name : of.completeness.worst) worst.push_back(name);
  return json::Value::object()
      .set("method", "acdc")
      .set("candidates", static_cast<int64_t>(of.candidates.size()))
      .set("taus", std::move(taus))
      .set("tau", of.tau)
      .set("faithful_enough", of.chosen)
      .set("edges", std::move(edges))
      .set("scores", scores_json(of.scores, found))
      .set("completeness", json::Value::object()
                               .set("gap", known ? number(of.completeness.gap) : json::Value())
                               .set("without", std::move(worst)))
      .set("random", random_json(of.random.parts, of.random_faithfulness, edges_matched_text));
}

json::Value stability_json(const Discovery& found) {
  json::Value inclusion = json::Value::object();
  for (const auto& [node, share] : found.stability.inclusion) inclusion.append_member(node_name(node), share);
  return json::Value::object()
      .set("samples", found.stability.samples)
      .set("median_jaccard", number(found.stability.jaccard))
      .set("inclusion", std::move(inclusion));
}

json::Value paraphrases_json(const Discovery& found) {
  const ParaphraseStability& of = found.paraphrases;
  if (of.variants.empty()) return json::Value();
  json::Value variants = json::Value::array(), overlaps = json::Value::array();
  for (const ParaphraseStability::Variant& variant : of.variants)
    variants.push_back(json::Value::object()
                           .set("pairs", variant.pairs)
                           .set("circuit", names_of(variant.circuit))
                           .set("jaccard", variant.jaccard)
                           .set("faithfulness", number(variant.faithfulness)));
  for (const ParaphraseStability::Overlap& overlap : of.overlaps)
    overlaps.push_back(
        json::Value::object()
            .set("variants", json::Value::array()
                                 .push_back(static_cast<int64_t>(overlap.one))
                                 .push_back(static_cast<int64_t>(overlap.other)))
            .set("jaccard", overlap.jaccard)
            .set("random", json::Value::object().set("mean", overlap.random_mean).set("hi", number(overlap.random_hi)))
            .set("p", overlap.p));
  return json::Value::object().set("variants", std::move(variants)).set("overlaps", std::move(overlaps));
}

json::Value agreement_json(const Discovery::Agreement& of) {
  if (of.forecast == 0) return json::Value();
  return json::Value::object()
      .set("forecast", of.forecast)
      .set("run", of.run)
      .set("spearman", of.spearman ? json::Value(*of.spearman) : json::Value());
}

json::Value rank_json(const Discovery& found, const DiscoverRequest& request) {
  const bool any = found.parts_agreement.forecast + found.edges_agreement.forecast > 0;
  return json::Value::object()
      .set("method", any ? std::string(rank_method_name(request.rank.method)) : "exact")
      .set("gradients_a_pair", any ? json::Value(request.rank.gradients()) : json::Value())
      .set("parts", agreement_json(found.parts_agreement))
      .set("edges", agreement_json(found.edges_agreement));
}

}  // namespace

void write_discovery(const std::filesystem::path& dir, const Discovery& found, const DiscoverRequest& request,
                     const engine::Session& session) {
  json::Value redundant = json::Value::array();
  for (const Discovery::Redundant& pair : found.redundant)
    redundant.push_back(json::Value::object()
                            .set("parts", names_of({pair.one, pair.two}))
                            .set("without_first", pair.without_one)
                            .set("without_second", pair.without_two)
                            .set("without_both", pair.without_both));
  json::Value worst = json::Value::array(), minimality = json::Value::object();
  for (const std::string& name : found.completeness.worst) worst.push_back(name);
  for (size_t i = 0; i < found.minimality.size(); ++i)
    minimality.append_member(node_name(found.circuit[i]), number(found.minimality[i]));
  const bool known = found.scores[2].known;
  json::Value curve = json::Value::array();
  for (size_t i = 0; i < found.curve.shares.size(); ++i)
    curve.push_back(json::Value::object().set("share", found.curve.shares[i]).set("faithfulness", found.curve.f[i]));
  json::Value out = json::Value::object();
  out.set("schema", "signalbox.circuit/1")
      .set("model", session.label)
      .set("model_hash", session.model_hash)
      .set("weights", request.weights)
      .set("metric", std::string(metric_name(request.metric)))
      .set("ablation", std::string(ablation_name(request.ablation)))
      .set("reference", request.ablation == CircuitAblation::corrupt ? "the other record of the pair, experts by id"
                        : request.ablation == CircuitAblation::mean
                            ? "means over all tokens of both records of every pair"
                            : "none")
      .set("level", std::string(level_name(request.level)))
      .set("positions", found.positions ? json::Value(found.positions->n) : json::Value())
      .set("seed", static_cast<int64_t>(request.seed))
      .set("pairs", pairs_summary(found.pairs))
      .set("split", split_json(found, request))
      .set("rule", json::Value::object()
                       .set("tolerance", request.rule.tolerance)
                       .set("shortlist", static_cast<int64_t>(request.rule.shortlist))
                       .set("filter", limit(request.filter))
                       .set("edge_filter", limit(request.edge_filter))
                       .set("size", request.size ? json::Value(static_cast<int64_t>(*request.size)) : json::Value())
                       .set("level", request.alpha)
                       .set("edge_floor", request.edge_floor)
                       .set("edge_controls", request.edge_controls)
                       .set("subsets", request.subsets)
                       .set("resamples", request.resamples))
      .set("circuit", names_of(found.circuit))
      .set("size", static_cast<int64_t>(found.circuit.size()))
      .set("faithful_enough", request.size ? json::Value() : json::Value(found.chosen))
      .set("expert_slots_a_token", found.usage)
      .set("expert_slots_a_token_of_the_model", found.usage_of_all)
      .set("active_parts", found.active_parts)
      .set("differing_parts", found.differing_parts)
      .set("tested_parts", found.tested_parts)
      .set("tested_edges", found.tested_edges)
      .set("q_family", json::Value::object()
                           .set("parts", found.family.parts)
                           .set("edges", found.family.edges)
                           .set("inputs", found.family.inputs))
      .set("scores", scores_json(found.scores, found))
      .set("completeness", json::Value::object()
                               .set("gap", known ? number(found.completeness.gap) : json::Value())
                               .set("without", worst))
      .set("minimality", std::move(minimality))
      .set("sizes", sizes_json(found))
      .set("curve", json::Value::object()
                        .set("cpr", known ? number(found.curve.cpr) : json::Value())
                        .set("cmd", known ? number(found.curve.cmd) : json::Value())
                        .set("points", std::move(curve)))
      .set("random", random_json(found.random, found.random_faithfulness, matched_text(found.positions != nullptr)))
      .set("edge_circuit", edges_json(found))
      .set("stability", stability_json(found))
      .set("paraphrases", paraphrases_json(found))
      .set("rank", rank_json(found, request))
      .set("redundant", std::move(redundant));
  made_directory(dir);
  std::filesystem::remove(dir / test_file);  // of another circuit
  write_file_atomically(dir / graph_file, circuit_json_text(found.graph));
  write_file_atomically(dir / circuit_file, json::dump(out, 1) + "\n");
}

}  // namespace signalbox::eval
