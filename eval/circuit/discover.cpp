#include "eval/circuit/discover.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "base/error.h"
#include "eval/circuit/graph_edges.h"
#include "eval/data/dice.h"
#include "eval/data/examples.h"
#include "eval/statistics/paired.h"

namespace signalbox::eval {

using namespace engine;
using namespace probes;

namespace {

using Kind = NodeId::Kind;
constexpr NodeId logits_node{Kind::logits, -1, -1, -1};

double mean_of_values(std::span<const double> x) {
  return std::accumulate(x.begin(), x.end(), 0.0) / static_cast<double>(x.size());
}

double mean_of_sizes(std::span<const double> x) {
  return std::accumulate(x.begin(), x.end(), 0.0, [](double sum, double v) { return sum + std::fabs(v); }) /
         static_cast<double>(x.size());
}

class Study {
 public:
  Study(const Session& session, const std::vector<Record>& records, const RecordJobs& made,
        const DiscoverRequest& request, Discovery& found)
      : session_(session),
        records_(records),
        made_(made),
        request_(request),
        found_(found),
        log_(std::make_shared<RunLog>(request.kept)) {}

  void run() {
    open_scorers();
    find_parts();
    choose_size();
    score();
    try_random();
    try_samples();
    try_paraphrases();
    measure_graph();
  }

 private:
  void begin(const std::string& stage, size_t runs) const {
    if (request_.progress.begin) request_.progress.begin(stage, static_cast<int64_t>(runs));
  }
  std::vector<CausalPair> pairs_of(size_t set) const {
    std::vector<CausalPair> out;
    for (const size_t i : found_.sets[set]) out.push_back(found_.pairs.pairs[i]);
    return out;
  }
  ScorerSetup setup(const std::string& name, bool reverse) const {
    ScorerSetup of;
    of.log = log_;
    of.name = name;
    of.ablation = request_.ablation;
    of.means = means_;
    of.positions = found_.positions;
    of.reverse = reverse;
    of.batch = request_.batch;
    of.batch_tokens = request_.batch_tokens;
    of.interrupted = request_.interrupted;
    of.on_runs = request_.progress.add;
    return of;
  }
  void open_scorers();
  void find_parts();
  void choose_size();
  void score();
  void try_random();
  void try_samples();
  void try_paraphrases();
  void measure_graph();
  void filter_edges(EdgeSet& set);
  void search_edges(const EdgeSet& set);
  void compare_forecasts(const EdgeSet& set);
  CircuitContext context() const;
  std::vector<CircuitEffect> effects(const std::vector<std::vector<double>>& by_pair, size_t family) const;
  double faithfulness_on(size_t set, const NodeMask& mask) {
    ModelScorer& scorer = *scorers_[set];
    return known_[set] ? faithfulness(scorer.scores(mask), scorer.whole(), scorer.none()) : not_measured;
  }

