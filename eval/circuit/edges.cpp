#include "eval/circuit/edges.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <numbers>
#include <numeric>
#include <string>
#include <utility>

#include "engine/receivers.h"
#include "eval/data/dice.h"
#include "probes/edit_memory.h"

namespace signalbox::eval {

using namespace engine;
using namespace kernels;
using namespace probes;

namespace {

using Kind = NodeId::Kind;

// The points at which the stream stands behind a sender.
std::vector<PointAt> places_behind(const ModelShape& shape, const NodeId& sender) {
  std::vector<PointAt> places;
  for (int32_t l = 0; l < shape.n_layers(); ++l) {
    if (l > sender.layer) places.push_back({Point::resid_in, l});
    if (l > sender.layer || (l == sender.layer && sender.kind == Kind::head)) places.push_back({Point::resid_mid, l});
  }
  places.push_back({Point::resid_out, shape.n_layers() - 1});
  return places;
}

std::shared_ptr<const EditPlan> plan_of(const Session& session, const json::Value& edits, const EditMemory& memory) {
  return EditPlan::parse(json::Ref(edits, "edits"), ".", session.shape, 0, &memory);
}

// Share of these tokens that select an expert, and its mean router logit.
struct Selection {
  double share = 0, logit = 0;
};
Selection selection_of(const ActivationStore& run, const std::vector<int32_t>& tokens, const NodeId& expert,
                       int64_t n_experts) {
  const Recording::Rows all = run.rows(0);
  const std::vector<int32_t> ids = run.ids(all);
  const std::vector<float> logits = run.floats("router.logits", all);
  const size_t n_layers = run.layers().size(), n_slots = static_cast<size_t>(run.n_slots()),
               at = static_cast<size_t>(*run.layer_index(expert.layer));
  Selection of;
  for (const int32_t token : tokens) {
    const auto t = static_cast<size_t>(token);
    const auto begin = ids.begin() + static_cast<int64_t>((t * n_layers + at) * n_slots);
    of.share += static_cast<double>(std::count(begin, begin + static_cast<int64_t>(n_slots), expert.index));
    of.logit += static_cast<double>(
        logits[(t * n_layers + at) * static_cast<size_t>(n_experts) + static_cast<size_t>(expert.index)]);
  }
  const auto n = static_cast<double>(tokens.size());
  if (n > 0) of = {of.share / n, of.logit / n};
  return of;
}

// The rows of a change in another order, none where it was.
std::vector<float> of_other_tokens(const std::vector<float>& change, int64_t d_model, Dice& dice) {
  const auto n = static_cast<size_t>(static_cast<int64_t>(change.size()) / d_model);
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t{0});
  dice.shuffle(order);
  std::vector<float> out(change.size());
  for (size_t i = 0; i < n; ++i)
    std::copy_n(change.data() + static_cast<int64_t>(order[i]) * d_model, d_model,
                out.data() + static_cast<int64_t>(order[(i + 1) % n]) * d_model);
  return out;
}

// Gaussian directions with the length of each row of a change.
std::vector<float> random_of_length(const std::vector<float>& change, int64_t d_model, Dice& dice) {
  std::vector<float> out(change.size());
  const auto width = static_cast<size_t>(d_model);
  std::vector<double> row(width);
  for (size_t begin = 0; begin < change.size(); begin += width) {
    double length = 0, own = 0;
    for (size_t c = 0; c < width; ++c) {
      length += static_cast<double>(change[begin + c]) * static_cast<double>(change[begin + c]);
      // Box and Muller.
      const double u = (static_cast<double>(dice.below(uint64_t{1} << 53)) + 1) / 9007199254740993.0,
                   v = static_cast<double>(dice.below(uint64_t{1} << 53)) / 9007199254740992.0;
      row[c] = std::sqrt(-2 * std::log(u)) * std::cos(2 * std::numbers::pi * v);
      own += row[c] * row[c];
    }
    const double scale = own > 0 ? std::sqrt(length / own) : 0;
    for (size_t c = 0; c < width; ++c) out[begin + c] = static_cast<float>(scale * row[c]);
  }
  return out;
}

// respond(), and for what changed the run that goes on from there.
std::vector<Response> respond_and_go_on(ModelScorer& scorer, size_t pair, const NodeId& sender,
                                        const std::vector<float>& change, std::span<const NodeId> receivers) {
  scorer.require_running();
  std::vector<Response> responses = respond(scorer, pair, sender, change, receivers);
  std::vector<std::shared_ptr<const BoundEdits>> runs;
  for (const Response& response : responses)
    if (response.changed) runs.push_back(scorer.pair(pair).replace(response.receiver, response.values));
  const std::vector<double> metrics = scorer.metrics(pair, runs);
  size_t next = 0;
  for (Response& response : responses)
    if (response.changed) response.feeds = metrics[next++] - scorer.whole()[pair];
  return responses;
}

// feeds, selects and dlogit of each.
std::vector<double> numbers_of(const std::vector<Response>& responses) {
  std::vector<double> out;
  for (const Response& response : responses) out.insert(out.end(), {response.feeds, response.selects, response.dlogit});
  return out;
}

std::string names_of(size_t pair, const NodeId& source, std::span<const NodeId> receivers) {
  std::string name = std::to_string(pair) + " " + node_name(source) + " ->";
  for (const NodeId& receiver : receivers) name += " " + node_name(receiver);
  return name;
}

// Edges of one source stand together: visits every such stretch [begin, end) of `which`, with its receivers.
void each_source(const std::vector<EdgeEffects>& edges, std::span<const size_t> which,
                 const std::function<void(const NodeId& source, std::span<const size_t> own,
                                          std::span<const NodeId> receivers)>& visit) {
  for (size_t begin = 0; begin < which.size();) {
    const NodeId source = edges[which[begin]].source;
    size_t end = begin;
    std::vector<NodeId> receivers;
    for (; end < which.size() && edges[which[end]].source == source; ++end)
      receivers.push_back(edges[which[end]].target);
    visit(source, which.subspan(begin, end - begin), receivers);
    begin = end;
  }
}

}  // namespace

