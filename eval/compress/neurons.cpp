#include "eval/compress/neurons.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/no_number.h"
#include "engine/matrix_values.h"
#include "eval/compress/assignment.h"

namespace signalbox::eval {

namespace {

double dot(const float* a, const float* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

// out [rows, b.n] = scores of rows of `a` (their gate and rest) with all neurons of `b`.
void score(const float* gate, const float* rest, int64_t rows, const Neurons& b, Backend& backend, float* out) {
  std::vector<float> others(static_cast<size_t>(rows * b.n));
  const Matrix gates{b.gate.data(), DType::f32, b.n, b.d_gate, b.d_gate, nullptr, 0};
  const Matrix rests{b.rest.data(), DType::f32, b.n, b.d_rest, b.d_rest, nullptr, 0};
  backend.matmul(Tensor(out, rows, b.n), Tensor(const_cast<float*>(gate), rows, b.d_gate), gates, {});
  backend.matmul(Tensor(others.data(), rows, b.n), Tensor(const_cast<float*>(rest), rows, b.d_rest), rests, {});
  for (size_t i = 0; i < others.size(); ++i) out[i] += b.scales ? std::fabs(others[i]) : others[i];
}

std::vector<int32_t> assign(const Neurons& a, const Neurons& b, Backend& backend, bool exact) {
  if (exact) {
    std::vector<float> scores(static_cast<size_t>(a.n * b.n));
    score(a.gate.data(), a.rest.data(), a.n, b, backend, scores.data());
    return best_assignment(scores, a.n);
  }
  std::vector<double> length(static_cast<size_t>(a.n));
  for (int64_t i = 0; i < a.n; ++i)
    length[i] = dot(&a.gate[i * a.d_gate], &a.gate[i * a.d_gate], a.d_gate) +
                dot(&a.rest[i * a.d_rest], &a.rest[i * a.d_rest], a.d_rest);
  std::vector<int32_t> order(length.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t i, int32_t j) { return length[i] > length[j]; });
  constexpr int64_t block = 256;
  std::vector<float> gate, rest;
  return greedy_assignment(order, block, [&](int64_t first, int64_t count, float* out) {
    gate.resize(static_cast<size_t>(count * a.d_gate));
    rest.resize(static_cast<size_t>(count * a.d_rest));
    for (int64_t i = 0; i < count; ++i) {
      const int64_t row = order[static_cast<size_t>(first + i)];
      std::copy_n(&a.gate[row * a.d_gate], a.d_gate, &gate[i * a.d_gate]);
      std::copy_n(&a.rest[row * a.d_rest], a.d_rest, &rest[i * a.d_rest]);
    }
    score(gate.data(), rest.data(), count, b, backend, out);
  });
}

}  // namespace

Neurons read_neurons(const MoeWeights& weights, int32_t expert, const Activation& activation) {
  const Matrix &gate = weights.gate[expert], &up = weights.up[expert], &down = weights.down[expert];
  const bool biases = !weights.gate_bias.empty();
  const int64_t d = gate.cols, one = biases ? 1 : 0;
  Neurons out;
  out.n = gate.rows;
  out.d_gate = d + one;
  out.d_rest = 2 * d + one;
  out.scales = activation.kind == Activation::Kind::silu;
  out.gate.resize(static_cast<size_t>(out.n * out.d_gate));
  out.rest.resize(static_cast<size_t>(out.n * out.d_rest));
  out.up_length.assign(static_cast<size_t>(out.n), 1);
  for (int64_t i = 0; i < out.n; ++i) {
    read_row(gate, i, &out.gate[i * out.d_gate]);
    read_row(up, i, &out.rest[i * out.d_rest]);
    if (!biases) continue;
    out.gate[i * out.d_gate + d] = weights.gate_bias[expert].data[i];
    out.rest[i * out.d_rest + d] = weights.up_bias[expert].data[i];
  }
  std::vector<float> row(static_cast<size_t>(out.n));
  for (int64_t c = 0; c < d; ++c) {
    read_row(down, c, row.data());
    for (int64_t i = 0; i < out.n; ++i) out.rest[i * out.d_rest + d + one + c] = row[i];
  }
  if (biases) out.down_bias.assign(weights.down_bias[expert].data, weights.down_bias[expert].data + d);
  for (int64_t i = 0; i < out.n; ++i) {
    float* rest = &out.rest[i * out.d_rest];
    if (out.scales) {
      const double length = std::sqrt(dot(rest, rest, d + one));
      out.up_length[i] = length;
      for (int64_t c = 0; c < d + one && length > 0; ++c) rest[c] = static_cast<float>(rest[c] / length);
      for (int64_t c = d + one; c < out.d_rest; ++c) rest[c] = static_cast<float>(rest[c] * length);
    }
    out.square += dot(&out.gate[i * out.d_gate], &out.gate[i * out.d_gate], out.d_gate) + dot(rest, rest, out.d_rest);
  }
  out.square += dot(out.down_bias.data(), out.down_bias.data(), static_cast<int64_t>(out.down_bias.size()));
  return out;
}

Alignment align(const Neurons& a, const Neurons& b, Backend& backend, int64_t exact) {
  Alignment out;
  out.exact = a.n <= exact;
  out.of = assign(a, b, backend, out.exact);
  out.sign.assign(out.of.size(), 1);
  double sum = dot(a.down_bias.data(), b.down_bias.data(), static_cast<int64_t>(a.down_bias.size()));
  for (int64_t i = 0; i < a.n; ++i) {
    const int64_t j = out.of[static_cast<size_t>(i)];
    const double rest = dot(&a.rest[i * a.d_rest], &b.rest[j * b.d_rest], a.d_rest);
    if (a.scales && rest < 0) out.sign[static_cast<size_t>(i)] = -1;
    sum += dot(&a.gate[i * a.d_gate], &b.gate[j * b.d_gate], a.d_gate) + (a.scales ? std::fabs(rest) : rest);
  }
  const double lengths = std::sqrt(a.square * b.square);
  out.similarity = lengths > 0 ? std::clamp(sum / lengths, -1.0, 1.0) : no_number;
  return out;
}

double align_products(int64_t d_ff, int64_t d_model) {
  return static_cast<double>(d_ff) * static_cast<double>(d_ff) * 3.0 * static_cast<double>(d_model);
}

int alignment_workers(const Model& model, int threads) {
  constexpr double most_bytes = 8e9;
  double largest = 1;
  for (const Layer& layer : model.layers)
    if (const Moe* moe = layer.moe()) {
      const double n = static_cast<double>(moe->d_ff), d = static_cast<double>(model.d_model);
      const double rows = moe->d_ff <= exact_neurons ? n : 256;
      largest = std::max(largest, 4 * (12 * n * d + 2 * rows * n));
    }
  return static_cast<int>(std::clamp(most_bytes / largest, 1.0, static_cast<double>(threads)));
}

}  // namespace signalbox::eval
