#include "engine/weight_sums.h"

#include <algorithm>

namespace signalbox::engine {

namespace {

TensorId tensor_id(Role role, int64_t layer, int64_t expert = -1) {
  return {role, static_cast<int32_t>(layer), static_cast<int32_t>(expert)};
}

}  // namespace

WeightSums::WeightSums(Backend& backend, const Batch& batch, WeightSlopes& slopes)
    : backend_(backend), batch_(batch), slopes_(slopes), ops_(weight_adjoints(backend)) {
  all_.sequences.resize(static_cast<size_t>(batch.n_tokens()));
  all_.positions = batch.positions;
  int32_t number = 0;
  for (const BatchSequence& sequence : batch.members) {
    std::fill_n(all_.sequences.begin() + sequence.first_row, sequence.n_rows, number);
    ++number;
  }
  for (const int32_t row : batch.logit_rows) {
    picked_.sequences.push_back(all_.sequences[static_cast<size_t>(row)]);
    picked_.positions.push_back(all_.positions[static_cast<size_t>(row)]);
  }
}

bool WeightSums::wants(Role role, int64_t layer, int64_t expert) {
  return static_cast<bool>(slopes_.sum(tensor_id(role, layer, expert)));
}

bool WeightSums::wants_matrix(Role role, int64_t layer, int64_t expert) {
  return wants(role, layer, expert) || slopes_.adapter(tensor_id(role, layer, expert));
}

bool WeightSums::wants_gated(int64_t layer, int64_t n_experts) {
  for (int64_t e = 0; e < n_experts; ++e)
    for (const Role role : {Role::expert_gate, Role::expert_up, Role::expert_gate_bias, Role::expert_up_bias})
      if (wants_matrix(role, layer, e)) return true;
  return false;
}

Tensor WeightSums::tensor(int64_t rows, int64_t cols) {
  memory_.push_back(backend_.allocate(std::max<size_t>(4, static_cast<size_t>(rows * cols) * sizeof(float))));
  return Tensor(static_cast<float*>(memory_.back().get()), rows, cols);
}

Tensor WeightSums::ones(int64_t rows) {
  const std::vector<float> values(static_cast<size_t>(rows), 1.f);
  const Tensor made = tensor(rows, 1);
  backend_.upload(made.data, values.data(), values.size() * sizeof(float));
  return made;
}

void WeightSums::add_ones(Tensor sum, Tensor d_out, const Rows& rows) {
  SummedRows of = rows.view();
  of.x_rows = of.out_rows;
  of.out_rows = {};
  ops_.outer_sum(sum, ones(of.n()), d_out, of);
}

// Of the adapter with u = x a^T: d_b = s d_out^T u, d_u = s d_out b, d_a = d_u^T x.
void WeightSums::add(const TensorId& id, Tensor d_out, Tensor x, const Rows& rows) {
  if (const Tensor sum = slopes_.sum(id)) ops_.outer_sum(sum, d_out, x, rows.view());
  const Adapter* adapter = slopes_.adapter(id);
  if (!adapter) return;
  const int64_t rank = adapter->a.rows;
  const Tensor u = tensor(x.rows, rank), d_u = tensor(d_out.rows, rank);
  backend_.matmul(u, x, adapter->a, {});
  backend_.matmul_adjoint(d_u, d_out, adapter->b, false);
  for (const Tensor& scaled : {u, d_u}) {
    const std::vector<float> factors(static_cast<size_t>(scaled.rows), adapter->scale);
    const Tensor on_device = tensor(scaled.rows, 1);
    backend_.upload(on_device.data, factors.data(), factors.size() * sizeof(float));
    backend_.scale_rows(scaled, on_device.data);
  }
  ops_.outer_sum(slopes_.sum_of_b(id), d_out, u, rows.view());
  ops_.outer_sum(slopes_.sum_of_a(id), d_u, x, rows.view());
}

void WeightSums::matrix(Role role, int64_t layer, Tensor d_out, Tensor x) {
  if (wants_matrix(role, layer)) add(tensor_id(role, layer), d_out, x, all_);
}

void WeightSums::bias(Role role, int64_t layer, Tensor d_out) {
  if (const Tensor sum = slopes_.sum(tensor_id(role, layer))) add_ones(sum, d_out, all_);
}

void WeightSums::head(Tensor d_logits, Tensor x, bool whole) {
  Rows rows = picked_;
  if (whole) rows.of_x = batch_.logit_rows;
  if (wants_matrix(Role::lm_head, -1)) add(tensor_id(Role::lm_head, -1), d_logits, x, rows);
}

void WeightSums::embed(Tensor d_out) {
  if (const Tensor sum = slopes_.sum(tensor_id(Role::embed, -1))) ops_.scatter_sum(sum, d_out, batch_.tokens);
}

void WeightSums::norm(Role role, int64_t layer, Tensor d_out, Tensor x, float eps, int64_t heads, bool picked) {
  const Tensor sum = slopes_.sum(tensor_id(role, layer));
  if (!sum) return;
  const Tensor slopes = tensor(x.rows, x.cols);
  ops_.norm_slopes(slopes, d_out, x, eps);
  const Rows& tokens = picked ? picked_ : all_;
  Rows rows;
  for (size_t t = 0; t < tokens.sequences.size(); ++t) {
    rows.sequences.insert(rows.sequences.end(), static_cast<size_t>(heads), tokens.sequences[t]);
    rows.positions.insert(rows.positions.end(), static_cast<size_t>(heads), tokens.positions[t]);
  }
  add_ones(sum, slopes, rows);
}

void WeightSums::heads(Role role, int64_t layer, Tensor d_out, int64_t d_head_out, int64_t d_part, Tensor x,
                       int64_t d_head_x, int64_t n_heads, int64_t first_row, int64_t rows_per_head) {
  if (slopes_.adapter(tensor_id(role, layer)))
    throw Error("gradient", "expected adapters of other matrices than " + weight_name(tensor_id(role, layer)) +
                                " (its two products are absorbed apart), found one");
  const Tensor sum = slopes_.sum(tensor_id(role, layer));
  if (!sum) return;
  for (int64_t h = 0; h < n_heads; ++h)
    ops_.outer_sum(sum.rows_from(h * rows_per_head + first_row, d_part), d_out.columns(h * d_head_out, d_part),
                   x.columns(h * d_head_x, sum.cols), all_.view());
}

std::vector<std::pair<int32_t, WeightSums::Rows>> WeightSums::pairs(const Route& route, bool x_of_tokens) const {
  std::vector<int32_t> ids(static_cast<size_t>(batch_.n_tokens() * route.n_slots));
  backend_.download(ids.data(), route.ids, ids.size() * sizeof(int32_t));
  std::vector<std::pair<int32_t, Rows>> found;
  const int32_t n_experts = ids.empty() ? 0 : *std::max_element(ids.begin(), ids.end()) + 1;
  std::vector<Rows> of(static_cast<size_t>(n_experts));
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0) continue;
    const size_t token = i / static_cast<size_t>(route.n_slots);
    Rows& rows = of[static_cast<size_t>(ids[i])];
    rows.sequences.push_back(all_.sequences[token]);
    rows.positions.push_back(all_.positions[token]);
    rows.of_out.push_back(static_cast<int32_t>(i));
    rows.of_x.push_back(static_cast<int32_t>(x_of_tokens ? token : i));
  }
  for (int32_t e = 0; e < n_experts; ++e)
    if (!of[static_cast<size_t>(e)].sequences.empty()) found.emplace_back(e, std::move(of[static_cast<size_t>(e)]));
  return found;
}