  const Session& session_;
  const std::vector<Record>& records_;
  const RecordJobs& made_;
  const DiscoverRequest& request_;
  Discovery& found_;
  std::shared_ptr<RunLog> log_;
  std::shared_ptr<PartMeans> means_;
  std::array<std::unique_ptr<ModelScorer>, 3> scorers_;
  std::unique_ptr<ModelScorer> reverse_;
  std::array<bool, 3> known_ = {};
  PartEffects effects_;
  Ranking ranking_;
  NodeMask circuit_;
  std::vector<int64_t> units_;  // [pair of the first set] whose example it is
};

void Study::open_scorers() {
  size_t n = 0;
  for (const auto& set : found_.sets) n += set.size();
  begin("running pairs", 2 * n);
  if (request_.ablation == CircuitAblation::mean) {
    // Over the tokens of both records of every pair, so that all sets have the same means.
    means_ = std::make_shared<PartMeans>(session_.shape);
    for (const CausalPair& pair : found_.pairs.pairs)
      for (const size_t record : {pair.clean, pair.corrupt}) {
        if (request_.interrupted && *request_.interrupted) throw CircuitInterrupted();
        means_->add(*record_run(session_, made_.jobs[record], 1, node_points(session_.shape), "means").store);
      }
  }
  for (size_t s = 0; s < 3; ++s) {
    scorers_[s] = std::make_unique<ModelScorer>(session_, made_, pairs_of(s), setup("set " + std::to_string(s), false));
    known_[s] = denominator_known(scorers_[s]->whole(), scorers_[s]->none());
  }
  if (!known_[0])
    throw Error(
        "circuit discover",
        "expected the whole model and the model with everything ablated to differ by two standard errors on the "
        "pairs that discover, found a mean metric of " +
            std::to_string(mean_of_values(scorers_[0]->whole())) + " and " +
            std::to_string(mean_of_values(scorers_[0]->none())) + " over " + std::to_string(scorers_[0]->n_pairs()) +
            " pairs");
  if (request_.ablation == CircuitAblation::corrupt)
    reverse_ = std::make_unique<ModelScorer>(session_, made_, pairs_of(0), setup("reverse", true));
  const std::vector<size_t> examples = independent_examples(records_);
  for (const size_t i : found_.sets[0]) units_.push_back(static_cast<int64_t>(examples[found_.pairs.pairs[i].clean]));
}

void Study::find_parts() {
  ModelScorer& scorer = *scorers_[0];
  const NodeMask& differing = scorer.differing();
  const auto n_differing = static_cast<size_t>(std::count(differing.begin(), differing.end(), 1));
  const size_t n_tested = std::min(n_differing, request_.filter);
  found_.active_parts = count_of(scorer.active());
  found_.differing_parts = static_cast<int64_t>(n_differing);
  found_.tested_parts = static_cast<int64_t>(n_tested);
  NodeMask wanted = scorer.all();
  std::vector<double> size;
  if (request_.forecast || n_tested < n_differing) {
    begin("forecasting parts", 0);
    size = scorer.known_or("forecast", [&] { return forecast_parts(scorer, request_.rank); });
    if (reverse_) {
      const std::vector<double> back =
          reverse_->known_or("forecast", [&] { return forecast_parts(*reverse_, request_.rank); });
      for (size_t i = 0; i < size.size(); ++i) size[i] = std::max(size[i], back[i]);
    }
    std::vector<size_t> order(size.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      return differing[a] != differing[b] ? differing[a] > differing[b] : size[a] > size[b];
    });
    for (size_t i = n_tested; i < order.size(); ++i) wanted[order[i]] = 0;
  }
  begin("taking parts out one by one", n_tested * scorer.n_pairs() * (reverse_ ? 2 : 1));
  effects_ = measure_parts(scorer, reverse_.get(), wanted);
  if (!size.empty()) {
    std::vector<double> forecast, run;
    for (size_t i = 0; i < size.size(); ++i) {
      if (!effects_.tested[i]) continue;
      forecast.push_back(size[i]);
      run.push_back(effects_.size(i));
    }
    found_.parts_agreement = {static_cast<int64_t>(n_differing), static_cast<int64_t>(run.size()),
                              spearman(forecast, run)};
  }
  begin("ranking parts", 4 * request_.rule.shortlist * scorer.n_pairs());
  const std::vector<double> weights(scorer.n_pairs(), 1.0);
  ranking_ = rank_parts(scorer, effects_, weights, request_.rule);
}

void Study::choose_size() {
  ModelScorer& scorer = *scorers_[1];
  const size_t n = scorer.nodes().size();
  size_t size = request_.size.value_or(ranking_.candidates);
  if (!request_.size) {
    begin("choosing a size", ranking_.candidates * scorer.n_pairs());
    found_.chosen = false;
    double nearest = std::numeric_limits<double>::infinity();
    for (size_t k = 1; k <= ranking_.candidates && known_[1]; ++k) {
      const double off = std::fabs(1 - faithfulness_on(1, first_parts(scorer, ranking_, k)));
      if (off < nearest) {
        nearest = off;
        size = k;
      }
      if (off <= request_.rule.tolerance) {
        found_.chosen = true;
        break;
      }
    }
  }
  circuit_ = first_parts(scorer, ranking_, size);
  for (size_t i = 0; i < n; ++i)
    if (circuit_[i]) found_.circuit.push_back(scorer.nodes()[i]);
}

void Study::score() {
  for (size_t s = 0; s < 3; ++s) {
    ModelScorer& scorer = *scorers_[s];
    const std::vector<double>& own = scorer.scores(circuit_);
    found_.scores[s] = set_scores(own, scorer.whole(), scorer.none(), request_.seed, request_.resamples);
  }
  ModelScorer& test = *scorers_[2];
  const std::vector<NodeId>& nodes = test.nodes();
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (nodes[i].kind != Kind::expert) continue;
    found_.usage_of_all += test.usage()[i];
    if (circuit_[i]) found_.usage += test.usage()[i];
  }
  const size_t own = found_.circuit.size(), largest = std::max(own, ranking_.candidates);
  std::set<size_t> sizes = {0, own};
  for (size_t k = 1; k <= largest; k += k < 8 ? 1 : k / 4) sizes.insert(k);
  sizes.insert(largest);
  begin("scoring circuits of every size", sizes.size() * test.n_pairs() * 8);
  for (const size_t size : sizes) {
    SizeScores& row = found_.sizes.emplace_back();
    row.size = size;
    if (size > 0) row.added = nodes[ranking_.parts[size - 1]];
    const NodeMask mask = first_parts(test, ranking_, size);
    for (size_t s = 0; s < 3; ++s) row.faithfulness[s] = faithfulness_on(s, mask);
    if (!known_[2]) continue;
    // Of sizes that were not chosen the cheaper bounds.
    row.completeness = completeness(test, mask, request_.seed, request_.subsets, size == own).gap;
    const std::vector<double> least = minimality(test, mask, request_.seed, size == own ? request_.subsets : 0);
    if (!least.empty()) row.minimality = *std::min_element(least.begin(), least.end());
  }
  if (!known_[2]) return;
  found_.completeness = completeness(test, circuit_, request_.seed, request_.subsets);
  found_.minimality = minimality(test, circuit_, request_.seed, request_.subsets);
  found_.curve = size_curve(test, ranking_.parts);
}

