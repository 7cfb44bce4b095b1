#include "eval/circuit/forecast.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "eval/causal/edges.h"
#include "eval/causal/embedding_path.h"
#include "eval/causal/sequence_run.h"

namespace signalbox::eval {

using namespace engine;
using namespace probes;

namespace {

using Kind = NodeId::Kind;

// The points whose gradient is that of each part that writes there.
std::string writing_globs(const ModelShape& shape) {
  std::string globs = "*.attn.z";
  bool moe = false, shared = false, dense = false;
  for (const LayerShape& layer : shape.layers) {
    moe = moe || layer.moe;
    shared = shared || layer.shared;
    dense = dense || !layer.moe;
  }
  if (moe) globs += ",*.moe.out";
  if (shared) globs += ",*.shared.out";
  if (dense) globs += ",*.mlp.out";
  return globs;
}

// Where a part's gradient stands, and from which column on.
std::pair<Point, int64_t> slope_of(const ModelShape& shape, const NodeId& node) {
  switch (node.kind) {
    case Kind::head: return {Point::attn_z, node.index * shape.layers[static_cast<size_t>(node.layer)].attention.d_z};
    case Kind::shared: return {Point::shared_out, 0};
    case Kind::mlp: return {Point::mlp_out, 0};
    default: return {Point::moe_out, 0};
  }
}

// Embeddings of a pair's base run, and of the other one where there is something that takes their place.
std::vector<float> embedded(const AblatedPair& pair, bool other, int64_t d_model) {
  std::vector<float> rows;
  const NodeId embed;
  for (int64_t t = 0; t < pair.n_tokens(); ++t) {
    const auto own = pair.base().row(Point::embed, -1, 0, t);
    if (other && pair.mapped()[static_cast<size_t>(t)]) {
      const std::vector<float> there = pair.ablated(embed, t);
      rows.insert(rows.end(), there.begin(), there.end());
    } else {
      rows.insert(rows.end(), own.begin(), own.begin() + d_model);
    }
  }
  return rows;
}

// Ways back through the model for one pair; `visit` after each.
void each_gradient(const ModelScorer& scorer, size_t p, const ForecastRule& rule, SequenceRequest request,
                   const std::function<void(double weight)>& before,
                   const std::function<void(double weight, const SequenceRun& run)>& visit) {
  const AblatedPair& pair = scorer.pair(p);
  request.job = &pair.job();
  request.rows = &scorer.rows(p);
  request.reference = scorer.reference(p);
  request.back = true;
  if (rule.method != RankMethod::eap_ig) {
    if (scorer.rows(p).metric == Metric::kl)
      throw Error(
          "--rank",
          "expected exact or eap-ig with the metric kl, whose gradient at the unedited run is 0, or no more parts "
          "and edges than --filter and --edge-filter, found atp");
    scorer.require_running();
    before(1);
    visit(1, run_sequence(scorer.session(), request));
    return;
  }
  const int64_t d_model = scorer.session().shape.d_model;
  PathRequest path;
  path.job = request.job;
  path.rows = request.rows;
  path.reference = request.reference;
  path.from = embedded(pair, false, d_model);
  path.to = embedded(pair, true, d_model);
  path.steps = rule.steps;
  path.rule = PathRule::left;
  each_path_point(path, [&](double weight, const std::vector<float>& at) {
    scorer.require_running();
    request.embedded = &at;
    before(weight);
    visit(weight, run_sequence(scorer.session(), request));
  });
}

// Adds up what edges get from ways back.
class EdgeForecast : public ReaderSink {
 public:
  std::vector<double> content, route;  // [edge]

  // `edges`, `changes` ([source] stream_change) and the pair live as long as this.
  EdgeForecast(const ModelShape& shape, const AblatedPair& pair, const std::vector<EdgeEffects>& edges,
               const std::map<NodeId, std::vector<float>>& changes)
      : content(edges.size()),
        route(edges.size()),
        pair_(pair),
        edges_(edges),
        changes_(changes),
        d_model_(shape.d_model) {
    for (size_t i = 0; i < edges.size(); ++i) {
      const NodeId& to = edges[i].target;
      switch (to.kind) {
        case Kind::head: {
          const AttentionShape& attention = shape.layers[static_cast<size_t>(to.layer)].attention;
          const auto shared = static_cast<int32_t>(to.index / (attention.n_heads / attention.n_kv_heads));
          of_[{Reader::query, to.layer, to.index}].push_back(i);
          of_[{Reader::key, to.layer, shared}].push_back(i);
          of_[{Reader::value, to.layer, shared}].push_back(i);
          break;
        }
        case Kind::expert:
          of_[{Reader::expert, to.layer, to.index}].push_back(i);
          of_[{Reader::router, to.layer, 0}].push_back(i);
          break;
        case Kind::shared: of_[{Reader::shared, to.layer, 0}].push_back(i); break;
        case Kind::mlp: of_[{Reader::dense, to.layer, 0}].push_back(i); break;
        default: of_[{Reader::logits, -1, 0}].push_back(i); break;
      }
    }
  }
  void set_weight(double weight) { weight_ = weight; }

