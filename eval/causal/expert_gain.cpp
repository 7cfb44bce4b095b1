#include "eval/causal/expert_gain.h"

#include <algorithm>

#include "eval/causal/edges.h"

namespace signalbox::eval {

using namespace engine;
using namespace kernels;
using namespace probes;

namespace {

template <class T>
std::shared_ptr<void> uploaded(Backend& backend, const std::vector<T>& values) {
  const auto memory = backend.allocate(std::max<size_t>(1, values.size()) * sizeof(T));
  backend.upload(memory.get(), values.data(), values.size() * sizeof(T));
  return memory;
}

Tensor tensor_at(const std::shared_ptr<void>& memory, int64_t rows, int64_t cols) {
  return Tensor(static_cast<float*>(memory.get()), rows, cols);
}

// f_e(h) of every expert: [n_tokens, n_experts, d_model].
std::vector<float> outputs_of(const Session& session, const MoeWeights& weights, const Moe& moe,
                              const std::vector<float>& read) {
  Backend& backend = *session.backend;
  const int64_t d_model = session.model.d_model, n = static_cast<int64_t>(read.size()) / d_model;
  const int32_t count = moe.router.n_experts;
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < n; ++t)
    for (int32_t e = 0; e < count; ++e) ids.push_back(e);
  const auto id_memory = uploaded(backend, ids), read_memory = uploaded(backend, read);
  Route route;
  route.n_slots = count;
  route.ids = static_cast<int32_t*>(id_memory.get());
  const auto hidden = backend.allocate(static_cast<size_t>(n * count * moe.d_ff) * sizeof(float)),
             made = backend.allocate(static_cast<size_t>(n * count * d_model) * sizeof(float));
  const ExpertMatrices experts = weights.experts();
  backend.experts_hidden(tensor_at(hidden, n * count, moe.d_ff), tensor_at(read_memory, n, d_model), route, n, experts,
                         session.model.activation, nullptr);
  backend.experts_out(tensor_at(made, n * count, d_model), tensor_at(hidden, n * count, moe.d_ff), route, n, experts);
  std::vector<float> out(static_cast<size_t>(n * count * d_model));
  backend.download(out.data(), made.get(), out.size() * sizeof(float));
  return out;
}

// The model's route for `logits` [rows, n_experts], row r under the edit of programs[of_row[r]].
struct Routed {
  std::vector<int32_t> ids;    // [rows, n_active]
  std::vector<float> weights;  // likewise
};
Routed route_rows(const Session& session, const MoeWeights& weights, const Router& router, int32_t layer,
                  const std::vector<float>& logits, const std::vector<RouterProgram>& programs,
                  const std::vector<int32_t>& of_row) {
  Backend& backend = *session.backend;
  const size_t rows = of_row.size(), k = static_cast<size_t>(router.n_active);
  const auto z = uploaded(backend, logits), ids = uploaded(backend, std::vector<int32_t>(rows * k)),
             w = uploaded(backend, std::vector<float>(rows * k)), margin = uploaded(backend, std::vector<float>(rows)),
             active = uploaded(backend, std::vector<uint8_t>(rows, 1)), sequences = uploaded(backend, of_row),
             faults = uploaded(backend, std::vector<uint64_t>(programs.size(), no_fault));
  Route route;
  route.n_slots = router.n_active;
  route.ids = static_cast<int32_t*>(ids.get());
  route.weights = static_cast<float*>(w.get());
  route.margin = static_cast<float*>(margin.get());
  route.faults = static_cast<uint64_t*>(faults.get());
  RouteBatch batch;
  batch.n_tokens = static_cast<int64_t>(rows);
  batch.sequences = static_cast<const int32_t*>(sequences.get());
  batch.programs = programs.data();
  batch.active = static_cast<const uint8_t*>(active.get());
  batch.n_edits = 1;
  batch.layer = layer;
  backend.route(route, tensor_at(z, batch.n_tokens, router.n_experts), {}, weights.router, nullptr, router,
                weights.selection_bias.data, batch);
  Routed found{std::vector<int32_t>(rows * k), std::vector<float>(rows * k)};
  backend.download(found.ids.data(), ids.get(), found.ids.size() * sizeof(int32_t));
  backend.download(found.weights.data(), w.get(), found.weights.size() * sizeof(float));
  return found;
}

}  // namespace

const char* gain_points() { return "*.expert.in,*.router.logits,*.router.ids,*.router.weights"; }
const char* gain_slopes() { return "*.moe.out"; }