void Study::try_random() {
  ModelScorer& test = *scorers_[2];
  if (!known_[2] || request_.random == 0) return;
  const int64_t few = std::min<int64_t>(request_.random, 20);
  begin("running random circuits",
        static_cast<size_t>(request_.random + few * static_cast<int64_t>(found_.sizes.size())) * test.n_pairs());
  found_.random = draw_random_circuits(test, circuit_, request_.seed, request_.random);
  for (const NodeMask& mask : found_.random.circuits) found_.random_faithfulness.push_back(faithfulness_on(2, mask));
  for (SizeScores& row : found_.sizes) {
    std::vector<double> f;
    if (row.size == found_.circuit.size()) {
      f = found_.random_faithfulness;
    } else {
      const RandomCircuits drawn =
          draw_random_circuits(test, first_parts(test, ranking_, row.size), request_.seed, row.size == 0 ? 1 : few);
      for (const NodeMask& mask : drawn.circuits) f.push_back(faithfulness_on(2, mask));
    }
    std::sort(f.begin(), f.end());
    row.random_mean = mean_of_values(f);
    row.random_lo = quantile(f, 0.025);
    row.random_hi = quantile(f, 0.975);
  }
}

void Study::try_samples() {
  ModelScorer& scorer = *scorers_[0];
  const size_t n = scorer.n_pairs(), size = found_.circuit.size();
  if (request_.stability == 0 || n < 2) return;
  begin("finding it again in samples of the pairs",
        static_cast<size_t>(request_.stability) * n * 3 * request_.rule.shortlist);
  std::map<NodeId, int64_t> counts;
  std::vector<std::set<size_t>> circuits;
  for (int64_t sample = 0; sample < request_.stability; ++sample) {
    Dice dice(request_.seed, "circuit stability " + std::to_string(sample));
    std::vector<double> weights(n, 0.0);
    for (size_t i = 0; i < n; ++i) weights[dice.below(n)] += 1;
    const Ranking ranking = rank_parts(scorer, effects_, weights, request_.rule);
    circuits.emplace_back(ranking.parts.begin(), ranking.parts.begin() + static_cast<int64_t>(size));
    for (const size_t part : circuits.back()) ++counts[scorer.nodes()[part]];
  }
  found_.stability.samples = request_.stability;
  for (const auto& [node, count] : counts)
    found_.stability.inclusion.emplace_back(node, static_cast<double>(count) / static_cast<double>(request_.stability));
  std::vector<double> alike;
  for (size_t i = 0; i < circuits.size(); ++i)
    for (size_t j = 0; j < i; ++j) {
      const auto common = std::count_if(circuits[i].begin(), circuits[i].end(),
                                        [&](size_t part) { return circuits[j].contains(part); });
      const double either = static_cast<double>(circuits[i].size() + circuits[j].size()) - static_cast<double>(common);
      alike.push_back(either > 0 ? static_cast<double>(common) / either : 1);
    }
  std::sort(alike.begin(), alike.end());
  found_.stability.jaccard = quantile(alike, 0.5);
}

