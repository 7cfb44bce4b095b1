#include "eval/causal/direct_edges.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"

namespace signalbox::eval {

using namespace engine;
using namespace probes;

namespace {

using Kind = CausalNode::Kind;

std::vector<float> copied(std::span<const float> row) { return {row.begin(), row.end()}; }

// The rows [n, width] from the second on, each minus the first; the first is the base run's.
std::vector<std::vector<float>> minus_first(const std::vector<float>& rows, size_t width, size_t first = 0,
                                            size_t count = SIZE_MAX) {
  count = std::min(count, width);
  std::vector<std::vector<float>> out;
  for (size_t row = 1; row < rows.size() / width; ++row) {
    std::vector<float>& to = out.emplace_back(count);
    for (size_t c = 0; c < count; ++c) to[c] = rows[row * width + first + c] - rows[first + c];
  }
  return out;
}

bool receives_at_mid(Kind kind) {
  return kind == Kind::router || kind == Kind::expert || kind == Kind::shared || kind == Kind::dense;
}

}  // namespace

std::string DirectEdges::globs(const ModelShape& shape) {
  std::string globs = "embed,*.resid_in,*.resid_mid,*.attn.z,*.router.ids,*.router.weights,*.router.logits";
  bool dense = false, shared = false;
  for (int32_t l = 0; l < shape.n_layers(); ++l) {
    const LayerShape& layer = shape.layers[static_cast<size_t>(l)];
    dense = dense || !layer.moe;
    shared = shared || layer.shared;
  }
  globs += ",*.expert.contribution," + point_name(Point::resid_out, shape.n_layers() - 1);
  if (dense) globs += ",*.mlp.out";
  if (shared) globs += ",*.shared.out";
  return globs;
}

DirectEdges::DirectEdges(const Session& session, std::shared_ptr<const ActivationStore> base,
                         std::shared_ptr<const ActivationStore> other, std::span<const std::array<int32_t, 2>> map)
    : session_(session),
      base_(std::move(base)),
      other_(std::move(other)),
      other_of_(static_cast<size_t>(base_->n_tokens()), -1),
      receivers_(*session.backend, session.model, session.weights) {
  for (const std::array<int32_t, 2>& entry : map) other_of_.at(static_cast<size_t>(entry[0])) = entry[1];
}

// What each sender of an earlier stage adds to the stream at a position of a run.
DirectEdges::Parts DirectEdges::parts(const ActivationStore& run, int32_t position, int32_t stage) {
  Parts found;
  const auto n_layers = session_.shape.n_layers();
  const auto add = [&](CausalNode node, std::vector<float> row) { found.push_back({node, std::move(row)}); };
  if (stage > 0) add({Kind::embed, -1, -1}, copied(run.row(Point::embed, -1, 0, position)));
  const auto d = static_cast<size_t>(session_.model.d_model);
  for (int32_t l = 0; l < n_layers; ++l) {
    const LayerShape& layer = session_.shape.layers[static_cast<size_t>(l)];
    if (stage > 2 * l + 1) {
      const std::span<const float> z = run.row(Point::attn_z, l, 0, position);
      const auto n_heads = static_cast<size_t>(layer.attention.n_heads), width = z.size() / n_heads;
      std::vector<float> apart(n_heads * z.size(), 0.f);
      for (size_t h = 0; h < n_heads; ++h)
        std::copy_n(z.begin() + static_cast<ptrdiff_t>(h * width), width,
                    apart.begin() + static_cast<ptrdiff_t>(h * z.size() + h * width));
      const std::vector<float> rows = receivers_.attention_output(l, apart);
      for (size_t h = 0; h < n_heads; ++h)
        add({Kind::head, l, static_cast<int32_t>(h)}, copied(std::span(rows).subspan(h * d, d)));
    }
    if (stage <= 2 * l + 2) break;
    if (!layer.moe) {
      add({Kind::dense, l, -1}, copied(run.row(Point::mlp_out, l, 0, position)));
      continue;
    }
    // Contributions stand by ascending expert id, unused slots last.
    const auto place = static_cast<size_t>(*run.layer_index(l)), k = static_cast<size_t>(run.n_slots());
    const std::vector<int32_t> ids = run.ids({position, position + 1});
    std::vector<int32_t> route(ids.begin() + static_cast<ptrdiff_t>(place * k),
                               ids.begin() + static_cast<ptrdiff_t>((place + 1) * k));
    std::erase(route, -1);
    std::sort(route.begin(), route.end());
    const std::span<const float> contributions = run.row(Point::expert_contribution, l, 0, position);
    for (size_t i = 0; i < route.size(); ++i) add({Kind::expert, l, route[i]}, copied(contributions.subspan(i * d, d)));
    if (layer.shared) add({Kind::shared, l, -1}, copied(run.row(Point::shared_out, l, 0, position)));
  }
  return found;
}

std::vector<DirectEdges::Change> DirectEdges::changes(int32_t position, const CausalNode& receiver) {
  if (!receiver.receives())
    throw Error(node_name(receiver), "expected a node that reads the residual stream, found one that does not");
  const int32_t other = other_of_.at(static_cast<size_t>(position));
  if (other < 0) return {};
  const int32_t n_layers = session_.shape.n_layers(), stage = node_stage(receiver, n_layers);
  Parts was = parts(*base_, position, stage), is = parts(*other_, other, stage);
  // Both are in order of execution, experts by id, so that those of one run alone fall into place.
  const auto before = [&](const Change& a, const Change& b) {
    return std::tuple(node_stage(a.sender, n_layers), a.sender.kind, a.sender.index) <
           std::tuple(node_stage(b.sender, n_layers), b.sender.kind, b.sender.index);
  };
  std::vector<Change> found;
  for (size_t i = 0, j = 0; i < was.size() || j < is.size();) {
    const bool in_base = j == is.size() || (i < was.size() && !before(is[j], was[i])),
               in_other = i == was.size() || (j < is.size() && !before(was[i], is[j]));
    Change change = in_other ? std::move(is[j]) : Change{was[i].sender, std::vector<float>(was[i].delta.size(), 0.f)};
    if (in_base)
      for (size_t c = 0; c < change.delta.size(); ++c) change.delta[c] -= was[i].delta[c];
    i += in_base;
    j += in_other;
    if (std::any_of(change.delta.begin(), change.delta.end(), [](float x) { return x != 0; }))
      found.push_back(std::move(change));
  }
  return found;
}

// The base run's stream, and with each change added: [1 + changes, d_model].
std::vector<float> DirectEdges::streams(Point point, int32_t layer, int32_t position,
                                        std::span<const Change> changes) const {
  const std::span<const float> base = base_->row(point, layer, 0, position);
  std::vector<float> rows = copied(base);
  rows.reserve(rows.size() * (changes.size() + 1));
  for (const Change& change : changes)
    for (size_t c = 0; c < base.size(); ++c) rows.push_back(base[c] + change.delta[c]);
  return rows;
}

std::vector<DirectEdges::RouterEdge> DirectEdges::router(int32_t layer, int32_t position,
                                                         std::span<const Change> changes) {
  const Receivers::Routes routes = receivers_.routes(layer, streams(Point::resid_mid, layer, position, changes));
  const auto k = static_cast<size_t>(routes.n_slots), n_experts = routes.logits.size() / (changes.size() + 1);
  const auto by_expert = [&](size_t row) {
    std::vector<float> weights(n_experts, 0.f);
    for (size_t i = row * k; i < (row + 1) * k; ++i)
      if (routes.ids[i] >= 0) weights[static_cast<size_t>(routes.ids[i])] = routes.weights[i];
    return weights;
  };
  const auto selected = [&](size_t row) {
    std::vector<int32_t> ids(routes.ids.begin() + static_cast<ptrdiff_t>(row * k),
                             routes.ids.begin() + static_cast<ptrdiff_t>((row + 1) * k));
    std::sort(ids.begin(), ids.end());
    return ids;
  };
  const std::vector<float> base_weights = by_expert(0);
  const std::vector<int32_t> base_ids = selected(0);
  std::vector<std::vector<float>> logits = minus_first(routes.logits, n_experts);
  std::vector<RouterEdge> edges(changes.size());
  for (size_t i = 0; i < changes.size(); ++i) {
    RouterEdge& edge = edges[i];
    edge.logits = std::move(logits[i]);
    edge.weights = by_expert(i + 1);
    for (size_t e = 0; e < n_experts; ++e) edge.weights[e] -= base_weights[e];
    const std::vector<int32_t> ids = selected(i + 1);
    std::set_difference(ids.begin(), ids.end(), base_ids.begin(), base_ids.end(), std::back_inserter(edge.entered));
    std::set_difference(base_ids.begin(), base_ids.end(), ids.begin(), ids.end(), std::back_inserter(edge.left));
    edge.route.assign(routes.ids.begin() + static_cast<ptrdiff_t>((i + 1) * k),
                      routes.ids.begin() + static_cast<ptrdiff_t>((i + 2) * k));
    edge.route_weights.assign(routes.weights.begin() + static_cast<ptrdiff_t>((i + 1) * k),
                              routes.weights.begin() + static_cast<ptrdiff_t>((i + 2) * k));
  }
  return edges;
}

std::vector<std::vector<float>> DirectEdges::content(const CausalNode& receiver, int32_t position,
                                                     std::span<const Change> changes) {
  const auto d = static_cast<size_t>(session_.model.d_model);
  const int32_t l = receiver.layer;
  if (receives_at_mid(receiver.kind) && receiver.kind != Kind::router) {
    const std::vector<float> rows = streams(Point::resid_mid, l, position, changes);
    if (receiver.kind == Kind::shared) return minus_first(receivers_.shared(l, rows), d);
    if (receiver.kind == Kind::dense) return minus_first(receivers_.dense(l, rows), d);
    const auto place = static_cast<size_t>(*base_->layer_index(l)), k = static_cast<size_t>(base_->n_slots());
    const std::vector<int32_t> ids = base_->ids({position, position + 1});
    const std::span<const float> weights = base_->row(Point::router_weights, l, 0, position);
    for (size_t i = 0; i < k; ++i) {
      if (ids[place * k + i] != receiver.index) continue;
      const std::vector<int32_t> held(changes.size() + 1, receiver.index);
      const std::vector<float> held_weights(changes.size() + 1, weights[i]);
      return minus_first(receivers_.experts(l, rows, held, held_weights, 1), d);
    }
    return std::vector<std::vector<float>>(changes.size(), std::vector<float>(d, 0.f));
  }
  if (receiver.kind != Kind::query && receiver.kind != Kind::key && receiver.kind != Kind::value)
    throw Error(node_name(receiver), "expected an expert, a shared expert, a dense block, a query, a key or a value");
  const std::vector<int32_t> positions(changes.size() + 1, position);
  const Receivers::Heads heads = receivers_.heads(l, streams(Point::resid_in, l, position, changes), positions);
  const AttentionShape& shape = session_.shape.layers[static_cast<size_t>(l)].attention;
  const auto head = static_cast<size_t>(receiver.index), d_key = static_cast<size_t>(shape.d_key),
             d_value = static_cast<size_t>(shape.d_value), n_heads = static_cast<size_t>(shape.n_heads),
             n_kv_heads = static_cast<size_t>(shape.n_kv_heads);
  if (receiver.kind == Kind::query) return minus_first(heads.q, n_heads * d_key, head * d_key, d_key);
  if (receiver.kind == Kind::key) return minus_first(heads.k, n_kv_heads * d_key, head * d_key, d_key);
  return minus_first(heads.v, n_kv_heads * d_value, head * d_value, d_value);
}

std::vector<std::vector<float>> DirectEdges::logits(int32_t position, std::span<const int32_t> tokens,
                                                    std::span<const Change> changes) {
  const int32_t last = session_.shape.n_layers() - 1;
  return minus_first(receivers_.logits(streams(Point::resid_out, last, position, changes), tokens), tokens.size());
}

DirectEdges::RouteShares DirectEdges::route_shares(int32_t layer, int32_t position) {
  const int32_t stage = node_stage({Kind::router, layer, -1}, session_.shape.n_layers());
  const std::span<const float> stream = base_->row(Point::resid_mid, layer, 0, position);
  double squares = 0;
  for (const float x : stream) squares += static_cast<double>(x) * static_cast<double>(x);
  const double divisor =
      std::sqrt(squares / static_cast<double>(stream.size()) + static_cast<double>(session_.model.norm_eps));
  const Parts made = parts(*base_, position, stage);
  std::vector<float> rows;
  for (const Change& part : made) rows.insert(rows.end(), part.delta.begin(), part.delta.end());
  // Biases of the attention outputs so far, as one part.
  std::vector<float> biases(stream.size(), 0.f);
  for (int32_t l = 0; l <= layer; ++l) {
    const std::vector<float> bias = receivers_.attention_bias(l);
    for (size_t c = 0; c < bias.size(); ++c) biases[c] += bias[c];
  }
  rows.insert(rows.end(), biases.begin(), biases.end());
  const std::vector<float> shares = receivers_.router_shares(layer, rows, divisor);
  const size_t n_experts = shares.size() / (made.size() + 1);
  RouteShares out;
  for (size_t i = 0; i < made.size(); ++i)
    out.parts.push_back({made[i].sender, copied(std::span(shares).subspan(i * n_experts, n_experts))});
  out.rest = copied(std::span(shares).subspan(made.size() * n_experts, n_experts));
  const std::vector<float> bias = receivers_.router_bias(layer);
  for (size_t e = 0; e < bias.size(); ++e) out.rest[e] += bias[e];
  out.total = copied(base_->row(Point::router_logits, layer, 0, position).first(n_experts));
  std::vector<int32_t> order(n_experts);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return out.total[static_cast<size_t>(a)] > out.total[static_cast<size_t>(b)];
  });
  const auto k = static_cast<size_t>(session_.shape.layers[static_cast<size_t>(layer)].n_active);
  out.last_in = order[k - 1];
  if (k < n_experts) out.first_out = order[k];
  return out;
}

}  // namespace signalbox::eval
