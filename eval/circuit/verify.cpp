#include "eval/circuit/verify.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <set>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"
#include "eval/data/dice.h"

namespace signalbox::eval {

using namespace engine;

namespace {

constexpr const char* test_schema = "signalbox.circuit_test/1";

json::Value defined_number(double x) { return std::isfinite(x) ? json::Value(x) : json::Value(); }

// The pairs that had no part in finding the circuit: those that it kept for a test where the input has some of them,
// else all that are new.
std::vector<CausalPair> unused_pairs(std::vector<CausalPair> pairs, const KnownCircuit& circuit,
                                     std::vector<std::string>& left_out, const std::string& input) {
  const std::set<std::string> used(circuit.used.begin(), circuit.used.end()),
      held(circuit.held_out.begin(), circuit.held_out.end());
  const bool any_held =
      std::any_of(pairs.begin(), pairs.end(), [&](const CausalPair& pair) { return held.contains(pair.name); });
  std::vector<CausalPair> out;
  for (CausalPair& pair : pairs) {
    if (any_held ? held.contains(pair.name) : !used.contains(pair.name))
      out.push_back(std::move(pair));
    else
      left_out.push_back(pair.name);
  }
  if (out.empty())
    throw Error(input, "expected pairs that had no part in finding the circuit, found none among " +
                           std::to_string(left_out.size()));
  return out;
}

double distance(const std::vector<double>& own, const SubsetScorer& scorer) {
  double sum = 0;
  for (size_t i = 0; i < own.size(); ++i) sum += std::fabs(own[i] - scorer.whole()[i]);
  return sum / static_cast<double>(own.size());
}

// What a circuit of parts is compared with.
class PartAlternatives {
 public:
  PartAlternatives(ModelScorer& scorer, const NodeMask& circuit) : scorer_(scorer), circuit_(circuit) {
    std::vector<size_t> alike;  // in whose places the same would stand
    for (size_t i = 0; i < circuit.size(); ++i)
      if (!circuit[i] && scorer.active()[i]) (scorer.differing()[i] ? others_ : alike).push_back(i);
    if (others_.empty()) others_ = alike;
  }
  RandomCircuits draw(uint64_t seed, int64_t n) {
    RandomCircuits random = draw_random_circuits(scorer_, circuit_, seed, n);
    drawn_ = random.circuits;
    return random;
  }
  bool has_others() const { return !others_.empty(); }
  // Of taking out a random part that was put in.
  double change(Dice& dice) {
    NodeMask more = circuit_;
    more[dice.pick(others_)] = 1;
    return std::fabs(distance(scorer_.scores(more), scorer_) - distance(scorer_.scores(circuit_), scorer_));
  }
  double distance_of(size_t draw) { return distance(scorer_.scores(drawn_[draw]), scorer_); }
  double distance_without(size_t draw) { return distance(scorer_.scores(complement_of(drawn_[draw])), scorer_); }

 private:
  ModelScorer& scorer_;
  const NodeMask& circuit_;
  std::vector<size_t> others_;
  std::vector<NodeMask> drawn_;
};

// What a circuit of edges is.
class EdgeAlternatives {
 public:
  explicit EdgeAlternatives(EdgeScorer& scorer) : scorer_(scorer) {}
  RandomCircuits draw(uint64_t seed, int64_t n) {
    RandomEdges random = draw_random_edges(scorer_.parts(), scorer_.edges(), seed, n);
    drawn_ = std::move(random.circuits);
    return std::move(random.parts);
  }
  bool has_others() const {
    return std::any_of(drawn_.begin(), drawn_.end(), [&](const auto& drawn) { return !added(drawn).empty(); });
  }
  // Of taking one of its edges out of a random circuit that was put in.
  double change(Dice& dice) {
    std::vector<EdgeId> more, others;
    while (others.empty()) {
      const std::vector<EdgeId>& drawn = dice.pick(drawn_);
      others = added(drawn);
      more.clear();
      std::set_union(scorer_.edges().begin(), scorer_.edges().end(), drawn.begin(), drawn.end(),
                     std::back_inserter(more));
    }
    std::vector<EdgeId> less = more;
    std::erase(less, dice.pick(others));
    return std::fabs(distance(scorer_.scores_of(KeptEdges(less, false)), scorer_) -
                     distance(scorer_.scores_of(KeptEdges(more, false)), scorer_));
  }
  double distance_of(size_t draw) { return distance(scorer_.scores_of(KeptEdges(drawn_[draw], false)), scorer_); }
  double distance_without(size_t draw) { return distance(scorer_.scores_of(KeptEdges(drawn_[draw], true)), scorer_); }