// Means over pairs with intervals and q. The family is of `family` hypotheses, these among them: those that a forecast
// kept from running were candidates too, and count as p = 1.
std::vector<CircuitEffect> Study::effects(const std::vector<std::vector<double>>& by_pair, size_t family) const {
  std::vector<ClusteredValues> columns;
  for (const std::vector<double>& values : by_pair) columns.push_back(cluster_values(values, units_));
  const std::vector<MeanEstimate> means = corrected_means(columns, request_.seed, request_.resamples, request_.threads);
  std::vector<double> p = sign_flip_ps(columns, request_.seed, request_.resamples, request_.threads);
  p.resize(std::max(family, p.size()), 1.0);
  const std::vector<double> q = benjamini_hochberg(p);
  std::vector<CircuitEffect> out;
  for (size_t i = 0; i < means.size(); ++i)
    out.push_back({means[i].mean, means[i].ci.lo, means[i].ci.hi, q[i], means[i].n});
  return out;
}

CircuitContext Study::context() const {
  CircuitContext of;
  of.model = session_.label;
  of.model_hash = session_.model_hash;
  of.metric = metric_name(request_.metric);
  of.ablation = ablation_name(request_.ablation);
  of.level = request_.level;
  of.n_layers = session_.shape.n_layers();
  for (const LayerShape& layer : session_.shape.layers) of.n_heads = std::max(of.n_heads, layer.attention.n_heads);
  of.n_experts = session_.shape.n_experts();
  of.d_model = session_.shape.d_model;
  const AblatedPair& pair = scorers_[0]->pair(0);
  const MetricRows& rows = scorers_[0]->rows(0);
  CircuitExample& example = of.example;
  example.id = pair.job().prompt->id;
  if (found_.positions)
    for (NodeId at; at.position < found_.positions->n; ++at.position)
      if (at.position >= 0) example.positions.push_back(pair.tokens_of(at).front());
  // Up to the token whose logits are asked for the answer; where parts have positions, to the last that has one.
  const std::span<const int32_t> tokens =
      std::span(pair.job().prompt->tokens)
          .first(static_cast<size_t>(pair.n_tokens() - (found_.positions ? 0 : rows.n_rows() - 1)));
  const auto text_of = [&](std::span<const int32_t> ids) {
    return session_.tokenizer ? session_.tokenizer->decode(ids, false) : "";
  };
  for (const int32_t token : tokens)
    example.tokens.push_back(session_.tokenizer ? session_.tokenizer->piece(token) : std::to_string(token));
  example.text = text_of(tokens);
  example.answer_token = rows.targets.front();
  if (example.answer_token < 0) return of;
  example.answer = text_of({&example.answer_token, 1});
  std::vector<float> logits(static_cast<size_t>(session_.model.n_vocab));
  session_.backend->download(logits.data(), pair.run().logits.row(0), logits.size() * sizeof(float));
  const float top = *std::max_element(logits.begin(), logits.end());
  double mass = 0;
  for (const float z : logits) mass += std::exp(static_cast<double>(z) - static_cast<double>(top));
  example.answer_p =
      std::exp(static_cast<double>(logits[static_cast<size_t>(example.answer_token)]) - static_cast<double>(top)) /
      mass;
  return of;
}

