#include "eval/circuit/graph_edges.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>

#include "eval/statistics/resampling.h"

namespace signalbox::eval {

namespace {

using EdgeKind = CircuitEdge::Kind;

class Collector {
 public:
  Collector(std::vector<EdgeSet>& sets, const EdgeRule& rule) : sets_(sets), rule_(rule) {}

  GraphEdges run() {
    for (const EdgeSet& set : sets_)
      for (const EdgeEffects& edge : set.edges) {
        columns_.push_back(edge.feeds);
        if (!edge.selects.empty()) columns_.push_back(edge.selects);
      }
    out_.tested = static_cast<int64_t>(columns_.size());
    out_.family = out_.tested;
    count_left_out(out_.family, out_.inputs_family);
    of_columns_ = rule_.effects(columns_, static_cast<size_t>(out_.family));
    measure_more();
    out_.inputs_family += static_cast<int64_t>(inputs_.size());
    of_inputs_ = rule_.effects(inputs_, static_cast<size_t>(out_.inputs_family));
    for (const EdgeSet& set : sets_)
      for (size_t i = 0; i < set.edges.size(); ++i) put(set, i);
    std::stable_sort(out_.edges.begin(), out_.edges.end(), [](const CircuitEdge& a, const CircuitEdge& b) {
      return std::tie(a.source, a.target) < std::tie(b.source, b.target);
    });
    return std::move(out_);
  }

 private:
  bool both_in(const NodeId& source, const NodeId& target) const {
    return rule_.in_circuit(source) && rule_.in_circuit(target);
  }
  bool both_in(const EdgeEffects& edge) const { return both_in(edge.source, edge.target); }

  bool kept_by_search(const EdgeSet& set, const EdgeEffects& edge, EdgeKind kind, char input) const {
    return rule_.kept && !set.without && rule_.kept(edge, kind, input);
  }

  // Edges that a forecast kept from running, and three inputs of each that ends in a head.
  void count_left_out(int64_t& edges, int64_t& inputs) const {
    for (const EdgeSet& set : sets_)
      for (const auto& [source, target] : set.left_out) {
        edges += target.kind == NodeId::Kind::expert ? 2 : 1;  // experts are selected, too
        if (target.kind == NodeId::Kind::head && both_in(source, target)) inputs += head_inputs.size();
      }
  }

  // Controls are run for edges that would be in the circuit without them, and a head's inputs told apart of those that
  // are large enough for it.
  void measure_more() {
    size_t column = 0, n_likely = 0, n_large = 0;
    std::vector<std::vector<size_t>> likely(sets_.size()), large(sets_.size());
    for (size_t s = 0; s < sets_.size(); ++s)
      for (size_t i = 0; i < sets_[s].edges.size(); ++i) {
        const EdgeEffects& edge = sets_[s].edges[i];
        const auto passes = [&](double least) {
          const CircuitEffect& of = of_columns_[column++];
          return of.q < rule_.alpha && std::fabs(of.effect) >= least && of.effect != 0;
        };
        const double size = std::fabs(of_columns_[column].effect);
        const bool feeds = passes(rule_.floor), selects = !edge.selects.empty() && passes(0);
        if (!both_in(edge)) continue;
        const bool kept = kept_by_search(sets_[s], edge, EdgeKind::feeds, 0),
                   head = edge.target.kind == NodeId::Kind::head;
        if (head && (kept || (size > 0 && size >= rule_.floor))) large[s].push_back(i);
        if (rule_.kept || !(feeds || selects)) continue;
        likely[s].push_back(i);
        n_likely += sets_[s].scorer->n_pairs();
      }
    for (size_t s = 0; s < sets_.size(); ++s) n_large += large[s].size() * sets_[s].scorer->n_pairs();
    rule_.begin("measuring controls of edges", n_likely * 4 * static_cast<size_t>(rule_.controls));
    for (size_t s = 0; s < sets_.size(); ++s)
      measure_controls(*sets_[s].scorer, sets_[s].edges, likely[s], rule_.controls, rule_.seed);
    rule_.begin("telling queries, keys and values apart", n_large * 3);
    for (size_t s = 0; s < sets_.size(); ++s) {
      measure_inputs(*sets_[s].scorer, sets_[s].edges, large[s]);
      for (const size_t i : large[s])
        inputs_.insert(inputs_.end(), sets_[s].edges[i].inputs.begin(), sets_[s].edges[i].inputs.end());
    }
  }

  void put(const EdgeSet& set, size_t i) {
    const EdgeEffects& edge = set.edges[i];
    const double forecast = set.forecasts.empty() ? not_measured : set.forecasts[i];
    const auto add = [&](EdgeKind kind, const std::vector<double>& values, const CircuitEffect& of, double dlogit,
                         std::vector<double> controls, char input) {
      const bool nothing = std::all_of(values.begin(), values.end(), [](double x) { return x == 0; }),
                 kept = kept_by_search(set, edge, kind, input);
      // Nothing passes; but of what others make up for alone a search may say otherwise.
      if (nothing && (std::isnan(dlogit) || dlogit == 0) && (!kept || kind == EdgeKind::selects)) return;
      std::sort(controls.begin(), controls.end());
      const double control = controls.empty() ? not_measured : quantile(controls, 0.95), size = std::fabs(of.effect);
      const bool large = size > 0 && size >= (kind == EdgeKind::feeds ? rule_.floor : 0);
      const bool enough = of.q < rule_.alpha && large && !(size <= control);
      if (set.without && (!large || known(edge, kind, input))) return;
      CircuitEdge made;
      made.source = edge.source;
      made.target = edge.target;
      made.kind = kind;
      made.of = of;
      made.dlogit = dlogit;
      made.control = control;
      made.in_circuit = rule_.kept ? kept : both_in(edge) && enough;
      made.without = set.without;
      made.input = input;
      if (kind == EdgeKind::feeds && !input) made.forecast = forecast;
      out_.edges.push_back(std::move(made));
    };
    add(EdgeKind::feeds, columns_[column_], of_columns_[column_], not_measured, edge.control_feeds, 0);
    ++column_;
    // An input must pass what the whole edge must, its controls as well.
    for (size_t in = 0; in < head_inputs.size() && !edge.inputs[in].empty(); ++in, ++input_)
      add(EdgeKind::feeds, inputs_[input_], of_inputs_[input_], not_measured, edge.control_feeds, head_inputs[in]);
    if (edge.selects.empty()) return;
    const double dlogit =
        std::accumulate(edge.dlogits.begin(), edge.dlogits.end(), 0.0) / static_cast<double>(edge.dlogits.size());
    add(EdgeKind::selects, columns_[column_], of_columns_[column_], dlogit, edge.control_selects, 0);
    ++column_;
  }

  // Whether an edge is in the circuit without anything being out.
  bool known(const EdgeEffects& edge, EdgeKind kind, char input) const {
    return std::any_of(out_.edges.begin(), out_.edges.end(), [&](const CircuitEdge& other) {
      return other.in_circuit && other.source == edge.source && other.target == edge.target && other.kind == kind &&
             other.input == input;
    });
  }

  std::vector<EdgeSet>& sets_;
  const EdgeRule& rule_;
  std::vector<std::vector<double>> columns_, inputs_;
  std::vector<CircuitEffect> of_columns_, of_inputs_;
  size_t column_ = 0, input_ = 0;
  GraphEdges out_;
};

}  // namespace

GraphEdges graph_edges(std::vector<EdgeSet>& sets, const EdgeRule& rule) { return Collector(sets, rule).run(); }

}  // namespace signalbox::eval
