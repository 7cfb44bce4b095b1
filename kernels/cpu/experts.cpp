// Routed experts: (token, slot) pairs grouped by expert, then one matrix product an expert over its rows.
#include "kernels/cpu/cpu_backend.h"

namespace signalbox::kernels::cpu {

// A counting sort: stable, so that the order of rows never depends on threads.
void CpuBackend::group_by_expert(const Route& route, int64_t n_tokens, int64_t n_experts) {
  const int64_t n_pairs = n_tokens * route.n_slots;
  expert_start_.assign(static_cast<size_t>(n_experts) + 1, 0);
  for (int64_t i = 0; i < n_pairs; ++i) {
    if (route.ids[i] >= 0) ++expert_start_[static_cast<size_t>(route.ids[i]) + 1];
  }
  for (size_t e = 0; e < static_cast<size_t>(n_experts); ++e) expert_start_[e + 1] += expert_start_[e];
  sorted_pairs_.resize(static_cast<size_t>(expert_start_.back()));
  sorted_tokens_.resize(sorted_pairs_.size());
  std::vector<int64_t> next(expert_start_.begin(), expert_start_.end() - 1);
  for (int64_t i = 0; i < n_pairs; ++i) {
    if (route.ids[i] < 0) continue;
    const size_t at = static_cast<size_t>(next[static_cast<size_t>(route.ids[i])]++);
    sorted_pairs_[at] = static_cast<int32_t>(i);
    sorted_tokens_[at] = static_cast<int32_t>(i / route.n_slots);
  }
}

namespace {

void clear_unused(Tensor out, const Route& route, int64_t n_tokens) {
  for (int64_t i = 0; i < n_tokens * route.n_slots; ++i) {
    if (route.ids[i] < 0) std::fill_n(out.row(i), out.cols, 0.f);
  }
}

const float* bias_of(std::span<const Vector> biases, size_t e) { return biases.empty() ? nullptr : biases[e].data; }

}  // namespace

void CpuBackend::experts_hidden(Tensor hidden, Tensor x, const Route& route, int64_t n_tokens,
                                const ExpertMatrices& experts, const Activation& activation, uint64_t* leaks) {
  const size_t n_experts = experts.gate.size();
  group_by_expert(route, n_tokens, static_cast<int64_t>(n_experts));
  clear_unused(hidden, route, n_tokens);
  if (route.banned && leaks) {
    for (int64_t i = 0; i < n_tokens * route.n_slots; ++i) {
      if (route.ids[i] < 0) continue;
      *leaks += route.banned[i / route.n_slots * static_cast<int64_t>(n_experts) + route.ids[i]] != 0;
    }
  }
  products_.clear();
  for (size_t e = 0; e < n_experts; ++e) {
    const int64_t start = expert_start_[e], count = expert_start_[e + 1] - start;
    if (count == 0) continue;
    Task p;
    p.out = hidden.data;
    p.out_stride = hidden.stride;
    p.out_rows = sorted_pairs_.data() + start;
    p.x = x.data;
    p.x_stride = x.stride;
    p.x_rows = sorted_tokens_.data() + start;
    p.m = count;
    p.w = &experts.gate[e];
    p.bias = bias_of(experts.gate_bias, e);
    p.up = &experts.up[e];
    p.up_bias = bias_of(experts.up_bias, e);
    p.activation = &activation;
    p.n = p.w->rows;
    products_.push_back(p);
  }
  run_products(products_);
}

void CpuBackend::experts_out(Tensor out, Tensor hidden, const Route& route, int64_t n_tokens,
                             const ExpertMatrices& experts) {
  const size_t n_experts = experts.down.size();
  group_by_expert(route, n_tokens, static_cast<int64_t>(n_experts));
  clear_unused(out, route, n_tokens);
  products_.clear();
  for (size_t e = 0; e < n_experts; ++e) {
    const int64_t start = expert_start_[e], count = expert_start_[e + 1] - start;
    if (count == 0) continue;
    Task p;
    p.out = out.data;
    p.out_stride = out.stride;
    p.out_rows = sorted_pairs_.data() + start;
    p.x = hidden.data;
    p.x_stride = hidden.stride;
    p.x_rows = sorted_pairs_.data() + start;
    p.m = count;
    p.w = &experts.down[e];
    p.bias = bias_of(experts.down_bias, e);
    p.n = p.w->rows;
    products_.push_back(p);
  }
  run_products(products_);
}

void CpuBackend::combine(Tensor out, Tensor expert_out, const Route& route, Tensor shared) {
  const int64_t n_slots = route.n_slots;
  for_ranges(out.rows, out.cols * (n_slots + 1), [&](int64_t first, int64_t last, int) {
    for (int64_t t = first; t < last; ++t) {
      float* to = out.row(t);
      std::fill_n(to, out.cols, 0.f);
      for (int64_t i = 0; i < n_slots; ++i) {
        const float weight = route.weights[t * n_slots + i];
        if (route.ids[t * n_slots + i] < 0 || weight == 0.f) continue;
        kernels_.accumulate(to, expert_out.row(t * n_slots + i), weight, out.cols);
      }
      if (shared) kernels_.add(to, to, shared.row(t), out.cols);
    }
  });
}

}  // namespace signalbox::kernels::cpu