void Study::measure_graph() {
  ModelScorer& scorer = *scorers_[0];
  const std::vector<NodeId>& nodes = scorer.nodes();
  for (const RedundantParts& pair : find_redundant(scorer, effects_))
    found_.redundant.push_back(
        {nodes[pair.one], nodes[pair.two], pair.without_one, pair.without_two, pair.without_both});
  CircuitGraph& graph = found_.graph;
  graph.context = context();

  // In whose place nothing else would stand in any pair is no candidate.
  std::vector<std::vector<double>> tested;
  std::vector<NodeId> tested_nodes;
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (!effects_.tested[i]) continue;
    tested.push_back(effects_.noising[i]);
    tested_nodes.push_back(nodes[i]);
  }
  const std::vector<CircuitEffect> of_nodes = effects(tested, static_cast<size_t>(found_.differing_parts));
  const auto in_circuit = [&](const NodeId& node) {
    return node.ends() || std::binary_search(found_.circuit.begin(), found_.circuit.end(), node);
  };
  std::set<NodeId> shown(found_.circuit.begin(), found_.circuit.end());
  for (const Discovery::Redundant& pair : found_.redundant) shown.insert({pair.one, pair.two});
  for (size_t i = 0; i < std::min(nodes.size(), ranking_.candidates); ++i) shown.insert(nodes[ranking_.parts[i]]);
  // Where nothing takes the embeddings' place they have no edges.
  std::vector<NodeId> embeddings;
  for (const NodeId& node : scorer.embeddings())
    for (size_t p = 0; p < scorer.n_pairs() && request_.ablation == CircuitAblation::corrupt; ++p)
      if (scorer.pair(p).differs(node)) {
        embeddings.push_back(node);
        break;
      }
  if (embeddings.empty()) graph.nodes.push_back({NodeId{}, {}, true});
  for (const NodeId& node : embeddings) graph.nodes.push_back({node, {}, true});
  for (size_t i = 0; i < tested_nodes.size(); ++i)
    if (shown.contains(tested_nodes[i]))
      graph.nodes.push_back({tested_nodes[i], of_nodes[i], in_circuit(tested_nodes[i])});
  graph.nodes.push_back({logits_node, {}, true});

  std::vector<NodeId> ends(found_.circuit);
  for (const Discovery::Redundant& pair : found_.redundant)
    for (const NodeId& node : {pair.one, pair.two})
      if (!in_circuit(node)) ends.push_back(node);
  std::sort(ends.begin(), ends.end());
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
  ends.insert(ends.begin(), embeddings.begin(), embeddings.end());
  ends.push_back(logits_node);
  std::vector<EdgeSet> sets(1);
  sets[0].scorer = &scorer;
  sets[0].edges = edges_among(ends);
  filter_edges(sets[0]);
  begin("measuring edges", sets[0].edges.size() * scorer.n_pairs());
  measure_edges(scorer, sets[0].edges);
  compare_forecasts(sets[0]);
  if (!request_.acdc.empty()) search_edges(sets[0]);
  // What passes to and from parts that can stand in for one another shows only while the other one is out.
  std::vector<std::unique_ptr<ModelScorer>> without;
  for (const Discovery::Redundant& pair : found_.redundant)
    for (const auto& [part, other] : {std::pair(pair.one, pair.two), std::pair(pair.two, pair.one)}) {
      EdgeSet set;
      set.without = other;
      for (EdgeEffects& edge : edges_among(ends))
        if ((edge.source == part || edge.target == part) && edge.source != other && edge.target != other)
          set.edges.push_back(std::move(edge));
      begin("measuring edges without " + node_name(other), (2 + set.edges.size()) * scorer.n_pairs());
      ScorerSetup made = setup("without " + node_name(other), false);
      made.out = {other};
      without.push_back(std::make_unique<ModelScorer>(session_, made_, pairs_of(0), std::move(made)));
      set.scorer = without.back().get();
      measure_edges(*set.scorer, set.edges);
      sets.push_back(std::move(set));
    }
  EdgeRule rule;
  rule.alpha = request_.alpha;
  rule.floor = request_.edge_floor * std::fabs(mean_of_values(scorer.whole()) - mean_of_values(scorer.none()));
  rule.controls = request_.edge_controls;
  rule.seed = request_.seed;
  rule.in_circuit = in_circuit;
  rule.effects = [&](const std::vector<std::vector<double>>& columns, size_t family) {
    return effects(columns, family);
  };
  rule.begin = [&](const std::string& stage, size_t runs) { begin(stage, runs); };
  if (found_.edges)
    rule.kept = [&](const EdgeEffects& edge, CircuitEdge::Kind kind, char input) {
      const NodeId router{Kind::router, edge.target.layer, -1, -1};
      const std::vector<EdgeId>& kept = found_.edges->edges;
      return std::any_of(kept.begin(), kept.end(), [&](const EdgeId& own) {
        return own.source == edge.source && (!input || own.input == input) &&
               own.target == (kind == CircuitEdge::Kind::selects ? router : edge.target) && in_circuit(edge.target);
      });
    };
  GraphEdges edges = graph_edges(sets, rule);
  graph.edges = std::move(edges.edges);
  found_.tested_edges = edges.tested;
  found_.family = {found_.differing_parts, edges.family, edges.inputs_family};
}

