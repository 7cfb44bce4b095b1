#include "eval/causal/attribute.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "base/error.h"
#include "eval/causal/attribution_files.h"
#include "eval/causal/edges.h"
#include "eval/causal/expert_gain.h"
#include "eval/causal/query_keys.h"
#include "eval/causal/route_margins.h"
#include "eval/causal/sequence_run.h"
#include "eval/store/kept_work.h"

namespace signalbox::eval {

using namespace engine;
using namespace probes;

namespace {

constexpr std::array<std::pair<AttributionMethod, std::string_view>, 5> methods_by_name = {
    {{AttributionMethod::atp, "atp"},
     {AttributionMethod::ig, "ig"},
     {AttributionMethod::eap, "eap"},
     {AttributionMethod::eap_ig, "eap-ig"},
     {AttributionMethod::gain, "gain"}}};
constexpr std::array<std::string_view, 3> in_place_names = {"pairs", "zero", "mean"};

bool has_path(AttributionMethod method) {
  return method == AttributionMethod::ig || method == AttributionMethod::eap_ig;
}

// One record, or the clean record of a pair, and what takes the place of its parts.
struct Subject {
  const Record* record = nullptr;
  const Job* job = nullptr;
  MetricRows rows;
  const Job* other = nullptr;  // of a pair: the corrupt record
  const std::vector<std::array<int32_t, 2>>* map = nullptr;
};

std::string point_of_node(const CausalNode& node) {
  switch (node.kind) {
    case CausalNode::Kind::embed: return "embed";
    case CausalNode::Kind::head: return "attn.z";
    case CausalNode::Kind::attention_bias: return "attn.out";
    case CausalNode::Kind::expert: return "expert.contribution";
    case CausalNode::Kind::shared: return "shared.out";
    default: return "mlp.out";
  }
}

std::string unit_of_node(const CausalNode& node) {
  if (node.kind == CausalNode::Kind::attention_bias) return "bias";
  return node.index < 0 ? "" : std::to_string(node.index);
}

// What a receiver reads at. A dense block has no point of its own there.
std::string point_of_receiver(const CausalNode& node) {
  switch (node.kind) {
    case CausalNode::Kind::query: return "attn.q";
    case CausalNode::Kind::key: return "attn.k";
    case CausalNode::Kind::value: return "attn.v";
    case CausalNode::Kind::router: return "router.in";
    case CausalNode::Kind::expert: return "expert.in";
    case CausalNode::Kind::shared: return "shared.in";
    case CausalNode::Kind::dense: return "resid_mid";
    default: return "logits";
  }
}

std::string joined(const std::vector<int32_t>& ids) {
  std::string text;
  for (const int32_t id : ids) text += (text.empty() ? "" : "+") + std::to_string(id);
  return text;
}

class Attribution {
 public:
  Attribution(const Session& session, const AttributionRequest& request) : session_(session), request_(request) {}

  // None when interrupted.
  std::optional<RecordAttribution> run(const Subject& subject);

 private:
  void nodes(const Subject& subject);
  void query_keys(const Subject& subject, const SequenceRun& run, const std::vector<SequenceRun>& ways);
  double scored(const std::vector<double>& by_way) const;
  void edges(const Subject& subject);
  bool path(const Subject& subject);
  void gains(const Subject& subject);

  SequenceRequest base(const Subject& subject) const {
    SequenceRequest run;
    run.job = subject.job;
    run.rows = &subject.rows;
    return run;
  }
  NodeChanges changes(const Subject& subject, const Contributions& here) const;
  PathRequest path_request(const Subject& subject) const;
  AttributionRow row(const Subject& subject, int64_t position, int32_t layer, std::string point,
                     std::string unit) const {
    AttributionRow row;
    row.id = subject.record->id;
    row.position = position;
    row.layer = layer;
    row.point = std::move(point);
    row.unit = std::move(unit);
    return row;
  }

