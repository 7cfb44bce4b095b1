#include "eval/causal/edge_study.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

#include "base/csv.h"
#include "base/error.h"
#include "base/files.h"
#include "eval/causal/cell_runner.h"
#include "eval/causal/direct_edges.h"
#include "eval/causal/recorded_run.h"
#include "eval/statistics/resampling.h"
#include "probes/edit_memory.h"

namespace signalbox::eval {

using namespace engine;
using namespace probes;

namespace {

using Kind = CausalNode::Kind;

// What a receiver gets at one token.
struct NewValue {
  int64_t position = 0;
  std::vector<float> change;   // of what it makes; of a router, of its logits
  std::vector<int32_t> route;  // of a router
  std::vector<float> weights;  // of a router
  bool flipped = false;
};

bool is_zero(const std::vector<float>& x) {
  return std::all_of(x.begin(), x.end(), [](float value) { return value == 0; });
}

Point point_of(Kind kind) {
  return kind == Kind::query ? Point::attn_q : kind == Kind::key ? Point::attn_k : Point::attn_v;
}

// DirectEdges::globs, and the values that a write of a receiver's begins with.
std::string edge_globs(const EdgeRequest& request, const ModelShape& shape) {
  std::string globs = DirectEdges::globs(shape);
  for (const CausalNode& node : request.receivers)
    if (node.kind == Kind::query || node.kind == Kind::key || node.kind == Kind::value)
      globs += "," + point_name(point_of(node.kind), node.layer);
  return globs;
}

// [target, source] positions that are taken.
std::vector<std::array<int32_t, 2>> edge_positions(const CausalPair& pair, const EdgeRequest& request) {
  std::vector<std::array<int32_t, 2>> map;
  for (const std::array<int32_t, 2>& entry : pair.map)
    if (entry[0] >= request.first_position && entry[0] < request.end_position)
      map.push_back(request.denoising ? std::array<int32_t, 2>{entry[1], entry[0]} : entry);
  std::sort(map.begin(), map.end());
  return map;
}

class PairEdges {
 public:
  PairEdges(const Session& session, const RecordJobs& made, const CausalPair& pair, const EdgeRequest& request)
      : session_(session),
        request_(request),
        job_(made.jobs[request.denoising ? pair.corrupt : pair.clean]),
        runner_(session, job_, request.denoising ? pair.corrupt_rows : pair.clean_rows,
                edge_globs(request, session.shape), request.step_tokens, request.step_cells),
        source_(record_run(session, made.jobs[request.denoising ? pair.clean : pair.corrupt],
                           (request.denoising ? pair.clean_rows : pair.corrupt_rows).n_rows(),
                           DirectEdges::points(session.shape), "source")),
        map_(edge_positions(pair, request)),
        edges_(session, runner_.base(), source_.store, map_) {
    if (request.denoising) runner_.measure_against(source_.logits);
  }

  // False when interrupted.
  bool run(std::vector<EdgeRow>& rows, int64_t done);
  void margins(size_t pair, std::vector<MarginRow>& rows);

 private:
  // By index of the sender: what the receiver gets from each, token by token.
  std::map<size_t, std::vector<NewValue>> values_of(const CausalNode& receiver);
  RunCell cell(const CausalNode& receiver, std::span<const NewValue> values) const;