// Among the circuit's parts, of edges that a forecast left.
void Study::search_edges(const EdgeSet& set) {
  const auto inside = [&](const NodeId& node) {
    return node.ends() || std::binary_search(found_.circuit.begin(), found_.circuit.end(), node);
  };
  std::set<EdgeId> candidates;
  for (const EdgeEffects& edge : set.edges)
    if (inside(edge.source) && inside(edge.target)) {
      const std::vector<EdgeId> own = edges_between({edge.source, edge.target});
      candidates.insert(own.begin(), own.end());
    }
  EdgeCircuitRule rule;
  rule.taus = request_.acdc;
  rule.tolerance = request_.rule.tolerance;
  rule.anything_sends = request_.ablation != CircuitAblation::corrupt;
  rule.seed = request_.seed;
  rule.random = request_.random;
  rule.subsets = request_.subsets;
  rule.resamples = request_.resamples;
  rule.begin = [&](const std::string& stage, size_t runs) { begin(stage, runs); };
  found_.edges = find_edge_circuit({scorers_[0].get(), scorers_[1].get(), scorers_[2].get()},
                                   {candidates.begin(), candidates.end()}, rule);
}

// Leaves the edges of the largest forecast, where there are too many.
void Study::filter_edges(EdgeSet& set) {
  const size_t n = set.edges.size(), n_run = std::min(n, request_.edge_filter);
  if (n == 0 || (!request_.forecast && n_run == n)) return;
  begin("forecasting edges", 0);
  set.forecasts =
      set.scorer->known_or("forecast edges", [&] { return forecast_edges(*set.scorer, set.edges, request_.rank); });
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return set.forecasts[a] > set.forecasts[b]; });
  for (size_t i = n_run; i < n; ++i) set.left_out.push_back({set.edges[order[i]].source, set.edges[order[i]].target});
  order.resize(n_run);
  std::sort(order.begin(), order.end());
  EdgeSet kept;
  kept.scorer = set.scorer;
  kept.left_out = std::move(set.left_out);
  for (const size_t i : order) {
    kept.edges.push_back(std::move(set.edges[i]));
    kept.forecasts.push_back(set.forecasts[i]);
  }
  found_.edges_agreement.forecast = static_cast<int64_t>(n);
  set = std::move(kept);
}