  const Session& session_;
  const AttributionRequest& request_;
  RecordAttribution made_;
};

NodeChanges Attribution::changes(const Subject& subject, const Contributions& here) const {
  const int64_t n_layers = session_.model.n_layers();
  if (request_.in_place == InPlace::zero) return NodeChanges::to_zero(here, n_layers);
  if (request_.in_place == InPlace::mean) return NodeChanges::to_mean(here, *request_.means, n_layers);
  SequenceRequest other;
  other.job = subject.other;
  other.values = Contributions::points(session_.shape);
  const SequenceRun run = run_sequence(session_, other);
  const Contributions there(session_, *run.values);
  return NodeChanges::between(here, there, *subject.map, n_layers);
}

void Attribution::nodes(const Subject& subject) {
  SequenceRequest request = base(subject);
  request.values = Contributions::points(session_.shape) + "," + RouteMargins::points();
  request.back = true;
  request.holds_final_divisor = request_.holds_final_divisor;
  for (int32_t stage = 0; stage < n_stages(session_.model.n_layers()); ++stage) {
    const PointAt at = writing_point(stage, session_.shape);
    request.slopes += (stage > 0 ? "," : "") + point_name(at.point, at.layer);
  }
  if (request_.query_keys) {
    request.values += "," + query_key_points();
    request.slopes += "," + query_key_slopes();
  }
  const SequenceRun run = run_sequence(session_, request);
  std::vector<SequenceRun> ways = {run};
  if (request_.drops) {
    ways.clear();
    request.values.clear();
    for (int64_t l = 0; l < session_.model.n_layers(); ++l) {
      request.dropped_layer = l;
      ways.push_back(run_sequence(session_, request));
    }
  }
  const Contributions here(session_, *run.values);
  const NodeChanges delta = changes(subject, here);
  const RouteMargins margins(session_, *run.values);
  const auto d = static_cast<size_t>(here.d_model());
  for (int32_t stage = 0; stage < delta.n_stages(); ++stage) {
    const PointAt at = writing_point(stage, session_.shape);
    std::vector<std::vector<float>> slopes;
    for (const SequenceRun& way : ways)
      slopes.push_back(way.slopes->floats(point_name(at.point, at.layer), way.slopes->rows(0)));
    std::vector<RouteMargins::Change> tested;
    std::vector<AttributionRow> rows;
    for (int64_t t = 0; t < delta.n_tokens(); ++t) {
      for (const auto& [node, by] : delta.at(stage, t)) {
        rows.push_back(row(subject, t, node.layer, point_of_node(node), unit_of_node(node)));
        std::vector<double> by_way;
        for (const std::vector<float>& slope : slopes)
          by_way.push_back(dot_rows(by, slope.data() + static_cast<size_t>(t) * d, d));
        rows.back().score = scored(by_way);
        tested.push_back({stage, t, by});
      }
    }
    const std::vector<RouteFlips> flips = margins.flips(tested);
    for (size_t i = 0; i < rows.size(); ++i) {
      rows[i].flip_share = flips[i].share();
      rows[i].trusted = flips[i].trusted();
      made_.rows.push_back(std::move(rows[i]));
    }
  }
  if (request_.query_keys) query_keys(subject, run, ways);
}

// Of each way back. Grad drop: the sum of absolute values over the layers that are dropped, by their number less one.
double Attribution::scored(const std::vector<double>& by_way) const {
  double score = 0;
  for (const double one : by_way)
    score += request_.drops ? std::fabs(one) / static_cast<double>(by_way.size() - 1) : one;
  return score;
}

void Attribution::query_keys(const Subject& subject, const SequenceRun& run, const std::vector<SequenceRun>& ways) {
  std::vector<int32_t> source_of(static_cast<size_t>(subject.job->n_given()), -1);
  SequenceRun there;
  if (subject.other) {
    SequenceRequest other;
    other.job = subject.other;
    other.values = query_key_points();
    there = run_sequence(session_, other);
    for (const auto& [own, position] : *subject.map) source_of[static_cast<size_t>(own)] = position;
  }
  std::vector<const ActivationStore*> slopes;
  for (const SequenceRun& way : ways) slopes.push_back(way.slopes.get());
  for (int32_t l = 0; l < session_.shape.n_layers(); ++l)
    for (const QueryKeyScore& one : query_key_scores(session_, l, *run.values, there.values.get(), source_of, slopes)) {
      AttributionRow to = row(subject, one.position, l, one.key ? "attn.k" : "attn.q", std::to_string(one.head));
      to.score = scored(one.scores);
      made_.rows.push_back(std::move(to));
    }
}

PathRequest Attribution::path_request(const Subject& subject) const {
  PathRequest path;
  path.job = subject.job;
  path.rows = &subject.rows;
  path.steps = request_.steps;
  path.rule = request_.rule;
  path.holds_routes = request_.holds_routes;
  path.most_crossings = request_.most_crossings;
  path.interrupted = request_.interrupted;
  const auto embedded = [&](const Job& job) {
    SequenceRequest request;
    request.job = &job;
    request.values = "embed";
    const SequenceRun run = run_sequence(session_, request);
    return run.values->floats("embed", run.values->rows(0));
  };
  path.from = embedded(*subject.job);
  if (subject.other) {
    path.to = embedded(*subject.other);
  } else {
    const std::vector<double>& mean = *request_.means->of({CausalNode::Kind::embed, -1, -1});
    for (size_t i = 0; i < path.from.size(); ++i) path.to.push_back(static_cast<float>(mean[i % mean.size()]));
  }
  return path;
}

void Attribution::edges(const Subject& subject) {
  const int64_t n_layers = session_.model.n_layers();
  SequenceRequest request = base(subject);
  request.values = Contributions::points(session_.shape) + "," + RouteMargins::points();
  const SequenceRun here_run = run_sequence(session_, request);
  const Contributions here(session_, *here_run.values);
  const NodeChanges delta = changes(subject, here);
  EdgeScores scores(delta, here.d_model(), n_layers);
  request.values.clear();
  request.back = true;
  request.readers = &scores;
  request.holds_final_divisor = request_.holds_final_divisor;
  if (request_.method == AttributionMethod::eap) {
    run_sequence(session_, request);
  } else {
    request.reference = here_run.logits;
    each_path_point(path_request(subject), [&](double weight, const std::vector<float>& embedded) {
      if (request_.interrupted && *request_.interrupted) return;
      scores.set_weight(weight);
      request.embedded = &embedded;
      run_sequence(session_, request);
    });
  }
  // The margin test of each sender, over all its tokens.
  const RouteMargins margins(session_, *here_run.values);
  std::map<CausalNode, RouteFlips, NodeOrder> flips;
  for (int32_t stage = 0; stage < delta.n_stages(); ++stage) {
    std::vector<RouteMargins::Change> tested;
    std::vector<CausalNode> of;
    for (int64_t t = 0; t < delta.n_tokens(); ++t) {
      for (const auto& [node, by] : delta.at(stage, t)) {
        tested.push_back({stage, t, by});
        of.push_back(node);
      }
    }
    const std::vector<RouteFlips> found = margins.flips(tested);
    for (size_t i = 0; i < of.size(); ++i) {
      flips[of[i]].cells += found[i].cells;
      flips[of[i]].flipped += found[i].flipped;
    }
  }
  std::vector<ScoredEdge> all = scores.edges();
  if (request_.top > 0 && static_cast<int64_t>(all.size()) > request_.top) {
    std::stable_sort(all.begin(), all.end(),
                     [](const ScoredEdge& a, const ScoredEdge& b) { return std::fabs(a.score) > std::fabs(b.score); });
    made_.dropped_edges = static_cast<int64_t>(all.size()) - request_.top;
    all.resize(static_cast<size_t>(request_.top));
  }
  for (const ScoredEdge& edge : all) {
    AttributionRow to =
        row(subject, -1, edge.to.layer, point_of_receiver(edge.to), node_name(edge.from) + ">" + node_name(edge.to));
    to.score = edge.score;
    to.flip_share = flips[edge.from].share();
    to.trusted = flips[edge.from].trusted();
    made_.rows.push_back(std::move(to));
  }
}

bool Attribution::path(const Subject& subject) {
  PathRequest request = path_request(subject);
  SequenceRequest at_x = base(subject);
  at_x.values = RouteMargins::points();
  const SequenceRun run = run_sequence(session_, at_x);
  request.reference = run.logits;
  const PathIntegral found = integrate_path(session_, request);
  if (found.interrupted) return false;
  const auto d = static_cast<size_t>(session_.model.d_model);
  std::vector<float> delta(request.from.size());
  for (size_t i = 0; i < delta.size(); ++i) delta[i] = request.to[i] - request.from[i];
  std::vector<RouteMargins::Change> tested;
  for (size_t t = 0; t < found.of_position.size(); ++t)
    tested.push_back({0, static_cast<int64_t>(t), delta.data() + t * d});
  const std::vector<RouteFlips> flips = RouteMargins(session_, *run.values).flips(tested);
  AttributionRow whole = row(subject, -1, -1, "path", "");
  whole.score = found.end - found.start;
  whole.flip_share = RouteFlips{found.cells, found.changed}.share();
  whole.trusted = found.crossings.empty() && found.changed == 0;
  whole.integral = found.integral;
  whole.jumps = found.jumps;
  whole.rest = found.rest();
  made_.rows.push_back(std::move(whole));
  for (size_t t = 0; t < found.of_position.size(); ++t) {
    AttributionRow to = row(subject, static_cast<int64_t>(t), -1, "embed", "");
    to.score = to.integral = found.of_position[t];
    to.flip_share = flips[t].share();
    to.trusted = flips[t].trusted();
    made_.rows.push_back(std::move(to));
  }
  for (const Crossing& crossing : found.crossings) {
    AttributionRow to = row(subject, crossing.position, crossing.layer, "router.ids",
                            joined(crossing.left) + ">" + joined(crossing.came));
    to.score = to.jumps = crossing.behind - crossing.before;
    made_.rows.push_back(std::move(to));
    made_.crossings.push_back(crossing);
  }
  if (request_.holds_routes) {
    AttributionRow to = row(subject, -1, -1, "router.ids", "held");
    to.score = to.jumps = found.jumps;
    made_.rows.push_back(std::move(to));
  }
  return true;
}

void Attribution::gains(const Subject& subject) {
  SequenceRequest request = base(subject);
  request.values = std::string(gain_points()) + "," + RouteMargins::points();
  request.slopes = gain_slopes();
  request.back = true;
  request.holds_final_divisor = request_.holds_final_divisor;
  const SequenceRun run = run_sequence(session_, request);
  const RouteMargins margins(session_, *run.values);
  const int64_t n = subject.job->n_given();
  for (const int32_t layer : session_.model.moe_layers()) {
    const int64_t n_experts = session_.model.layers[static_cast<size_t>(layer)].moe()->router.n_experts;
    const int64_t tokens_at_once = std::max<int64_t>(1, (int64_t{64} << 20) / (8 * n_experts * session_.model.d_model));
    for (int64_t first = 0; first < n; first += tokens_at_once) {
      const int64_t count = std::min(tokens_at_once, n - first);
      const LayerGains found = expert_gains(session_, *run.values, *run.slopes, layer, first, count);
      std::vector<RouteMargins::Change> tested;
      for (int64_t t = 0; t < count; ++t)
        for (const OtherRoute& other : found.routes[static_cast<size_t>(t)])
          tested.push_back({node_stage({CausalNode::Kind::expert, layer, 0}, session_.shape.n_layers()), first + t,
                            other.change.data()});
      const std::vector<RouteFlips> flips = margins.flips(tested);
      size_t next = 0;
      for (int64_t t = 0; t < count; ++t) {
        for (int64_t e = 0; e < n_experts; ++e) {
          AttributionRow to = row(subject, first + t, layer, "expert.gain", std::to_string(e));
          to.score = found.gains[static_cast<size_t>(t * n_experts + e)];
          made_.rows.push_back(std::move(to));
        }
        for (const OtherRoute& other : found.routes[static_cast<size_t>(t)]) {
          AttributionRow to =
              row(subject, first + t, layer, other.forced ? "route.force" : "route.ban", std::to_string(other.expert));
          to.score = other.effect;
          to.flip_share = flips[next].share();
          to.trusted = flips[next].trusted();
          ++next;
          made_.rows.push_back(std::move(to));
        }
      }
    }
  }
}

std::optional<RecordAttribution> Attribution::run(const Subject& subject) {
  made_ = {};
  made_.id = subject.record->id;
  switch (request_.method) {
    case AttributionMethod::atp: nodes(subject); break;
    case AttributionMethod::eap:
    case AttributionMethod::eap_ig: edges(subject); break;
    case AttributionMethod::gain: gains(subject); break;
    case AttributionMethod::ig:
      if (!path(subject)) return std::nullopt;
  }
  if (request_.interrupted && *request_.interrupted) return std::nullopt;
  return std::move(made_);
}

// A path leads from each position's embedding to that of the same position.
void require_same_positions(const CausalPair& pair, const std::vector<Record>& records, const RecordJobs& made,
                            AttributionMethod method) {
  const int64_t n = made.jobs[pair.clean].n_given(), n_corrupt = made.jobs[pair.corrupt].n_given();
  bool same = n == n_corrupt && static_cast<int64_t>(pair.map.size()) == n;
  for (const auto& [clean, corrupt] : pair.map) same = same && clean == corrupt;
  if (same) return;
  throw Error(records[pair.corrupt].where,
              "expected a pair whose positions stand for themselves, all of them, for the path of " +
                  std::string(attribution_method_name(method)) + ", found " + std::to_string(n) + " and " +
                  std::to_string(n_corrupt) + " tokens and a map of " + std::to_string(pair.map.size()));
}

}  // namespace

AttributionMethod parse_attribution_method(std::string_view name, const std::string& where) {
  for (const auto& [method, known] : methods_by_name)
    if (known == name) return method;
  throw Error(where, "expected atp, ig, eap, eap-ig or gain, found \"" + std::string(name) + "\"");
}

std::string_view attribution_method_name(AttributionMethod method) {
  return methods_by_name[static_cast<size_t>(method)].second;
}

std::string_view in_place_name(InPlace in_place) { return in_place_names[static_cast<size_t>(in_place)]; }

int64_t attribution_records(const RecordJobs& made, const AttributionRequest& request) {
  const bool pairs = request.method != AttributionMethod::gain && request.in_place == InPlace::pairs;
  return static_cast<int64_t>(pairs ? request.pairs.pairs.size() : made.jobs.size());
}

void check_attribution(const Session& session, const std::vector<Record>& records, const RecordJobs& made,
                       const AttributionRequest& request, const std::vector<CausalPair>& pairs) {
  const AttributionMethod method = request.method;
  if (request.metric == Metric::kl && !has_path(method))
    throw Error("--metric",
                "expected a metric whose gradient at the unedited run is not 0 everywhere, found kl (--method ig and "
                "eap-ig look elsewhere)");
  if (request.query_keys && request.in_place == InPlace::mean)
    throw Error(
        "--qk-fix",
        "expected --instead pairs or zero beside it (a mean over positions of queries that are turned by theirs "
        "is no query), found mean");
  if (request.drops && session.model.n_layers() < 2)
    throw Error("--grad-drop", "expected a model of two layers or more, found one");
  if (has_path(method) && request.in_place == InPlace::zero)
    throw Error("--instead",
                "expected pairs or mean for the path of " + std::string(attribution_method_name(method)) +
                    ", found zero: the norms undo the size of an embedding, so that nothing changes on the way to 0 "
                    "until the end");
  if (method != AttributionMethod::gain && request.in_place == InPlace::pairs) {
    for (const CausalPair& pair : pairs)
      if (has_path(method)) require_same_positions(pair, records, made, method);
    return;
  }
  for (size_t i = 0; i < made.jobs.size(); ++i)
    metric_rows(request.metric, records[i], made.encoded[i], session.encode);
}

AttributionResult attribute(const Session& session, const std::vector<Record>& records, const RecordJobs& made,
                            const AttributionRequest& request) {
  const AttributionMethod method = request.method;
  check_attribution(session, records, made, request, request.pairs.pairs);
  std::vector<Subject> subjects;
  if (method != AttributionMethod::gain && request.in_place == InPlace::pairs) {
    for (const CausalPair& pair : request.pairs.pairs) {
      subjects.push_back(
          {&records[pair.clean], &made.jobs[pair.clean], pair.clean_rows, &made.jobs[pair.corrupt], &pair.map});
    }
  } else {
    for (size_t i = 0; i < made.jobs.size(); ++i)
      subjects.push_back({&records[i], &made.jobs[i],
                          metric_rows(request.metric, records[i], made.encoded[i], session.encode), nullptr, nullptr});
  }
  Manifest manifest = request.manifest;
  manifest.schema = attribution_schema;
  KeptWork work(request.dir, std::move(manifest), attribution_files(method));
  std::vector<std::string> ids;
  for (const Subject& subject : subjects) ids.push_back(subject.record->id);
  KeptItems kept({work.stage("attribution"), request.on_kept}, ids, "records");
  AttributionResult result;
  Attribution attribution(session, request);
  for (size_t i = 0; i < subjects.size(); ++i) {
    if (!kept.has(i)) {
      std::optional<RecordAttribution> made_here;
      if (!(request.interrupted && *request.interrupted)) made_here = attribution.run(subjects[i]);
      if (!made_here) {
        work.interrupt();
        result.interrupted = true;
        return result;
      }
      kept.put(i, attribution_line(*made_here));
    }
    if (request.on_progress) request.on_progress(static_cast<int64_t>(i) + 1);
  }
  kept.finish();
  AttributionTables tables(request);
  for (size_t i = 0; i < subjects.size(); ++i) {
    const json::Value line = kept.find(i);
    tables.add(read_attribution_line(json::Ref(line, ids[i]), ids[i]));
  }
  tables.finish(result);
  work.finish([&](const std::filesystem::path&) { tables.write(session, result); });
  return result;
}

}  // namespace signalbox::eval