namespace {

// What a part writes instead, minus what it writes, in the stream behind it; at these tokens, 0 elsewhere.
std::vector<float> change_at(const ModelScorer& scorer, size_t index, const NodeId& sender,
                             const std::vector<int32_t>& tokens) {
  const AblatedPair& pair = scorer.pair(index);
  const Session& session = scorer.session();
  const ModelShape& shape = session.shape;
  const bool head = sender.kind == Kind::head;
  const int64_t n = pair.n_tokens();
  int64_t width = shape.d_model, stride = width, first = 0;
  if (head) {
    const AttentionShape& attention = shape.layers[static_cast<size_t>(sender.layer)].attention;
    width = attention.d_z;
    stride = attention.n_heads * width;
    first = sender.index * width;
  }
  std::vector<float> change(static_cast<size_t>(n * stride));
  for (const int32_t t : tokens) {
    if (!pair.mapped()[static_cast<size_t>(t)]) continue;
    const std::vector<float> own = written_by(pair.base(), shape, sender, t), ablated = pair.ablated(sender, t);
    float* row = change.data() + t * stride + first;
    for (size_t c = 0; c < own.size(); ++c) row[c] = ablated[c] - own[c];
  }
  if (!head) return change;
  Receivers readers(*session.backend, session.model, session.weights);
  return readers.attention_output(sender.layer, change);
}

std::vector<int32_t> all_tokens(const AblatedPair& pair) {
  std::vector<int32_t> tokens(static_cast<size_t>(pair.n_tokens()));
  std::iota(tokens.begin(), tokens.end(), 0);
  return tokens;
}

// 0 but at these tokens.
void keep_rows(std::vector<float>& change, int64_t d_model, const std::vector<int32_t>& tokens) {
  std::vector<float> kept(change.size());
  for (const int32_t t : tokens) std::copy_n(change.data() + t * d_model, d_model, kept.data() + t * d_model);
  change = std::move(kept);
}

}  // namespace

std::vector<float> stream_change(const ModelScorer& scorer, size_t index, const NodeId& sender) {
  return change_at(scorer, index, sender, scorer.pair(index).tokens_of(sender));
}

namespace {

// What a part writes in a run at its tokens, and in the base run at others: [n_tokens, width]. Whether the two differ.
bool take_values(const AblatedPair& pair, const ActivationStore& run, const ModelShape& shape, const NodeId& node,
                 std::vector<float>& values) {
  const std::vector<int32_t>& tokens = pair.tokens_of(node);
  bool changed = false;
  for (int64_t t = 0; t < pair.n_tokens(); ++t) {
    std::vector<float> was = written_by(pair.base(), shape, node, t);
    if (std::binary_search(tokens.begin(), tokens.end(), t)) {
      std::vector<float> now = written_by(run, shape, node, t);
      changed = changed || now != was;
      was = std::move(now);
    }
    values.insert(values.end(), was.begin(), was.end());
  }
  return changed;
}

}  // namespace

