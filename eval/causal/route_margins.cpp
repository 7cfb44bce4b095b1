#include "eval/causal/route_margins.h"

#include <algorithm>
#include <cmath>

#include "eval/causal/contributions.h"

namespace signalbox::eval {

using namespace engine;
using namespace kernels;
using namespace probes;

std::vector<std::vector<int32_t>> routes_of(const ActivationStore& store, int64_t sample, int64_t place) {
  const auto all = store.rows(sample);
  const std::vector<int32_t> ids = store.ids(all);
  const auto n_layers = static_cast<int64_t>(store.layers().size()), n_slots = int64_t{store.n_slots()};
  const int64_t n = static_cast<int64_t>(ids.size()) / (n_layers * n_slots);
  std::vector<std::vector<int32_t>> routes;
  for (int64_t t = 0; t < n; ++t) {
    const auto first = ids.begin() + (t * n_layers + place) * n_slots;
    std::vector<int32_t>& route = routes.emplace_back(first, first + n_slots);
    route.erase(std::remove(route.begin(), route.end(), -1), route.end());
    std::sort(route.begin(), route.end());
  }
  return routes;
}

std::string RouteMargins::points() { return "*.resid_mid,*.router.logits,*.router.ids"; }

RouteMargins::RouteMargins(const Session& session, const ActivationStore& store, int64_t sample) : session_(session) {
  const auto all = store.rows(sample);
  const std::vector<float> logits = store.floats("router.logits", all);
  const auto n_layers = static_cast<int64_t>(store.layers().size());
  for (int64_t i = 0; i < n_layers; ++i) {
    Layer& to = layers_.emplace_back();
    to.index = store.layers()[static_cast<size_t>(i)];
    to.stream = store.floats(point_name(Point::resid_mid, to.index), all);
    to.routes = routes_of(store, sample, i);
    const auto n = static_cast<int64_t>(to.routes.size());
    const int64_t width = static_cast<int64_t>(logits.size()) / (n * n_layers);  // of the layer with most experts
    const int64_t n_experts = session.model.layers[static_cast<size_t>(to.index)].moe()->router.n_experts;
    for (int64_t t = 0; t < n; ++t) {
      const auto row = logits.begin() + (t * n_layers + i) * width;
      to.logits.insert(to.logits.end(), row, row + n_experts);
    }
    to.gamma.resize(static_cast<size_t>(session.model.d_model));
    session.backend->download(to.gamma.data(), session.weights.layers[static_cast<size_t>(to.index)].ffn_norm.data,
                              to.gamma.size() * sizeof(float));
  }
}

std::vector<RouteFlips> RouteMargins::flips(const std::vector<Change>& changes) const {
  constexpr size_t rows_at_once = 512;
  std::vector<RouteFlips> found(changes.size());
  for (const Layer& layer : layers_) {
    const int32_t stage = node_stage({CausalNode::Kind::router, layer.index, -1}, session_.shape.n_layers());
    std::vector<const Change*> part;
    std::vector<RouteFlips*> to;
    for (size_t i = 0; i < changes.size(); ++i) {
      if (changes[i].stage < stage) {
        part.push_back(&changes[i]);
        to.push_back(&found[i]);
      }
      if (part.size() == rows_at_once || (i + 1 == changes.size() && !part.empty())) {
        count(layer, part, to);
        part.clear();
        to.clear();
      }
    }
  }
  return found;
}

void RouteMargins::count(const Layer& layer, const std::vector<const Change*>& changes,
                         const std::vector<RouteFlips*>& to) const {
  Backend& backend = *session_.backend;
  const auto& weights = std::get<MoeWeights>(session_.weights.layers[static_cast<size_t>(layer.index)].ffn);
  const Router& router = session_.model.layers[static_cast<size_t>(layer.index)].moe()->router;
  const auto n = static_cast<int64_t>(changes.size());
  const auto d = static_cast<size_t>(session_.model.d_model), n_experts = static_cast<size_t>(router.n_experts);
  std::vector<float> rows(changes.size() * d), logits(changes.size() * n_experts);
  for (size_t i = 0; i < changes.size(); ++i) {
    const float* x = layer.stream.data() + static_cast<size_t>(changes[i]->token) * d;
    const float* by = changes[i]->by;
    double squares = 0, along = 0;
    for (size_t c = 0; c < d; ++c) {
      squares += static_cast<double>(x[c]) * x[c];
      along += static_cast<double>(x[c]) * by[c];
    }
    const double square = squares / static_cast<double>(d) + static_cast<double>(session_.model.norm_eps),
                 inverse = 1 / std::sqrt(square), pull = along / (static_cast<double>(d) * square);
    for (size_t c = 0; c < d; ++c)
      rows[i * d + c] = static_cast<float>(layer.gamma[c] * inverse * (by[c] - x[c] * pull));
  }
  const auto row_memory = backend.allocate(rows.size() * sizeof(float)),
             logit_memory = backend.allocate(logits.size() * sizeof(float)),
             id_memory = backend.allocate(changes.size() * static_cast<size_t>(router.n_active) * sizeof(int32_t)),
             weight_memory = backend.allocate(changes.size() * static_cast<size_t>(router.n_active) * sizeof(float)),
             margin_memory = backend.allocate(changes.size() * sizeof(float));
  backend.upload(row_memory.get(), rows.data(), rows.size() * sizeof(float));
  const Tensor z(static_cast<float*>(logit_memory.get()), n, router.n_experts);
  backend.matmul(z, Tensor(static_cast<float*>(row_memory.get()), n, session_.model.d_model), weights.router, {});
  backend.download(logits.data(), z.data, logits.size() * sizeof(float));
  for (size_t i = 0; i < changes.size(); ++i) {
    const float* base = layer.logits.data() + static_cast<size_t>(changes[i]->token) * n_experts;
    for (size_t e = 0; e < n_experts; ++e) logits[i * n_experts + e] += base[e];
  }
  backend.upload(z.data, logits.data(), logits.size() * sizeof(float));
  Route route;
  route.n_slots = router.n_active;
  route.ids = static_cast<int32_t*>(id_memory.get());
  route.weights = static_cast<float*>(weight_memory.get());
  route.margin = static_cast<float*>(margin_memory.get());
  RouteBatch batch;
  batch.n_tokens = n;
  batch.layer = layer.index;
  backend.route(route, z, {}, weights.router, nullptr, router, weights.selection_bias.data, batch);
  std::vector<int32_t> ids(changes.size() * static_cast<size_t>(router.n_active));
  backend.download(ids.data(), route.ids, ids.size() * sizeof(int32_t));
  for (size_t i = 0; i < changes.size(); ++i) {
    const auto first = ids.begin() + static_cast<int64_t>(i) * router.n_active;
    std::vector<int32_t> chosen(first, first + router.n_active);
    std::sort(chosen.begin(), chosen.end());
    ++to[i]->cells;
    to[i]->flipped += chosen != layer.routes[static_cast<size_t>(changes[i]->token)];
  }
}

}  // namespace signalbox::eval