  const Session& session_;
  const EdgeRequest& request_;
  const Job& job_;
  CellRunner runner_;
  RecordedRun source_;
  std::vector<std::array<int32_t, 2>> map_;  // [target, source] positions
  DirectEdges edges_;
};

std::map<size_t, std::vector<NewValue>> PairEdges::values_of(const CausalNode& receiver) {
  std::map<size_t, std::vector<NewValue>> found;
  for (const auto& [position, source] : map_) {
    std::vector<DirectEdges::Change> changes;
    std::vector<size_t> senders;
    for (DirectEdges::Change& change : edges_.changes(position, receiver)) {
      const auto sender = std::find(request_.senders.begin(), request_.senders.end(), change.sender);
      if (sender == request_.senders.end()) continue;
      senders.push_back(static_cast<size_t>(sender - request_.senders.begin()));
      changes.push_back(std::move(change));
    }
    if (changes.empty()) continue;
    if (receiver.kind == Kind::router) {
      std::vector<DirectEdges::RouterEdge> edges = edges_.router(receiver.layer, position, changes);
      for (size_t i = 0; i < edges.size(); ++i) {
        if (is_zero(edges[i].logits)) continue;
        found[senders[i]].push_back({position, std::move(edges[i].logits), std::move(edges[i].route),
                                     std::move(edges[i].route_weights), !edges[i].entered.empty()});
      }
      continue;
    }
    // The stream itself is what the final norm reads.
    std::vector<std::vector<float>> made;
    if (receiver.kind == Kind::logits)
      for (DirectEdges::Change& change : changes) made.push_back(std::move(change.delta));
    else
      made = edges_.content(receiver, position, changes);
    for (size_t i = 0; i < made.size(); ++i)
      if (!is_zero(made[i])) found[senders[i]].push_back({position, std::move(made[i]), {}, {}, false});
  }
  return found;
}

// The layer where the new value enters, and the first whose route it can change.
std::pair<int32_t, int32_t> entry_of(const CausalNode& receiver, int32_t n_layers) {
  switch (receiver.kind) {
    case Kind::logits: return {n_layers, n_layers};
    case Kind::router: return {receiver.layer, receiver.layer + 1};
    case Kind::query:
    case Kind::key:
    case Kind::value: return {receiver.layer, receiver.layer};
    default: return {receiver.layer + 1, receiver.layer + 1};
  }
}

RunCell PairEdges::cell(const CausalNode& receiver, std::span<const NewValue> values) const {
  RunCell made;
  made.first = values.front().position;
  const int32_t l = receiver.layer, n_layers = session_.shape.n_layers();
  const auto [entry, first_route] = entry_of(receiver, n_layers);
  const bool in_attention = receiver.kind == Kind::query || receiver.kind == Kind::key || receiver.kind == Kind::value;
  if (receiver.kind != Kind::router && !in_attention) {
    for (const NewValue& value : values) {
      made.positions.push_back(value.position);
      const std::span<const float> own = runner_.stream(entry, value.position);
      for (size_t c = 0; c < own.size(); ++c) made.rows.push_back(own[c] + value.change[c]);
    }
    return made;
  }
  // The unedited run's values, with the new ones at these tokens.
  const ActivationStore& base = *runner_.base();
  const int64_t n_tokens = runner_.n_tokens();
  json::Value edit = json::Value::object(), edits = json::Value::array();
  EditMemory memory;
  if (receiver.kind == Kind::router) {
    const auto k = static_cast<size_t>(base.n_slots()), place = static_cast<size_t>(*base.layer_index(l));
    std::vector<int32_t> ids;
    std::vector<float> weights;
    for (int64_t t = 0; t < n_tokens; ++t) {
      const std::vector<int32_t> own = base.ids({t, t + 1});
      ids.insert(ids.end(), own.begin() + static_cast<ptrdiff_t>(place * k),
                 own.begin() + static_cast<ptrdiff_t>((place + 1) * k));
      const std::span<const float> own_weights = base.row(Point::router_weights, l, 0, t);
      weights.insert(weights.end(), own_weights.begin(), own_weights.end());
    }
    for (const NewValue& value : values)
      for (size_t i = 0; i < value.route.size(); ++i) {
        ids[static_cast<size_t>(value.position) * k + i] = value.route[i];
        weights[static_cast<size_t>(value.position) * k + i] = value.weights[i];
      }
    const std::string globs = point_name(Point::router_ids, l) + "," + point_name(Point::router_weights, l);
    memory.add(make_store("source", session_.shape, globs, n_tokens, [&](ActivationStore& store) {
      store.take_ids(l, ids.data(), nullptr, base.n_slots());
      store.take(Point::router_weights, l, weights.data(), base.n_slots());
    }));
    edit.set("op", "replay").set("trace", "memory:source").set("weights", "recorded");
  } else {
    const Point point = point_of(receiver.kind);
    std::vector<float> rows;
    for (int64_t t = 0; t < n_tokens; ++t) {
      const std::span<const float> own = base.row(point, l, 0, t);
      rows.insert(rows.end(), own.begin(), own.end());
    }
    const auto width = static_cast<int64_t>(rows.size()) / n_tokens;
    for (const NewValue& value : values) {
      const auto count = static_cast<int64_t>(value.change.size());
      float* to = rows.data() + value.position * width + receiver.index * count;
      for (int64_t c = 0; c < count; ++c) to[c] += value.change[static_cast<size_t>(c)];
    }
    memory.add(make_store("source", session_.shape, point_name(point, l), n_tokens,
                          [&](ActivationStore& store) { store.take(point, l, rows.data(), width); }));
    edit.set("op", "patch").set("point", std::string(point_info(point).name)).set("from", "memory:source");
  }
  edit.set("sample", made_sample).set("layers", std::to_string(l));
  edit.set("tokens", json::Value::object().set(
                         "positions", std::to_string(made.first) + ":" + std::to_string(values.back().position + 1)));
  edits.push_back(std::move(edit));
  made.plan = EditPlan::parse(json::Ref(edits, "edits"), ".", session_.shape, 0, &memory);
  return made;
}

bool PairEdges::run(std::vector<EdgeRow>& rows, int64_t done) {
  for (size_t r = 0; r < request_.receivers.size(); ++r) {
    if (request_.interrupted && *request_.interrupted) return false;
    const CausalNode& receiver = request_.receivers[r];
    const auto [entry, first_route] = entry_of(receiver, session_.shape.n_layers());
    std::vector<RunCell> cells;
    std::vector<int64_t> firsts;
    const size_t first_row = rows.size();
    for (const auto& [sender, values] : values_of(receiver)) {
      const size_t at_once = request_.by_position ? 1 : values.size();
      for (size_t i = 0; i < values.size(); i += at_once) {
        const std::span<const NewValue> taken = std::span(values).subspan(i, at_once);
        EdgeRow row;
        row.sender = sender;
        row.receiver = r;
        if (request_.by_position) row.position = std::to_string(taken.front().position);
        row.tokens = static_cast<int64_t>(taken.size());
        double squares = 0;
        for (const NewValue& value : taken) {
          for (const float x : value.change) squares += static_cast<double>(x) * static_cast<double>(x);
          row.flipped += value.flipped;
        }
        row.change = std::sqrt(squares / static_cast<double>(row.tokens));
        rows.push_back(row);
        cells.push_back(cell(receiver, taken));
        firsts.push_back(cells.back().first);
      }
    }
    for (size_t begin = 0; begin < cells.size();) {
      if (request_.interrupted && *request_.interrupted) return false;
      const size_t end = runner_.step_end(firsts, begin);
      const std::vector<CellEffect> effects =
          runner_.run(entry, first_route, std::span(cells).subspan(begin, end - begin));
      for (size_t c = begin; c < end; ++c) rows[first_row + c].effect = effects[c - begin].effect;
      begin = end;
    }
    if (request_.on_progress) request_.on_progress(done + static_cast<int64_t>(r) + 1);
  }
  return true;
}

// All senders, named or not: parts of a sum.
void PairEdges::margins(size_t pair, std::vector<MarginRow>& rows) {
  for (const CausalNode& receiver : request_.receivers) {
    if (receiver.kind != Kind::router) continue;
    for (const auto& [position, source] : map_) {
      const DirectEdges::RouteShares shares = edges_.route_shares(receiver.layer, position);
      if (shares.first_out < 0) continue;
      const auto in = static_cast<size_t>(shares.last_in), out = static_cast<size_t>(shares.first_out);
      const auto add = [&, at = position](const std::string& sender, const std::vector<float>& logits) {
        rows.push_back({pair, at, receiver.layer, shares.last_in, shares.first_out, sender,
                        static_cast<double>(logits[in]), static_cast<double>(logits[out])});
      };
      for (const DirectEdges::RouteShares::Part& part : shares.parts) add(node_name(part.sender), part.logits);
      add("rest", shares.rest);
    }
  }
}

// The line of a pair, and back.
json::Value line_of(const std::vector<EdgeRow>& rows, const std::vector<MarginRow>& margins) {
  json::Value edges = json::Value::array(), shares = json::Value::array();
  for (const EdgeRow& row : rows)
    edges.push_back(json::Value::array()
                        .push_back(static_cast<int64_t>(row.sender))
                        .push_back(static_cast<int64_t>(row.receiver))
                        .push_back(row.position)
                        .push_back(row.tokens)
                        .push_back(row.change)
                        .push_back(row.flipped)
                        .push_back(row.effect));
  for (const MarginRow& row : margins)
    shares.push_back(json::Value::array()
                         .push_back(int64_t{row.position})
                         .push_back(int64_t{row.layer})
                         .push_back(int64_t{row.last_in})
                         .push_back(int64_t{row.first_out})
                         .push_back(row.sender)
                         .push_back(row.of_last_in)
                         .push_back(row.of_first_out));
  return json::Value::object().set("edges", std::move(edges)).set("margins", std::move(shares));
}

void read_line(const json::Ref& line, size_t pair, std::vector<EdgeRow>& rows, std::vector<MarginRow>& margins) {
  for (const json::Ref& row : line.at("edges").items())
    rows.push_back({static_cast<size_t>(row[0].size()), static_cast<size_t>(row[1].size()), row[2].string(),
                    row[3].size(), row[4].number(), row[5].size(), row[6].number()});
  const auto number = [](const json::Ref& of) { return static_cast<int32_t>(of.integer(0, INT32_MAX)); };
  for (const json::Ref& row : line.at("margins").items())
    margins.push_back({pair, number(row[0]), number(row[1]), number(row[2]), number(row[3]), row[4].string(),
                       row[5].number(), row[6].number()});
}

}  // namespace

void check_edges(const EdgeRequest& request, const std::vector<Record>& records, const std::vector<CausalPair>& pairs,
                 const ModelShape& shape) {
  const bool any = std::any_of(request.receivers.begin(), request.receivers.end(), [&](const CausalNode& receiver) {
    return std::any_of(request.senders.begin(), request.senders.end(), [&](const CausalNode& sender) {
      return node_stage(sender, shape.n_layers()) < node_stage(receiver, shape.n_layers());
    });
  });
  if (request.margins && std::none_of(request.receivers.begin(), request.receivers.end(),
                                      [](const CausalNode& node) { return node.kind == Kind::router; }))
    throw UsageError("--margins", "expected a router among --receivers, found none");
  if (!any) throw UsageError("--receivers", "expected a receiver that comes after a sender, found none");
  for (const CausalPair& pair : pairs)
    if (edge_positions(pair, request).empty())
      throw Error(records[pair.clean].where,
                  "expected a position under --positions, found none in the pair \"" + pair.name + "\"");
}

EdgeStudy measure_edges(const Session& session, const RecordJobs& made, std::vector<CausalPair> pairs,
                        const EdgeRequest& request) {
  EdgeStudy study;
  study.selected = select_pairs(session, made, std::move(pairs), request.keep_all, request.input, request.interrupted);
  study.interrupted = study.selected.interrupted;
  const size_t n_receivers = request.receivers.size();
  std::vector<PatchedPair> results;
  std::vector<std::string> names;
  for (const CausalPair& pair : study.selected.pairs) names.push_back(pair.name);
  KeptItems kept(request.kept, names, "pairs");
  for (size_t i = 0; i < study.selected.pairs.size() && !study.interrupted; ++i) {
    std::vector<EdgeRow>& rows = study.of_pairs.emplace_back();
    if (const json::Value known = kept.find(i); !known.is_null()) {
      read_line(json::Ref(known, names[i]), i, rows, study.margins);
      if (request.on_progress) request.on_progress(static_cast<int64_t>((i + 1) * n_receivers));
    } else {
      PairEdges pair(session, made, study.selected.pairs[i], request);
      study.interrupted = !pair.run(rows, static_cast<int64_t>(i * n_receivers));
      if (study.interrupted) break;
      std::vector<MarginRow> margins;
      if (request.margins) pair.margins(i, margins);
      kept.put(i, line_of(rows, margins));
      study.margins.insert(study.margins.end(), margins.begin(), margins.end());
    }
    PatchedPair& to = results.emplace_back();
    for (const EdgeRow& row : rows)
      to.rows.push_back({row.sender * n_receivers + row.receiver, row.position, row.effect, row.tokens, row.flipped});
  }
  if (study.interrupted) return study;
  kept.finish();
  // An edge along which nothing changes in a pair has no effect there, where the pair has the position at all.
  const std::vector<CausalPair>& taken = study.selected.pairs;
  const auto absent = [&](size_t pair, size_t, const std::string& unit) {
    if (unit.empty()) return true;
    const std::vector<std::array<int32_t, 2>> map = edge_positions(taken[pair], request);
    return std::any_of(map.begin(), map.end(), [&](const auto& entry) { return std::to_string(entry[0]) == unit; });
  };
  study.estimates =
      estimate_patches(study.selected, results, request.denoising, absent, request.seed, session.backend->n_threads());
  return study;
}

std::vector<std::string> edge_files(const EdgeRequest& request) {
  if (request.margins) return {"edges.csv", "margins.csv", "summary.json"};
  return {"edges.csv", "summary.json"};
}

void write_edges(const std::filesystem::path& dir, const EdgeStudy& study, const EdgeRequest& request,
                 const Session& session) {
  made_directory(dir);
  const size_t n_receivers = request.receivers.size();
  // The change of an edge: of each pair as measured, of all pairs the root of the mean over their tokens.
  std::map<std::tuple<std::string, size_t, std::string>, double> changes;
  std::map<std::pair<size_t, std::string>, std::pair<double, int64_t>> sums;
  for (size_t i = 0; i < study.of_pairs.size(); ++i)
    for (const EdgeRow& row : study.of_pairs[i]) {
      const size_t edge = row.sender * n_receivers + row.receiver;
      changes[{study.selected.pairs[i].name, edge, row.position}] = row.change;
      auto& [squares, tokens] = sums[{edge, row.position}];
      squares += row.change * row.change * static_cast<double>(row.tokens);
      tokens += row.tokens;
    }
  CsvWriter table({"pair", "sender", "receiver", "position", "effect", "normalised", "ci_lo", "ci_hi", "change",
                   "tokens", "flipped"});
  int64_t refused = 0;
  for (const PatchEstimate& row : study.estimates) {
    double change;
    if (row.pair.empty()) {
      const auto& [squares, tokens] = sums.at({row.point, row.unit});
      change = std::sqrt(squares / static_cast<double>(tokens));
    } else {
      change = changes.at({row.pair, row.point, row.unit});
    }
    const CausalNode& receiver = request.receivers[row.point % n_receivers];
    table.cell(row.pair).cell(node_name(request.senders[row.point / n_receivers])).cell(node_name(receiver));
    table.cell(row.unit).cell(row.effect).cell(row.normalised).cell(row.ci_lo).cell(row.ci_hi).cell(change);
    table.cell(row.routes);
    if (receiver.kind == Kind::router)
      table.cell(row.flipped);
    else
      table.cell("");
    table.end_row();
    refused += row.refused;
  }
  write_file_atomically(dir / "edges.csv", table.text());
  if (request.margins) {
    CsvWriter margins(
        {"pair", "position", "layer", "last_in", "first_out", "sender", "of_last_in", "of_first_out", "margin"});
    for (const MarginRow& row : study.margins) {
      margins.cell(study.selected.pairs[row.pair].name).cell(int64_t{row.position}).cell(int64_t{row.layer});
      margins.cell(int64_t{row.last_in}).cell(int64_t{row.first_out}).cell(row.sender);
      margins.cell(row.of_last_in).cell(row.of_first_out).cell(row.of_last_in - row.of_first_out);
      margins.end_row();
    }
    write_file_atomically(dir / "margins.csv", margins.text());
  }
  json::Value senders = json::Value::array(), receivers = json::Value::array();
  for (const CausalNode& node : request.senders) senders.push_back(node_name(node));
  for (const CausalNode& node : request.receivers) receivers.push_back(node_name(node));
  json::Value summary = json::Value::object();
  summary.set("schema", edges_schema)
      .set("metric", std::string(metric_name(request.metric)))
      .set("direction", request.denoising ? "denoising" : "noising")
      .set("ablation", "resample: the sender's value in the pair's other record, all between sender and receiver held")
      .set("reference", "the pair's other record")
      .set("split", json::Value())
      .set("seed", request.seed)
      .set("resamples", int64_t{default_resamples})
      .set("model", session.label)
      .set("model_hash", session.model_hash)
      .set("pairs", pairs_summary(study.selected))
      .set("senders", std::move(senders))
      .set("receivers", std::move(receivers));
  if (refused > 0) summary.set("refused", refused_ratios(refused));
  write_file_atomically(dir / "summary.json", json::dump(summary) + "\n");
}

}  // namespace signalbox::eval