std::vector<Response> respond(ModelScorer& scorer, size_t index, const NodeId& sender, const std::vector<float>& change,
                              std::span<const NodeId> receivers, bool by_input) {
  const Session& session = scorer.session();
  const ModelShape& shape = session.shape;
  const AblatedPair& pair = scorer.pair(index);
  const int64_t n = pair.n_tokens(), d_model = shape.d_model;
  std::vector<Response> responses;
  for (const NodeId& receiver : receivers) responses.push_back({receiver, {}, 0, 0, 0, false, {}});
  if (std::all_of(change.begin(), change.end(), [](float x) { return x == 0; })) return responses;

  EditMemory memory;
  std::map<std::string, std::vector<float>> streams;
  json::Value edits = json::Value::array();
  for (const PointAt& place : places_behind(shape, sender)) {
    std::vector<float>& stream = streams[point_name(place.point, place.layer)];
    stream = change;
    for (int64_t t = 0; t < n; ++t) {
      const auto base = pair.base().row(place.point, place.layer, 0, t);
      for (int64_t c = 0; c < d_model; ++c)
        stream[static_cast<size_t>(t * d_model + c)] += base[static_cast<size_t>(c)];
    }
    edits.push_back(json::Value::object()
                        .set("op", "patch")
                        .set("point", point_name(place.point, place.layer))
                        .set("from", "memory:streams"));
  }
  memory.add(made_store("streams", shape, pair.job().prompt->id, streams, n));
  const PointSet points = node_points(shape, by_input);
  const bool routed = std::any_of(receivers.begin(), receivers.end(),
                                  [](const NodeId& receiver) { return receiver.kind == Kind::expert; });
  RecordedRun free;
  if (routed) free = record_run(session, pair.job(), 1, points, "free", plan_of(session, edits, memory).get());
  if (!shape.moe_layers().empty()) {
    memory.add(pair.run().store);
    edits.push_back(json::Value::object()
                        .set("op", "replay")
                        .set("trace", "memory:" + pair.run().store->name())
                        .set("weights", "recorded"));
  }
  const RecordedRun held = record_run(session, pair.job(), scorer.rows(index).n_rows(), points, "held",
                                      plan_of(session, edits, memory).get());
  for (Response& response : responses) {
    const NodeId& receiver = response.receiver;
    if (receiver.kind == Kind::logits) {
      response.feeds = scorer.metric_of(index, held.logits) - scorer.whole()[index];
      continue;
    }
    response.changed = take_values(pair, *held.store, shape, receiver, response.values);
    const std::vector<int32_t>& tokens = pair.tokens_of(receiver);
    if (receiver.kind != Kind::expert) continue;
    const Selection now = selection_of(*free.store, tokens, receiver, shape.n_experts()),
                    was = selection_of(pair.base(), tokens, receiver, shape.n_experts());
    response.selects = now.share - was.share;
    response.dlogit = now.logit - was.logit;
  }
  if (!by_input) return responses;
  // All layers begin from the base run's stream, and read one input from the changed one.
  constexpr Point points_of_inputs[] = {Point::attn_q, Point::attn_k, Point::attn_v};
  for (size_t i = 0; i < head_inputs.size(); ++i) {
    EditMemory exchanged;
    exchanged.add(pair.run().store);
    exchanged.add(held.store);
    json::Value list = json::Value::array();
    const auto patch = [&](const PointAt& place, const std::string& from) {
      list.push_back(json::Value::object()
                         .set("op", "patch")
                         .set("point", point_name(place.point, place.layer))
                         .set("from", "memory:" + from));
    };
    int32_t layer = -1;
    for (const NodeId& receiver : receivers) {
      if (receiver.kind != Kind::head || receiver.layer == layer) continue;
      layer = receiver.layer;
      patch({Point::resid_in, layer}, pair.run().store->name());
      patch({points_of_inputs[i], layer}, held.store->name());
    }
    if (layer < 0) break;
    const RecordedRun run =
        record_run(session, pair.job(), 1, points, "by input", plan_of(session, list, exchanged).get());
    for (Response& response : responses)
      if (response.receiver.kind == Kind::head)
        response.inputs[i].changed = take_values(pair, *run.store, shape, response.receiver, response.inputs[i].values);
  }
  return responses;
}