 private:
  std::vector<EdgeId> added(const std::vector<EdgeId>& drawn) const {
    std::vector<EdgeId> out;
    std::set_difference(drawn.begin(), drawn.end(), scorer_.edges().begin(), scorer_.edges().end(),
                        std::back_inserter(out));
    return out;
  }

  EdgeScorer& scorer_;
  std::vector<std::vector<EdgeId>> drawn_;
};

template <class Alternatives>
void test_circuit(SubsetScorer& scorer, const NodeMask& mask, Alternatives alternatives, const VerifyRequest& request,
                  const std::function<void(const std::string&, int64_t)>& begin, Verification& out) {
  const auto n = static_cast<int64_t>(scorer.n_pairs());
  const std::vector<double> own = scorer.scores(mask), rest = scorer.scores(complement_of(mask));
  out.scores = set_scores(own, scorer.whole(), scorer.none(), request.seed, request.resamples);
  if (out.scores.known) out.completeness = completeness(scorer, mask, request.seed, request.subsets);
  out.equivalence = test_equivalence(own, scorer.whole(), request.epsilon);
  out.independence = test_independence(rest, scorer.whole(), request.seed, request.permutations);

  // Minimality: what taking a part out does, against taking out a random part that was put in.
  begin("taking parts out and putting others in", (request.random + count_of(mask)) * n);
  out.distance = distance(own, scorer);
  out.complement_distance = distance(rest, scorer);
  for (size_t i = 0; i < mask.size(); ++i) {
    if (!mask[i]) continue;
    NodeMask without = mask;
    without[i] = 0;
    out.changes.push_back(std::fabs(distance(scorer.scores(without), scorer) - out.distance));
  }
  out.random = alternatives.draw(request.seed, request.random);
  Dice dice(request.seed, "circuit minimality");
  for (int64_t d = 0; d < request.random && alternatives.has_others(); ++d)
    out.reference.push_back(alternatives.change(dice));
  if (!out.reference.empty()) out.minimality = test_minimality(out.changes, out.reference, request.quantile);

  begin("running random circuits", 2 * request.random * n);
  std::vector<double> distances, nearness;
  for (size_t d = 0; d < out.random.circuits.size(); ++d) {
    distances.push_back(alternatives.distance_of(d));
    nearness.push_back(-alternatives.distance_without(d));
  }
  out.sufficiency = test_against_random(out.distance, distances, request.quantile);
  out.necessity = test_against_random(-out.complement_distance, nearness, request.quantile);
}

}  // namespace

std::vector<std::string> KnownCircuit::names() const {
  std::vector<std::string> out;
  if (edges)
    for (const EdgeId& edge : *edges) out.push_back(edge_name(edge));
  else
    for (const NodeId& part : parts) out.push_back(node_name(part));
  return out;
}

KnownCircuit read_known_circuit(const std::filesystem::path& dir) {
  const std::filesystem::path file = dir / circuit_file;
  const json::Value document = json::parse_file(file);
  const json::Ref root(document, file.string());
  if (root.at("schema").string() != "signalbox.circuit/1")
    root.at("schema").fail("expected \"signalbox.circuit/1\", found " + in_quotes(root.at("schema").string()));
  KnownCircuit known;
  known.model_hash = root.at("model_hash").string();
  if (const auto weights = root.find("weights")) known.weights = weights->value();
  known.metric = parse_metric(root.at("metric").string(), file.string() + ": metric");
  known.ablation = parse_ablation(root.at("ablation").string(), file.string() + ": ablation");
  const auto level = root.find("level");
  if (level && parse_level(level->string(), file.string() + ": level") == NodeLevel::position)
    known.n_positions = root.at("positions").integer(1, INT32_MAX);
  for (const json::Ref& name : root.at("circuit").items())
    known.parts.push_back(parse_node(name.string(), file.string() + ": " + name.path()));
  if (!std::is_sorted(known.parts.begin(), known.parts.end()))
    root.at("circuit").fail("expected parts in order of execution, found others");
  if (const auto found = root.find("edge_circuit"); found && !found->value().is_null()) {
    std::vector<EdgeId>& edges = known.edges.emplace();
    for (const json::Ref& edge : found->at("edges").items()) {
      const json::Ref name = edge.at("edge");
      edges.push_back(parse_edge(name.string(), file.string() + ": " + name.path()));
    }
    if (std::adjacent_find(edges.begin(), edges.end(), [](const EdgeId& a, const EdgeId& b) { return !(a < b); }) !=
        edges.end())
      found->at("edges").fail("expected edges in order of what reads them, each once, found others");
    for (const NodeId& part : parts_of(edges))
      if (!std::binary_search(known.parts.begin(), known.parts.end(), part))
        found->at("edges").fail("expected edges between parts of the circuit, found " + node_name(part));
  }
  for (const char* set : {"discover", "size", "test"})
    for (const json::Ref& name : root.at("split").at(set).at("pairs").items())
      (set == std::string_view("test") ? known.held_out : known.used).push_back(name.string());
  return known;
}

Verification verify_circuit(const Session& session, const std::vector<Record>& records, const RecordJobs& made,
                            const KnownCircuit& circuit, const VerifyRequest& request, const std::string& input) {
  if (session.model_hash != circuit.model_hash)
    throw Error("MODEL", "expected the model that the circuit is of (model_hash " + circuit.model_hash + "), found " +
                             session.model_hash);
  if (!request.weights.is_null() && request.weights != circuit.weights)
    throw Error("MODEL", "expected the weights that the circuit was found in (" + json::dump(circuit.weights) +
                             " in circuit.json), found " + json::dump(request.weights));
  Verification out;
  const std::vector<CausalPair> all = causal_pairs(circuit.metric, records, made, session.encode);
  std::shared_ptr<CircuitPositions> positions;
  if (circuit.n_positions > 0) {
    positions = std::make_shared<CircuitPositions>(circuit_positions(all, records, made));
    if (positions->n != circuit.n_positions)
      throw Error(input, "expected " + std::to_string(circuit.n_positions) +
                             " positions, as in the pairs that found the circuit, found " +
                             std::to_string(positions->n));
  }
  out.pairs = select_pairs(session, made, unused_pairs(all, circuit, out.used, input), request.keep_all, input,
                           request.interrupted);
  const auto begin = [&](const std::string& stage, int64_t runs) {
    if (request.progress.begin) request.progress.begin(stage, runs);
  };
  if (out.pairs.interrupted) {
    out.interrupted = true;
    return out;
  }
  try {
    const auto n = static_cast<int64_t>(out.pairs.pairs.size());
    begin("running pairs", 2 * n);
    ScorerSetup setup;
    setup.ablation = circuit.ablation;
    setup.batch = request.batch;
    setup.batch_tokens = request.batch_tokens;
    setup.interrupted = request.interrupted;
    setup.on_runs = request.progress.add;
    if (circuit.ablation == CircuitAblation::mean) {
      auto means = std::make_shared<PartMeans>(session.shape);
      for (const CausalPair& pair : all)
        for (const size_t record : {pair.clean, pair.corrupt})
          means->add(*record_run(session, made.jobs[record], 1, node_points(session.shape), "means").store);
      setup.means = means;
    }
    setup.positions = positions;
    ModelScorer scorer(session, made, out.pairs.pairs, setup);
    NodeMask mask = scorer.nothing();
    for (const NodeId& part : circuit.parts) {
      const auto at = std::lower_bound(scorer.nodes().begin(), scorer.nodes().end(), part);
      if (at == scorer.nodes().end() || *at != part)
        throw Error(circuit_file, "expected parts of this model and these pairs, found " + node_name(part));
      mask[static_cast<size_t>(at - scorer.nodes().begin())] = 1;
    }
    if (circuit.edges) {
      EdgeScorer edges(scorer, *circuit.edges);
      test_circuit(edges, edges.only(*circuit.edges), EdgeAlternatives(edges), request, begin, out);
    } else {
      test_circuit(scorer, mask, PartAlternatives(scorer, mask), request, begin, out);
    }
  } catch (const CircuitInterrupted&) {
    out.interrupted = true;
  }
  return out;
}

void write_verification(const std::filesystem::path& dir, const Verification& tested, const KnownCircuit& circuit,
                        const VerifyRequest& request, const Session& session) {
  json::Value parts = json::Value::array(), left_out = json::Value::array(), names = json::Value::array();
  const std::vector<std::string> tested_names = circuit.names();
  for (size_t i = 0; i < tested.changes.size(); ++i) {
    json::Value part = json::Value::object();
    part.set(circuit.edges ? "edge" : "part", tested_names[i]).set("change", tested.changes[i]);
    if (!tested.reference.empty())
      part.set("random_changes_below", tested.minimality.exceeded[i])
          .set("p", tested.minimality.p[i])
          .set("p_holm", tested.minimality.holm[i])
          .set("superfluous", tested.minimality.holm[i] <= request.alpha);
    parts.push_back(std::move(part));
  }
  for (const std::string& name : tested.used) left_out.push_back(name);
  for (const CausalPair& pair : tested.pairs.pairs) names.push_back(pair.name);
  const auto against = [&](const RandomCircuitTest& test, double distance) {
    return json::Value::object()
        .set("distance", distance)
        .set("worse", test.worse)
        .set("n", test.n)
        .set("quantile", request.quantile)
        .set("p", test.p);
  };
  const bool known = tested.scores.known;
  json::Value worst = json::Value::array();
  for (const std::string& name : tested.completeness.worst) worst.push_back(name);
  const Faithfulness& f = tested.scores.faithfulness;
  json::Value scores = json::Value::object();
  scores.set("whole", tested.scores.whole)
      .set("none", tested.scores.none)
      .set("circuit", tested.scores.circuit)
      .set("gap_known", known)
      .set("faithfulness", defined_number(f.f))
      .set("ci_lo", defined_number(f.ci.lo))
      .set("ci_hi", defined_number(f.ci.hi))
      .set("completeness", known ? json::Value(tested.completeness.gap) : json::Value())
      .set("completeness_without", std::move(worst));
  json::Value equivalence = json::Value::object();
  equivalence.set("wins", tested.equivalence.wins)
      .set("losses", tested.equivalence.losses)
      .set("ties", tested.equivalence.ties)
      .set("share", defined_number(tested.equivalence.share))
      .set("epsilon", request.epsilon)
      .set("p", tested.equivalence.p);
  json::Value independence = json::Value::object();
  independence.set("hsic", tested.independence.hsic)
      .set("permutations", tested.independence.permutations)
      .set("p", tested.independence.p);
  json::Value random = json::Value::object();
  random.set("n", static_cast<int64_t>(tested.random.circuits.size()))
      .set("matched", circuit.edges ? edges_matched_text : matched_text(circuit.n_positions > 0))
      .set("usage_of_circuit", tested.random.usage)
      .set("mean_usage", tested.random.mean_usage)
      .set("unmatched", tested.random.unmatched);
  json::Value out = json::Value::object();
  out.set("schema", test_schema)
      .set("model", session.label)
      .set("model_hash", session.model_hash)
      .set("metric", std::string(metric_name(circuit.metric)))
      .set("ablation", std::string(ablation_name(circuit.ablation)))
      .set("of", circuit.edges ? "edges" : "parts")
      .set("seed", static_cast<int64_t>(request.seed))
      .set("alpha", request.alpha)
      .set("pairs", pairs_summary(tested.pairs).set("names", std::move(names)).set("left_out", std::move(left_out)))
      .set("scores", std::move(scores))
      .set("random", std::move(random))
      .set("equivalence", std::move(equivalence))
      .set("independence", std::move(independence))
      .set("minimality", json::Value::object()
                             .set("draws", static_cast<int64_t>(tested.reference.size()))
                             .set("parts", std::move(parts)))
      .set("sufficiency", against(tested.sufficiency, tested.distance))
      .set("partial_necessity",
           against(tested.necessity, tested.complement_distance).set("reference", "complements of random circuits"));
  write_file_atomically(dir / test_file, json::dump(out, 1) + "\n");
}

}  // namespace signalbox::eval