void Study::compare_forecasts(const EdgeSet& set) {
  if (set.forecasts.empty()) return;
  std::vector<double> run;
  for (const EdgeEffects& edge : set.edges) run.push_back(mean_of_sizes(edge.feeds));
  found_.edges_agreement.run = static_cast<int64_t>(run.size());
  found_.edges_agreement.spearman = spearman(set.forecasts, run);
}

void Study::try_paraphrases() {
  ModelScorer& scorer = *scorers_[0];
  const std::vector<std::vector<size_t>> variants = paraphrase_variants(records_, pairs_of(0));
  if (variants.size() < 2) return;
  begin("finding it again in other words", variants.size() * scorer.n_pairs() * 3 * request_.rule.shortlist);
  found_.paraphrases = compare_paraphrases(scorer, effects_, request_.rule, circuit_, variants, request_.seed,
                                           std::max<int64_t>(request_.random, 100));
}

}  // namespace

namespace {

// Refuses what cannot be studied.
std::vector<CausalPair> checked_pairs(const Session& session, const std::vector<Record>& records,
                                      const RecordJobs& made, const DiscoverRequest& request, const std::string& input,
                                      std::shared_ptr<const CircuitPositions>& positions) {
  std::vector<CausalPair> pairs = causal_pairs(request.metric, records, made, session.encode);
  size_t n_parts = nodes_of(session.shape).size();
  if (request.level == NodeLevel::position) {
    positions = std::make_shared<CircuitPositions>(circuit_positions(pairs, records, made));
    n_parts *= static_cast<size_t>(positions->n + positions->others);
  }
  if (!request.acdc.empty() && positions) throw Error("--edges", "expected --level node with acdc, found position");
  if (!request.acdc.empty() && session.beside) refuse_adapters_beside();
  if (request.size && *request.size > n_parts)
    throw Error("--size", "expected at most " + std::to_string(n_parts) + ", the parts of the model, found " +
                              std::to_string(*request.size));
  split_pairs(request.split, records, pairs, request.seed, input);
  return pairs;
}

}  // namespace

void check_discover(const Session& session, const std::vector<Record>& records, const RecordJobs& made,
                    const DiscoverRequest& request, const std::string& input) {
  std::shared_ptr<const CircuitPositions> positions;
  checked_pairs(session, records, made, request, input, positions);
}

Discovery discover_circuit(const Session& session, const std::vector<Record>& records, const RecordJobs& made,
                           const DiscoverRequest& request, const std::string& input) {
  Discovery found;
  std::vector<CausalPair> pairs = checked_pairs(session, records, made, request, input, found.positions);
  found.pairs = select_pairs(session, made, std::move(pairs), request.keep_all, input, request.interrupted);
  if (found.pairs.interrupted) {
    found.interrupted = true;
    return found;
  }
  found.sets = split_pairs(request.split, records, found.pairs.pairs, request.seed, input);
  try {
    Study(session, records, made, request, found).run();
  } catch (const CircuitInterrupted&) {
    found.interrupted = true;
  }
  return found;
}

}  // namespace signalbox::eval