std::vector<EdgeEffects> edges_among(const std::vector<NodeId>& nodes) {
  std::vector<EdgeEffects> edges;
  for (const NodeId& source : nodes)
    for (const NodeId& target : nodes)
      if (precedes(source, target)) edges.push_back({source, target, {}, {}, {}, {}, {}, {}});
  return edges;
}

void measure_edges(ModelScorer& scorer, std::vector<EdgeEffects>& edges) {
  std::vector<size_t> all(edges.size());
  std::iota(all.begin(), all.end(), size_t{0});
  each_source(edges, all, [&](const NodeId& source, std::span<const size_t> own, std::span<const NodeId> to) {
    for (size_t p = 0; p < scorer.n_pairs(); ++p) {
      const std::vector<double> found = scorer.known_or("whole " + names_of(p, source, to), [&] {
        return numbers_of(respond_and_go_on(scorer, p, source, stream_change(scorer, p, source), to));
      });
      for (size_t i = 0; i < own.size(); ++i) {
        EdgeEffects& edge = edges[own[i]];
        edge.feeds.push_back(found[3 * i]);
        if (edge.target.kind != Kind::expert) continue;
        edge.selects.push_back(found[3 * i + 1]);
        edge.dlogits.push_back(found[3 * i + 2]);
      }
    }
  });
}

void measure_inputs(ModelScorer& scorer, std::vector<EdgeEffects>& edges, std::span<const size_t> which) {
  std::vector<size_t> into_heads;
  for (const size_t i : which)
    if (edges[i].target.kind == Kind::head) into_heads.push_back(i);
  each_source(edges, into_heads, [&](const NodeId& source, std::span<const size_t> own, std::span<const NodeId> to) {
    for (size_t p = 0; p < scorer.n_pairs(); ++p) {
      const std::vector<double> found = scorer.known_or("inputs " + names_of(p, source, to), [&] {
        scorer.require_running();
        std::vector<Response> responses = respond(scorer, p, source, stream_change(scorer, p, source), to, true);
        std::vector<std::shared_ptr<const BoundEdits>> runs;
        for (const Response& response : responses)
          for (const Response::ByInput& input : response.inputs)
            if (input.changed) runs.push_back(scorer.pair(p).replace(response.receiver, input.values));
        const std::vector<double> metrics = scorer.metrics(p, runs);
        std::vector<double> numbers;
        size_t next = 0;
        for (const Response& response : responses)
          for (const Response::ByInput& input : response.inputs)
            numbers.push_back(input.changed ? metrics[next++] - scorer.whole()[p] : 0);
        return numbers;
      });
      for (size_t i = 0; i < own.size(); ++i)
        for (size_t in = 0; in < head_inputs.size(); ++in)
          edges[own[i]].inputs[in].push_back(found[i * head_inputs.size() + in]);
    }
  });
}

void measure_controls(ModelScorer& scorer, std::vector<EdgeEffects>& edges, std::span<const size_t> which,
                      int64_t draws, uint64_t seed) {
  const int64_t d_model = scorer.session().shape.d_model;
  each_source(edges, which, [&](const NodeId& source, std::span<const size_t> own, std::span<const NodeId> to) {
    for (size_t p = 0; p < scorer.n_pairs(); ++p) {
      const AblatedPair& pair = scorer.pair(p);
      const std::vector<float> change = stream_change(scorer, p, source),
                               everywhere = change_at(scorer, p, source, all_tokens(pair));
      Dice dice(seed, "edge controls " + node_name(source) + " " + std::to_string(p));
      for (int64_t draw = 0; draw < 2 * draws; ++draw) {
        std::vector<float> other =
            draw % 2 == 0 ? of_other_tokens(everywhere, d_model, dice) : random_of_length(change, d_model, dice);
        if (draw % 2 == 0) keep_rows(other, d_model, pair.tokens_of(source));
        const std::string name = "control " + std::to_string(seed) + " " + std::to_string(draw) + " ";
        const std::vector<double> found = scorer.known_or(name + names_of(p, source, to), [&] {
          return numbers_of(respond_and_go_on(scorer, p, source, other, to));
        });
        for (size_t i = 0; i < own.size(); ++i) {
          edges[own[i]].control_feeds.push_back(std::fabs(found[3 * i]));
          edges[own[i]].control_selects.push_back(std::fabs(found[3 * i + 1]));
        }
      }
    }
  });
}

}  // namespace signalbox::eval
