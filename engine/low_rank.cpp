#include "engine/low_rank.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "base/error.h"

namespace signalbox::engine {

namespace {

uint64_t key_of(const TensorId& id) {
  return static_cast<uint64_t>(id.role) << 56 | static_cast<uint64_t>(id.layer + 1) << 28 |
         static_cast<uint64_t>(id.expert + 1);
}

TensorId place_id(Role role, int64_t layer, int64_t expert = -1) {
  return {role, static_cast<int32_t>(layer), static_cast<int32_t>(expert)};
}

// gate := activate(gate) * up (kernels/params.h).
void activate(Tensor gate, Tensor up, const Activation& activation) {
  const bool clamped = activation.kind == Activation::Kind::clamped;
  for (int64_t r = 0; r < gate.rows; ++r)
    for (int64_t c = 0; c < gate.cols; ++c) {
      float g = gate.row(r)[c], u = up.row(r)[c];
      if (clamped) {
        g = std::min(g, activation.limit);
        u = std::clamp(u, -activation.limit, activation.limit) + 1;
      }
      gate.row(r)[c] = g / (1 + std::exp(-(clamped ? activation.alpha : 1.f) * g)) * u;
    }
}

}  // namespace

// Memory of one call.
struct LowRank::Scratch {
  Backend& backend;
  std::vector<std::shared_ptr<void>> memory;
  Tensor tensor(int64_t rows, int64_t cols) {
    memory.push_back(backend.allocate(std::max<size_t>(4, static_cast<size_t>(rows * cols) * sizeof(float))));
    return Tensor(static_cast<float*>(memory.back().get()), rows, cols);
  }
  Tensor picked(Tensor x, std::span<const int32_t> rows) {
    const Tensor own = tensor(static_cast<int64_t>(rows.size()), x.cols);
    for (size_t i = 0; i < rows.size(); ++i) std::copy_n(x.row(rows[i]), x.cols, own.row(static_cast<int64_t>(i)));
    return own;
  }
};

AdapterSum::AdapterSum(std::vector<ModelAdapter> adapters) : adapters_(std::move(adapters)) {
  for (const ModelAdapter& adapter : adapters_) {
    if (!adapter.whole.empty())
      throw Error(adapter.name, "expected low-rank pairs alone beside the weights, found " +
                                    weight_name(adapter.whole.front().id) + " whole (modules_to_save): merge it");
    for (const AdaptedMatrix& one : adapter.matrices) of_[key_of(one.id)].push_back(&one.adapter);
  }
}

std::span<const Adapter* const> AdapterSum::of(const TensorId& id) const {
  const auto found = of_.find(key_of(id));
  return found == of_.end() ? std::span<const Adapter* const>() : found->second;
}

void LowRank::begin(const Batch& batch) {
  any_ = false;
  groups_.clear();
  of_token_.clear();
  for (const BatchSequence& sequence : batch.members) {
    if (!sequence.adapters) continue;
    if (!any_ && !backend_.shares_host_memory())
      throw Error("adapters", "expected --device cpu for adapters beside the weights, found " + backend_.name());
    any_ = true;
    auto group =
        std::find_if(groups_.begin(), groups_.end(), [&](const Group& one) { return one.sum == sequence.adapters; });
    if (group == groups_.end()) group = groups_.insert(groups_.end(), {sequence.adapters, {}});
    for (int64_t i = 0; i < sequence.n_rows; ++i) group->rows.push_back(static_cast<int32_t>(sequence.first_row + i));
  }
  if (!any_) return;
  of_token_.assign(static_cast<size_t>(batch.n_tokens()), nullptr);
  for (const Group& group : groups_)
    for (const int32_t row : group.rows) of_token_[static_cast<size_t>(row)] = group.sum;
}

bool LowRank::changes(Role role, int64_t layer) const {
  return std::any_of(groups_.begin(), groups_.end(),
                     [&](const Group& group) { return !group.sum->of(place_id(role, layer)).empty(); });
}

void LowRank::add_products(std::span<const Adapter* const> adapters, Tensor out, std::span<const int32_t> rows,
                           Tensor x, std::span<const int32_t> x_rows) const {
  if (adapters.empty() || rows.empty()) return;
  Scratch scratch{backend_, {}};
  const Tensor own = scratch.picked(x, x_rows);
  for (const Adapter* adapter : adapters) {
    const Tensor low = scratch.tensor(own.rows, adapter->a.rows), made = scratch.tensor(own.rows, adapter->b.rows);
    backend_.matmul(low, own, adapter->a, {});
    backend_.matmul(made, low, adapter->b, {});
    for (size_t i = 0; i < rows.size(); ++i) {
      float* to = out.row(rows[i]);
      const float* from = made.row(static_cast<int64_t>(i));
      for (int64_t c = 0; c < out.cols; ++c) to[c] += adapter->scale * from[c];
    }
  }
}

void LowRank::add(Role role, int64_t layer, Tensor out, Tensor x) const {
  for (const Group& group : groups_) add_products(group.sum->of(place_id(role, layer)), out, group.rows, x, group.rows);
}

std::vector<LowRank::Group> LowRank::rows_of(std::span<const int32_t> tokens) const {
  std::vector<Group> found;
  for (const Group& group : groups_) {
    Group own{group.sum, {}};
    for (size_t i = 0; i < tokens.size(); ++i)
      if (of_token_[static_cast<size_t>(tokens[i])] == group.sum) own.rows.push_back(static_cast<int32_t>(i));
    found.push_back(std::move(own));
  }
  return found;
}

void LowRank::add_of_rows(Role role, Tensor out, Tensor x, std::span<const int32_t> tokens) const {
  if (!changes(role, -1)) return;
  for (const Group& group : rows_of(tokens))
    add_products(group.sum->of(place_id(role, -1)), out, group.rows, x, group.rows);
}

// Row t of the table changes by s b[t] a.
void LowRank::add_embedded(Tensor out, std::span<const int32_t> ids) const {
  for (const Group& group : groups_)
    for (const Adapter* adapter : group.sum->of(place_id(Role::embed, -1))) {
      const auto *a = static_cast<const float*>(adapter->a.data), *b = static_cast<const float*>(adapter->b.data);
      const int64_t rank = adapter->a.rows;
      std::vector<float> sum(static_cast<size_t>(out.cols));
      for (const int32_t row : group.rows) {
        std::fill(sum.begin(), sum.end(), 0.f);
        for (int64_t k = 0; k < rank; ++k)
          for (int64_t c = 0; c < out.cols; ++c)
            sum[static_cast<size_t>(c)] += b[ids[static_cast<size_t>(row)] * rank + k] * a[k * out.cols + c];
        for (int64_t c = 0; c < out.cols; ++c) out.row(row)[c] += adapter->scale * sum[static_cast<size_t>(c)];
      }
    }
}

void LowRank::regate(std::span<const Adapter* const> gate, std::span<const Adapter* const> up, Tensor hidden,
                     std::span<const int32_t> rows, Tensor x, std::span<const int32_t> x_rows, const Matrix& w_gate,
                     Vector gate_bias, const Matrix& w_up, Vector up_bias, const Activation& activation) const {
  if ((gate.empty() && up.empty()) || rows.empty()) return;
  Scratch scratch{backend_, {}};
  const Tensor own = scratch.picked(x, x_rows);
  std::vector<int32_t> all(rows.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int32_t>(i);
  const auto product = [&](std::span<const Adapter* const> adapters, const Matrix& w, Vector bias) {
    const Tensor made = scratch.tensor(own.rows, w.rows);
    backend_.matmul(made, own, w, bias);
    add_products(adapters, made, all, own, all);
    return made;
  };
  const Tensor g = product(gate, w_gate, gate_bias), u = product(up, w_up, up_bias);
  activate(g, u, activation);
  for (size_t i = 0; i < rows.size(); ++i)
    std::copy_n(g.row(static_cast<int64_t>(i)), hidden.cols, hidden.row(rows[i]));
}

void LowRank::gated(Role gate, Role up, int64_t layer, Tensor hidden, Tensor x, const Matrix& w_gate,
                    const Matrix& w_up, const Activation& activation) const {
  for (const Group& group : groups_)
    regate(group.sum->of(place_id(gate, layer)), group.sum->of(place_id(up, layer)), hidden, group.rows, x, group.rows,
           w_gate, {}, w_up, {}, activation);
}

std::vector<std::pair<int32_t, std::vector<int32_t>>> LowRank::pairs(const Group& group, const Route& route) {
  std::map<int32_t, std::vector<int32_t>> of;
  for (const int32_t token : group.rows)
    for (int32_t slot = 0; slot < route.n_slots; ++slot) {
      const int32_t pair = token * route.n_slots + slot;
      if (route.ids[pair] >= 0) of[route.ids[pair]].push_back(pair);
    }
  return {of.begin(), of.end()};
}

void LowRank::experts_hidden(int64_t layer, Tensor hidden, Tensor x, const Route& route, const ExpertMatrices& experts,
                             const Activation& activation) const {
  for (const Group& group : groups_)
    for (const auto& [expert, rows] : pairs(group, route)) {
      const auto gate = group.sum->of(place_id(Role::expert_gate, layer, expert)),
                 up = group.sum->of(place_id(Role::expert_up, layer, expert));
      if (gate.empty() && up.empty()) continue;
      std::vector<int32_t> tokens;
      for (const int32_t pair : rows) tokens.push_back(pair / route.n_slots);
      const auto e = static_cast<size_t>(expert);
      const bool biases = !experts.gate_bias.empty();
      regate(gate, up, hidden, rows, x, tokens, experts.gate[e], biases ? experts.gate_bias[e] : Vector(),
             experts.up[e], biases ? experts.up_bias[e] : Vector(), activation);
    }
}

void LowRank::experts_out(int64_t layer, Tensor out, Tensor hidden, const Route& route) const {
  for (const Group& group : groups_)
    for (const auto& [expert, rows] : pairs(group, route))
      add_products(group.sum->of(place_id(Role::expert_down, layer, expert)), out, rows, hidden, rows);
}

void LowRank::absorb(int64_t layer, Tensor out, Tensor q, int64_t n_heads, int64_t d_nope, int64_t d_rope,
                     int64_t d_value) const {
  for (const Group& group : groups_)
    for (const Adapter* adapter : group.sum->of(place_id(Role::kv_b, layer))) {
      Scratch scratch{backend_, {}};
      const int64_t rank = adapter->a.rows, d_latent = adapter->a.cols, n = static_cast<int64_t>(group.rows.size());
      const Tensor low = scratch.tensor(n, rank), made = scratch.tensor(n, d_latent);
      for (int64_t h = 0; h < n_heads; ++h) {
        Matrix keys = adapter->b;
        keys.data = static_cast<const float*>(keys.data) + h * (d_nope + d_value) * rank;
        keys.rows = d_nope;
        const Tensor own = scratch.picked(q.columns(h * (d_nope + d_rope), d_nope), group.rows);
        backend_.matmul_adjoint(low, own, keys, false);
        backend_.matmul_adjoint(made, low, adapter->a, false);
        for (int64_t i = 0; i < n; ++i)
          for (int64_t c = 0; c < d_latent; ++c)
            out.row(group.rows[static_cast<size_t>(i)])[h * (d_latent + d_rope) + c] += adapter->scale * made.row(i)[c];
      }
    }
}

void LowRank::expand(int64_t layer, Tensor out, Tensor latent, int64_t n_heads, int64_t d_nope, int64_t d_value) const {
  for (const Group& group : groups_)
    for (const Adapter* adapter : group.sum->of(place_id(Role::kv_b, layer)))
      for (int64_t h = 0; h < n_heads; ++h) {
        Adapter values = *adapter;
        values.b.data = static_cast<const float*>(values.b.data) + (h * (d_nope + d_value) + d_nope) * adapter->a.rows;
        values.b.rows = d_value;
        const Adapter* const one[] = {&values};
        add_products(one, out.columns(h * d_value, d_value), group.rows,
                     latent.columns(h * adapter->a.cols, adapter->a.cols), group.rows);
      }
}

}  // namespace signalbox::engine