LayerGains expert_gains(const Session& session, const ActivationStore& values, const ActivationStore& slopes,
                        int32_t layer, int64_t first_token, int64_t count) {
  const Moe& moe = *session.model.layers[static_cast<size_t>(layer)].moe();
  const auto& weights = std::get<MoeWeights>(session.weights.layers[static_cast<size_t>(layer)].ffn);
  const Router& router = moe.router;
  const auto d = static_cast<size_t>(session.model.d_model), n_experts = static_cast<size_t>(router.n_experts),
             k = static_cast<size_t>(router.n_active);
  const Recording::Rows tokens{first_token, first_token + count};
  const std::vector<float> read = values.floats(point_name(Point::expert_in, layer), tokens),
                           slope = slopes.floats(point_name(Point::moe_out, layer), tokens),
                           logits = values.floats("router.logits", tokens), w = values.floats("router.weights", tokens);
  const std::vector<int32_t> ids = values.ids(tokens);
  const size_t n = read.size() / d, n_layers = values.layers().size(), n_slots = static_cast<size_t>(values.n_slots()),
               width = logits.size() / (n * n_layers),
               place = static_cast<size_t>(std::find(values.layers().begin(), values.layers().end(), layer) -
                                           values.layers().begin());
  LayerGains found;
  found.n_experts = router.n_experts;
  found.gains.resize(n * n_experts);
  found.routes.resize(n);
  const std::vector<float> outputs = outputs_of(session, weights, moe, read);
  for (size_t t = 0; t < n; ++t)
    for (size_t e = 0; e < n_experts; ++e)
      found.gains[t * n_experts + e] = dot_rows(outputs.data() + (t * n_experts + e) * d, slope.data() + t * d, d);
  for (size_t t = 0; t < n; ++t) {
    const auto first = static_cast<std::ptrdiff_t>((t * n_layers + place) * n_slots);
    found.ids.emplace_back(ids.begin() + first, ids.begin() + first + static_cast<std::ptrdiff_t>(k));
    found.weights.emplace_back(w.begin() + first, w.begin() + first + static_cast<std::ptrdiff_t>(k));
  }
  // Programs: without expert e, then with it.
  std::vector<int32_t> listed(n_experts);
  for (size_t e = 0; e < n_experts; ++e) listed[e] = static_cast<int32_t>(e);
  std::vector<RouterStep> steps(2 * n_experts);
  std::vector<RouterProgram> programs(2 * n_experts);
  for (size_t i = 0; i < steps.size(); ++i) {
    steps[i].op = i < n_experts ? EditOp::ban : EditOp::force;
    steps[i].experts = &listed[i % n_experts];
    steps[i].n_listed = 1;
    programs[i] = {&steps[i], 1};
  }
  std::vector<float> rows;
  std::vector<int32_t> of_row;
  for (size_t t = 0; t < n; ++t) {
    std::vector<int32_t> chosen = found.ids[t];
    std::sort(chosen.begin(), chosen.end());
    if (k < n_experts)  // else nobody can come in
      for (const int32_t e : chosen) found.routes[t].push_back({false, e, {}, {}, 0, {}});
    for (int32_t e = 0; e < router.n_experts; ++e)
      if (!std::binary_search(chosen.begin(), chosen.end(), e)) found.routes[t].push_back({true, e, {}, {}, 0, {}});
    const auto z = logits.begin() + static_cast<std::ptrdiff_t>((t * n_layers + place) * width);
    for (const OtherRoute& other : found.routes[t]) {
      rows.insert(rows.end(), z, z + static_cast<std::ptrdiff_t>(n_experts));
      of_row.push_back(other.expert + (other.forced ? router.n_experts : 0));
    }
  }
  const Routed routed = route_rows(session, weights, router, layer, rows, programs, of_row);
  size_t row = 0;
  for (size_t t = 0; t < n; ++t) {
    for (OtherRoute& other : found.routes[t]) {
      const auto first = static_cast<std::ptrdiff_t>(row++ * k);
      other.ids.assign(routed.ids.begin() + first, routed.ids.begin() + first + static_cast<std::ptrdiff_t>(k));
      other.weights.assign(routed.weights.begin() + first,
                           routed.weights.begin() + first + static_cast<std::ptrdiff_t>(k));
      std::vector<double> change(d);
      const auto add = [&](const std::vector<int32_t>& experts, const std::vector<float>& by, double sign) {
        for (size_t i = 0; i < experts.size(); ++i) {
          if (experts[i] < 0) continue;
          const auto e = static_cast<size_t>(experts[i]);
          other.effect += sign * static_cast<double>(by[i]) * found.gains[t * n_experts + e];
          const float* out = outputs.data() + (t * n_experts + e) * d;
          for (size_t c = 0; c < d; ++c) change[c] += sign * static_cast<double>(by[i]) * static_cast<double>(out[c]);
        }
      };
      add(other.ids, other.weights, 1);
      add(found.ids[t], found.weights[t], -1);
      other.change.assign(change.begin(), change.end());
    }
  }
  return found;
}

}  // namespace signalbox::eval
