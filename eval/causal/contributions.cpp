#include "eval/causal/contributions.h"

#include <algorithm>

#include "base/error.h"

namespace signalbox::eval {

using namespace engine;
using namespace kernels;
using namespace probes;

namespace {

using Kind = CausalNode::Kind;

}  // namespace

CausalNode receiver_of(Reader reader, int32_t layer, int32_t unit) {
  switch (reader) {
    case Reader::query: return {Kind::query, layer, unit};
    case Reader::key: return {Kind::key, layer, unit};
    case Reader::value: return {Kind::value, layer, unit};
    case Reader::router: return {Kind::router, layer, -1};
    case Reader::expert: return {Kind::expert, layer, unit};
    case Reader::shared: return {Kind::shared, layer, -1};
    case Reader::dense: return {Kind::dense, layer, -1};
    case Reader::logits: break;
  }
  return {Kind::logits, -1, -1};
}

PointAt writing_point(int32_t stage, const ModelShape& shape) {
  if (stage == 0) return {Point::embed, -1};
  const int32_t layer = (stage - 1) / 2;
  if (stage % 2 == 1) return {Point::attn_out, layer};
  return {shape.layers[static_cast<size_t>(layer)].moe ? Point::moe_out : Point::mlp_out, layer};
}

std::string Contributions::points(const ModelShape& shape) {
  std::string globs = "embed,*.attn.z";
  for (int32_t l = 0; l < shape.n_layers(); ++l) {
    const LayerShape& layer = shape.layers[static_cast<size_t>(l)];
    const auto add = [&](Point point) { globs += "," + point_name(point, l); };
    if (layer.moe) {
      add(Point::router_ids);
      add(Point::expert_contribution);
    } else {
      add(Point::mlp_out);
    }
    if (layer.shared) add(Point::shared_out);
  }
  return globs;
}

Contributions::Contributions(const Session& session, const ActivationStore& store, int64_t sample)
    : d_model_(session.model.d_model), layers_(session.model.layers.size()) {
  const auto all = store.rows(sample);
  n_tokens_ = static_cast<int64_t>(store.positions(all).size());
  embed_ = store.floats("embed", all);
  const std::vector<int32_t> ids = store.n_slots() > 0 ? store.ids(all) : std::vector<int32_t>();
  const auto n_routed = static_cast<int64_t>(store.layers().size());
  for (size_t l = 0; l < layers_.size(); ++l) {
    Layer& to = layers_[l];
    const auto index = static_cast<int32_t>(l);
    const engine::Layer& layer = session.model.layers[l];
    add_heads(session, index, store.floats(point_name(Point::attn_z, index), all));
    const Moe* moe = layer.moe();
    if (!moe) {
      to.mlp = store.floats(point_name(Point::mlp_out, index), all);
      continue;
    }
    const int64_t place = std::find(store.layers().begin(), store.layers().end(), index) - store.layers().begin();
    to.n_slots = store.n_slots();
    to.experts = store.floats(point_name(Point::expert_contribution, index), all);
    for (int64_t t = 0; t < n_tokens_; ++t) {
      const auto from = ids.begin() + (t * n_routed + place) * to.n_slots;
      std::vector<int32_t> route(from, from + to.n_slots);
      // Contributions stand by ascending expert, unused slots last.
      const auto end = std::remove(route.begin(), route.end(), -1);
      std::sort(route.begin(), end);
      to.used.push_back(static_cast<int32_t>(end - route.begin()));
      std::fill(end, route.end(), -1);
      to.ids.insert(to.ids.end(), route.begin(), route.end());
    }
    if (moe->d_ff_shared > 0) to.shared = store.floats(point_name(Point::shared_out, index), all);
  }
}

// Each head's columns of the output projection, and the bias.
void Contributions::add_heads(const Session& session, int64_t l, const std::vector<float>& z) {
  Backend& backend = *session.backend;
  const LayerWeights& weights = session.weights.layers[static_cast<size_t>(l)];
  Layer& to = layers_[static_cast<size_t>(l)];
  const bool latent = std::holds_alternative<MlaWeights>(weights.attention);
  const Matrix& o = latent ? std::get<MlaWeights>(weights.attention).o : std::get<GqaWeights>(weights.attention).o;
  const Vector bias =
      latent ? std::get<MlaWeights>(weights.attention).o_bias : std::get<GqaWeights>(weights.attention).o_bias;
  to.n_heads = session.shape.layers[static_cast<size_t>(l)].attention.n_heads;
  const int64_t d_z = o.cols / to.n_heads;
  const auto read = backend.allocate(z.size() * sizeof(float)),
             made = backend.allocate(static_cast<size_t>(n_tokens_ * d_model_) * sizeof(float));
  backend.upload(read.get(), z.data(), z.size() * sizeof(float));
  const Tensor rows(static_cast<float*>(read.get()), n_tokens_, o.cols),
      out(static_cast<float*>(made.get()), n_tokens_, d_model_);
  to.heads.resize(static_cast<size_t>(to.n_heads * n_tokens_ * d_model_));
  for (int64_t h = 0; h < to.n_heads; ++h) {
    backend.matmul(out, rows.columns(h * d_z, d_z), matrix_columns(o, h * d_z, d_z), {});
    backend.download(to.heads.data() + h * n_tokens_ * d_model_, out.data,
                     static_cast<size_t>(n_tokens_ * d_model_) * sizeof(float));
  }
  if (!bias) return;
  to.bias.resize(static_cast<size_t>(d_model_));
  backend.download(to.bias.data(), bias.data, to.bias.size() * sizeof(float));
}

std::span<const int32_t> Contributions::experts(int64_t layer, int64_t token) const {
  const Layer& from = layers_[static_cast<size_t>(layer)];
  if (from.ids.empty()) return {};
  return std::span(from.ids).subspan(static_cast<size_t>(token * from.n_slots),
                                     static_cast<size_t>(from.used[static_cast<size_t>(token)]));
}

const float* Contributions::at(const CausalNode& node, int64_t token) const {
  if (node.kind == Kind::embed) return row(embed_, token);
  const Layer& from = layers_[static_cast<size_t>(node.layer)];
  switch (node.kind) {
    case Kind::head: return row(from.heads, node.index * n_tokens_ + token);
    case Kind::attention_bias: return row(from.bias, 0);
    case Kind::shared: return row(from.shared, token);
    case Kind::dense: return row(from.mlp, token);
    default: break;
  }
  const std::span<const int32_t> route = experts(node.layer, token);
  const auto found = std::lower_bound(route.begin(), route.end(), node.index);
  if (found == route.end() || *found != node.index) return nullptr;
  return row(from.experts, token * from.n_slots + (found - route.begin()));
}

void Contributions::each(int32_t stage, int64_t token, const Visit& visit) const {
  if (stage == 0) return visit(CausalNode{}, row(embed_, token));
  const int32_t l = (stage - 1) / 2;
  const Layer& from = layers_[static_cast<size_t>(l)];
  if (stage % 2 == 1) {
    for (int32_t h = 0; h < from.n_heads; ++h) visit({Kind::head, l, h}, row(from.heads, h * n_tokens_ + token));
    if (!from.bias.empty()) visit({Kind::attention_bias, l, -1}, from.bias.data());
    return;
  }
  const std::span<const int32_t> route = experts(l, token);
  for (size_t i = 0; i < route.size(); ++i)
    visit({Kind::expert, l, route[i]}, row(from.experts, token * from.n_slots + static_cast<int64_t>(i)));
  if (!from.shared.empty()) visit({Kind::shared, l, -1}, row(from.shared, token));
  if (!from.mlp.empty()) visit({Kind::dense, l, -1}, row(from.mlp, token));
}

void NodeMeans::add(const Contributions& run, int64_t n_layers) {
  const auto d = static_cast<size_t>(run.d_model());
  for (int32_t stage = 0; stage < n_stages(n_layers); ++stage) {
    for (int64_t t = 0; t < run.n_tokens(); ++t) {
      run.each(stage, t, [&](const CausalNode& node, const float* c) {
        Sum& sum = sums_[node];
        sum.mean.resize(d);
        for (size_t i = 0; i < d; ++i) sum.mean[i] += static_cast<double>(c[i]);
        ++sum.n;
      });
    }
  }
}

void NodeMeans::finish() {
  for (auto& [node, sum] : sums_)
    for (double& x : sum.mean) x /= static_cast<double>(sum.n);
}

const std::vector<double>* NodeMeans::of(const CausalNode& node) const {
  const auto found = sums_.find(node);
  return found == sums_.end() ? nullptr : &found->second.mean;
}

void NodeChanges::fill(const std::function<void(int32_t, int64_t, const Put&)>& rows) {
  const auto d = static_cast<size_t>(d_model_);
  for (int32_t s = 0; s < n_stages(); ++s) {
    Stage& to = stages_[static_cast<size_t>(s)];
    for (int64_t t = 0; t < n_tokens_; ++t) {
      to.first.push_back(to.changes.size());
      rows(s, t, [&](const CausalNode& node, const float* was, const float* is) {
        to.changes.push_back({node, nullptr});
        for (size_t i = 0; i < d; ++i) to.rows.push_back((is ? is[i] : 0.f) - (was ? was[i] : 0.f));
      });
    }
    to.first.push_back(to.changes.size());
    for (size_t i = 0; i < to.changes.size(); ++i) to.changes[i].by = to.rows.data() + i * d;
  }
}

NodeChanges NodeChanges::between(const Contributions& here, const Contributions& there,
                                 std::span<const std::array<int32_t, 2>> map, int64_t n_layers) {
  NodeChanges changes(here, n_layers);
  std::vector<int64_t> other(static_cast<size_t>(here.n_tokens()), -1);
  for (const auto& [position, of_there] : map) other[static_cast<size_t>(position)] = of_there;
  changes.fill([&](int32_t stage, int64_t token, const Put& put) {
    const int64_t its = other[static_cast<size_t>(token)];
    if (its < 0) return;
    std::map<CausalNode, std::pair<const float*, const float*>, NodeOrder> both;
    here.each(stage, token, [&](const CausalNode& node, const float* c) { both[node].first = c; });
    there.each(stage, its, [&](const CausalNode& node, const float* c) { both[node].second = c; });
    for (const auto& [node, rows] : both) put(node, rows.first, rows.second);
  });
  return changes;
}

NodeChanges NodeChanges::to_zero(const Contributions& here, int64_t n_layers) {
  NodeChanges changes(here, n_layers);
  changes.fill([&](int32_t stage, int64_t token, const Put& put) {
    here.each(stage, token, [&](const CausalNode& node, const float* c) { put(node, c, nullptr); });
  });
  return changes;
}

NodeChanges NodeChanges::to_mean(const Contributions& here, const NodeMeans& means, int64_t n_layers) {
  NodeChanges changes(here, n_layers);
  std::vector<float> mean(static_cast<size_t>(here.d_model()));
  changes.fill([&](int32_t stage, int64_t token, const Put& put) {
    here.each(stage, token, [&](const CausalNode& node, const float* c) {
      const std::vector<double>* found = means.of(node);
      if (!found) throw Error("--reference", "expected tokens that have " + node_name(node) + ", found none");
      std::transform(found->begin(), found->end(), mean.begin(), [](double x) { return static_cast<float>(x); });
      put(node, c, mean.data());
    });
  });
  return changes;
}

std::span<const NodeChanges::Change> NodeChanges::at(int32_t stage, int64_t token) const {
  const Stage& from = stages_[static_cast<size_t>(stage)];
  const size_t first = from.first[static_cast<size_t>(token)];
  return std::span(from.changes).subspan(first, from.first[static_cast<size_t>(token) + 1] - first);
}

}  // namespace signalbox::eval