  bool wants(Reader, int32_t) const override { return true; }
  void take(Reader reader, int32_t layer, int32_t unit, std::span<const float> d) override {
    const auto found = of_.find({reader, layer, unit});
    if (found == of_.end()) return;
    for (const size_t i : found->second) {
      // Keys and values are read from where they stand, all else at the receiver's own tokens.
      const bool anywhere = reader == Reader::key || reader == Reader::value || reader == Reader::logits;
      for (const int32_t t : pair_.tokens_of(anywhere ? edges_[i].source : edges_[i].target))
        add(i, t, d.data() + t * d_model_, reader == Reader::router);
    }
  }
  void take_experts(int32_t layer, std::span<const int32_t> ids, std::span<const float> d) override {
    for (size_t t = 0; t < ids.size(); ++t) {
      const auto found = of_.find({Reader::expert, layer, ids[t]});
      if (found == of_.end()) continue;
      for (const size_t i : found->second) {
        const std::vector<int32_t>& tokens = pair_.tokens_of(edges_[i].target);
        if (std::binary_search(tokens.begin(), tokens.end(), static_cast<int32_t>(t)))
          add(i, static_cast<int64_t>(t), d.data() + static_cast<int64_t>(t) * d_model_, false);
      }
    }
  }

 private:
  void add(size_t i, int64_t t, const float* slope, bool of_route) {
    const std::vector<float>& change = changes_.at(edges_[i].source);
    (of_route ? route : content)[i] +=
        weight_ * dot_rows(change.data() + t * d_model_, slope, static_cast<size_t>(d_model_));
  }

  const AblatedPair& pair_;
  const std::vector<EdgeEffects>& edges_;
  const std::map<NodeId, std::vector<float>>& changes_;
  int64_t d_model_;
  double weight_ = 1;
  std::map<std::tuple<Reader, int32_t, int32_t>, std::vector<size_t>> of_;  // (reader, layer, unit) -> edges
};

}  // namespace

RankMethod parse_rank_method(std::string_view name, const std::string& where) {
  for (const RankMethod method : {RankMethod::exact, RankMethod::atp, RankMethod::eap_ig})
    if (rank_method_name(method) == name) return method;
  throw Error(where, "expected exact, atp or eap-ig, found " + in_quotes(name));
}

std::string_view rank_method_name(RankMethod method) {
  return method == RankMethod::exact ? "exact" : method == RankMethod::atp ? "atp" : "eap-ig";
}

std::vector<double> forecast_parts(const ModelScorer& scorer, const ForecastRule& rule) {
  const ModelShape& shape = scorer.session().shape;
  const std::vector<NodeId>& nodes = scorer.nodes();
  std::vector<double> sizes(nodes.size()), sums(nodes.size());
  SequenceRequest request;
  request.slopes = writing_globs(shape);
  for (size_t p = 0; p < scorer.n_pairs(); ++p) {
    const AblatedPair& pair = scorer.pair(p);
    std::fill(sums.begin(), sums.end(), 0.0);
    each_gradient(
        scorer, p, rule, request, [](double) {},
        [&](double weight, const SequenceRun& run) {
          for (size_t i = 0; i < nodes.size(); ++i) {
            if (!scorer.differing()[i]) continue;
            const auto [point, first] = slope_of(shape, nodes[i]);
            for (const int32_t t : pair.tokens_of(nodes[i])) {
              if (!pair.mapped()[static_cast<size_t>(t)]) continue;
              const std::vector<float> own = written_by(pair.base(), shape, nodes[i], t),
                                       ablated = pair.ablated(nodes[i], t);
              const auto slope = run.slopes->row(point, nodes[i].layer, 0, t).subspan(static_cast<size_t>(first));
              for (size_t c = 0; c < own.size(); ++c)
                sums[i] += weight * static_cast<double>(slope[c]) *
                           (static_cast<double>(ablated[c]) - static_cast<double>(own[c]));
            }
          }
        });
    for (size_t i = 0; i < sizes.size(); ++i) sizes[i] += std::fabs(sums[i]) / static_cast<double>(scorer.n_pairs());
  }
  return sizes;
}

std::vector<double> forecast_edges(const ModelScorer& scorer, const std::vector<EdgeEffects>& edges,
                                   const ForecastRule& rule) {
  std::vector<double> sizes(edges.size());
  for (size_t p = 0; p < scorer.n_pairs(); ++p) {
    std::map<NodeId, std::vector<float>> changes;
    for (const EdgeEffects& edge : edges)
      if (!changes.contains(edge.source)) changes[edge.source] = stream_change(scorer, p, edge.source);
    EdgeForecast sums(scorer.session().shape, scorer.pair(p), edges, changes);
    SequenceRequest request;
    request.readers = &sums;
    each_gradient(
        scorer, p, rule, request, [&](double weight) { sums.set_weight(weight); }, [](double, const SequenceRun&) {});
    for (size_t i = 0; i < sizes.size(); ++i)
      sizes[i] +=
          std::max(std::fabs(sums.content[i]), std::fabs(sums.route[i])) / static_cast<double>(scorer.n_pairs());
  }
  return sizes;
}

}  // namespace signalbox::eval
