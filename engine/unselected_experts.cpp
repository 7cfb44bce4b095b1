#include "engine/unselected_experts.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

namespace signalbox::engine {

namespace {

template <class T>
std::vector<T> downloaded(Backend& backend, const T* from, int64_t n) {
  std::vector<T> values(static_cast<size_t>(n));
  backend.download(values.data(), from, values.size() * sizeof(T));
  return values;
}

// dM/d y . f_e(h) of all experts, [n_tokens, n_experts].
std::vector<float> all_gains(Backend& backend, Tensor d_out, Tensor h, const ExpertMatrices& experts,
                             const Activation& activation) {
  constexpr int64_t most_at_once = 8;
  const int64_t n_tokens = h.rows, n_experts = experts.n_experts(), d_ff = experts.gate.front().rows;
  const int64_t n = std::min(most_at_once, n_experts), n_pairs = n_tokens * n;
  const auto floats = [&](int64_t count) { return backend.allocate(static_cast<size_t>(count) * sizeof(float)); };
  const auto hidden_memory = floats(n_pairs * d_ff), out_memory = floats(n_pairs * d_out.cols),
             d_memory = floats(n_pairs * d_out.cols), weight_memory = floats(n_pairs), gain_memory = floats(n_pairs),
             id_memory = floats(n_pairs);
  const Tensor hidden(static_cast<float*>(hidden_memory.get()), n_pairs, d_ff),
      out(static_cast<float*>(out_memory.get()), n_pairs, d_out.cols),
      unused(static_cast<float*>(d_memory.get()), n_pairs, d_out.cols);
  Route route;
  route.n_slots = static_cast<int32_t>(n);
  route.ids = static_cast<int32_t*>(id_memory.get());
  route.weights = static_cast<float*>(weight_memory.get());
  const std::vector<float> ones(static_cast<size_t>(n_pairs), 1.f);
  backend.upload(route.weights, ones.data(), ones.size() * sizeof(float));
  std::vector<float> gains(static_cast<size_t>(n_tokens * n_experts));
  for (int64_t first = 0; first < n_experts; first += n) {
    std::vector<int32_t> ids(static_cast<size_t>(n_pairs));
    for (size_t i = 0; i < ids.size(); ++i) {
      const int64_t expert = first + static_cast<int64_t>(i) % n;
      ids[i] = expert < n_experts ? static_cast<int32_t>(expert) : -1;
    }
    backend.upload(route.ids, ids.data(), ids.size() * sizeof(int32_t));
    backend.experts_hidden(hidden, h, route, n_tokens, experts, activation, nullptr);
    backend.experts_out(out, hidden, route, n_tokens, experts);
    auto* const of_slots = static_cast<float*>(gain_memory.get());
    backend.combine_adjoint(unused, of_slots, d_out, out, route);
    const std::vector<float> block = downloaded(backend, of_slots, n_pairs);
    for (int64_t t = 0; t < n_tokens; ++t)
      for (int64_t i = 0; i < n && first + i < n_experts; ++i)
        gains[static_cast<size_t>(t * n_experts + first + i)] = block[static_cast<size_t>(t * n + i)];
  }
  return gains;
}

}  // namespace

void add_unselected_experts(Backend& backend, Tensor d_logits, Tensor d_out, Tensor h, Tensor logits,
                            const Route& route, const ExpertMatrices& experts, const Router& router,
                            const Activation& activation) {
  const int64_t n_tokens = logits.rows, n_experts = logits.cols;
  const std::vector<float> gains = all_gains(backend, d_out, h, experts, activation);
  const std::vector<float> z = downloaded(backend, logits.data, n_tokens * n_experts);
  const std::vector<int32_t> ids = downloaded(backend, route.ids, n_tokens * route.n_slots);
  std::vector<float> d = downloaded(backend, d_logits.data, n_tokens * n_experts);
  const bool sigmoid = router.score == Router::Score::sigmoid && !router.softmax_over_selected;
  const bool divides = router.renormalize || router.softmax_over_selected;
  const auto n = static_cast<size_t>(n_experts);
  std::vector<double> p(n);
  std::vector<uint8_t> chosen(n);
  for (int64_t t = 0; t < n_tokens; ++t) {
    const float* row = z.data() + t * n_experts;
    const float* a = gains.data() + t * n_experts;
    const double most = *std::max_element(row, row + n_experts);
    double all = 0;
    for (size_t e = 0; e < n; ++e) {
      p[e] = sigmoid ? 1 / (1 + std::exp(-static_cast<double>(row[e]))) : std::exp(static_cast<double>(row[e]) - most);
      all += p[e];
    }
    if (!sigmoid)
      for (double& x : p) x /= all;
    std::fill(chosen.begin(), chosen.end(), uint8_t{0});
    double mass = 0;
    for (int64_t k = 0; k < route.n_slots; ++k) {
      const int32_t id = ids[static_cast<size_t>(t * route.n_slots + k)];
      if (id < 0) continue;
      chosen[static_cast<size_t>(id)] = 1;
      mass += p[static_cast<size_t>(id)];
    }
    const double factor =
        static_cast<double>(router.scale) /
        (divides ? mass + static_cast<double>(router.renormalize ? router.renormalize_epsilon : 0) : 1);
    double sum = 0;  // over the others of p a
    for (size_t e = 0; e < n; ++e)
      if (!chosen[e]) sum += p[e] * static_cast<double>(a[e]);
    float* to = d.data() + t * n_experts;
    for (size_t e = 0; e < n; ++e) {
      const double own = chosen[e] ? 0 : static_cast<double>(a[e]);
      to[e] += static_cast<float>(factor * p[e] * (sigmoid ? (1 - p[e]) * own : own - sum));
    }
  }
  backend.upload(d_logits.data, d.data(), d.size() * sizeof(float));
}

}  // namespace signalbox::engine