void WeightSums::experts(Role role, int64_t layer, const Route& route, Tensor d_out, Tensor x, bool x_of_tokens) {
  for (const auto& [expert, rows] : pairs(route, x_of_tokens)) {
    const TensorId id = tensor_id(role, layer, expert);
    if (!slopes_.adapter(id)) {
      if (const Tensor sum = slopes_.sum(id)) ops_.outer_sum(sum, d_out, x, rows.view());
      continue;
    }
    // An adapter's products take the rows of its expert alone.
    const auto n = static_cast<int64_t>(rows.sequences.size());
    const Tensor own_out = tensor(n, d_out.cols), own_x = tensor(n, x.cols);
    backend_.gather_rows(own_out, d_out, rows.of_out.data());
    backend_.gather_rows(own_x, x, rows.of_x.data());
    add(id, own_out, own_x, {rows.sequences, rows.positions, {}, {}});
  }
}

void WeightSums::expert_biases(Role role, int64_t layer, const Route& route, Tensor d_out) {
  for (const auto& [expert, rows] : pairs(route, false))
    if (const Tensor sum = slopes_.sum(tensor_id(role, layer, expert))) add_ones(sum, d_out, rows);
}

void WeightSums::sinks(int64_t layer, Tensor d_sinks) { bias(Role::sinks, layer, d_sinks); }

}  // namespace signalbox::engine
