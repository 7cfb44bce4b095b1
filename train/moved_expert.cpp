#include "train/moved_expert.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "engine/matrix_values.h"

namespace signalbox::train {

namespace {

std::vector<double> doubles(const Matrix& matrix) {
  const std::vector<float> values = values_of(matrix);
  return {values.begin(), values.end()};
}

std::vector<double> doubles(const Vector& vector) { return {vector.data, vector.data + vector.n}; }

// rows [n, d_a] diag(g_a) in diag(1 / g_b): [n, d_b]
std::vector<double> moved_rows(const std::vector<double>& rows, const BasisMap& map, const std::vector<float>& weight_a,
                               const std::vector<float>& weight_b) {
  if (map.kind == Basis::none) return rows;
  const int64_t d_a = map.in.rows, d_b = map.in.cols;
  DenseMatrix m(static_cast<int64_t>(rows.size()) / d_a, d_a);
  for (size_t i = 0; i < rows.size(); ++i) m.values[i] = rows[i] * weight_a[i % static_cast<size_t>(d_a)];
  DenseMatrix out = product(m, map.in);
  for (size_t i = 0; i < out.values.size(); ++i) {
    const double g = weight_b[i % static_cast<size_t>(d_b)];
    out.values[i] = g != 0 ? out.values[i] / g : 0;
  }
  return std::move(out.values);
}

std::string activation_name(const Activation& activation) {
  return activation.kind == Activation::Kind::silu ? "silu" : "clamped";
}

}  // namespace

ExpertValues read_expert(const MoeWeights& weights, int32_t expert) {
  const auto e = static_cast<size_t>(expert);
  ExpertValues out;
  out.d_ff = weights.gate[e].rows;
  out.d_model = weights.gate[e].cols;
  out.gate = doubles(weights.gate[e]);
  out.up = doubles(weights.up[e]);
  out.down = doubles(weights.down[e]);
  if (weights.gate_bias.empty()) return out;
  out.gate_bias = doubles(weights.gate_bias[e]);
  out.up_bias = doubles(weights.up_bias[e]);
  out.down_bias = doubles(weights.down_bias[e]);
  return out;
}

ExpertValues moved_expert(const ExpertValues& expert, const BasisMap& map, const std::vector<float>& weight_a,
                          const std::vector<float>& weight_b) {
  if (map.kind == Basis::none) return expert;
  ExpertValues out = expert;
  out.d_model = map.out.rows;
  out.gate = moved_rows(expert.gate, map, weight_a, weight_b);
  out.up = moved_rows(expert.up, map, weight_a, weight_b);
  const auto written = [&](const std::vector<double>& values, int64_t cols) {
    DenseMatrix m(expert.d_model, cols);
    m.values = values;
    DenseMatrix moved = product(map.out, m);
    for (double& value : moved.values) value *= map.scale;
    return std::move(moved.values);
  };
  out.down = written(expert.down, expert.d_ff);
  if (!expert.down_bias.empty()) out.down_bias = written(expert.down_bias, 1);
  return out;
}

std::vector<double> moved_row(const std::vector<double>& row, const BasisMap& map, const std::vector<float>& weight_a,
                              const std::vector<float>& weight_b) {
  return moved_rows(row, map, weight_a, weight_b);
}

ExpertValues padded_expert(ExpertValues expert, int64_t d_ff) {
  if (d_ff == expert.d_ff) return expert;
  std::vector<double> down(static_cast<size_t>(expert.d_model * d_ff));
  for (int64_t r = 0; r < expert.d_model; ++r)
    std::copy_n(&expert.down[static_cast<size_t>(r * expert.d_ff)], expert.d_ff, &down[static_cast<size_t>(r * d_ff)]);
  expert.down = std::move(down);
  expert.gate.resize(static_cast<size_t>(d_ff * expert.d_model));
  expert.up.resize(expert.gate.size());
  if (!expert.gate_bias.empty()) {
    expert.gate_bias.resize(static_cast<size_t>(d_ff));
    expert.up_bias.resize(static_cast<size_t>(d_ff));
  }
  expert.d_ff = d_ff;
  return expert;
}

StoredExpert stored_expert(const ExpertValues& expert, const std::function<DType(Role)>& dtype) {
  StoredExpert out;
  out.gate = stored_matrix(expert.gate, expert.d_ff, expert.d_model, dtype(Role::expert_gate), out.owners);
  out.up = stored_matrix(expert.up, expert.d_ff, expert.d_model, dtype(Role::expert_up), out.owners);
  out.down = stored_matrix(expert.down, expert.d_model, expert.d_ff, dtype(Role::expert_down), out.owners);
  if (expert.gate_bias.empty()) return out;
  out.gate_bias = stored_vector(expert.gate_bias, dtype(Role::expert_gate_bias), out.owners);
  out.up_bias = stored_vector(expert.up_bias, dtype(Role::expert_up_bias), out.owners);
  out.down_bias = stored_vector(expert.down_bias, dtype(Role::expert_down_bias), out.owners);
  return out;
}

SingleExpert::SingleExpert(const ExpertValues& expert)
    : stored(stored_expert(expert, [](Role) { return DType::f32; })) {
  weights.gate = {stored.gate};
  weights.up = {stored.up};
  weights.down = {stored.down};
  if (expert.gate_bias.empty()) return;
  weights.gate_bias = {stored.gate_bias};
  weights.up_bias = {stored.up_bias};
  weights.down_bias = {stored.down_bias};
}

std::string experts_misfit(const Model& a, const Moe& moe_a, const Model& b, const Moe& moe_b) {
  const Activation &of_a = a.activation, &of_b = b.activation;
  if (of_a.kind != of_b.kind)
    return "expected experts of one activation, found " + activation_name(of_a) + " and " + activation_name(of_b);
  if (of_a.kind == Activation::Kind::clamped && (of_a.alpha != of_b.alpha || of_a.limit != of_b.limit))
    return "expected experts whose activation has the same limits, found others";
  if (moe_a.bias != moe_b.bias)
    return std::string("expected experts with biases in both models or in neither, found them in the ") +
           (moe_a.bias ? "first" : "second");
  return "";
}

}  // namespace signalbox::train
