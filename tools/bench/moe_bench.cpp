// The routed block: experts_hidden, experts_out, combine.
#include <algorithm>
#include <cmath>
#include <set>

#include "tools/bench/op_bench.h"

namespace signalbox::tools {

namespace {

// Numbers without a pattern that matters.
class Draw {
 public:
  int64_t below(int64_t n) {
    state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<int64_t>((state_ >> 33) % static_cast<uint64_t>(n));
  }

 private:
  uint64_t state_ = 1;
};

void shuffle(std::vector<int32_t>& order, Draw& draw) {
  for (size_t i = order.size(); i > 1; --i)
    std::swap(order[i - 1], order[static_cast<size_t>(draw.below(static_cast<int64_t>(i)))]);
}

// Routes of n_sets batches, [n_sets][n_tokens * n_active].
std::vector<std::vector<int32_t>> even_routes(int64_t n_sets, int64_t n_tokens, int64_t n_experts, int64_t n_active) {
  Draw draw;
  std::vector<int32_t> order(static_cast<size_t>(n_experts));
  for (size_t e = 0; e < order.size(); ++e) order[e] = static_cast<int32_t>(e);
  size_t used = order.size();
  std::vector<std::vector<int32_t>> sets(static_cast<size_t>(n_sets));
  for (auto& ids : sets) {
    for (int64_t t = 0; t < n_tokens; ++t) {
      // Of one token after the other, every expert comes once before any comes again.
      if (n_tokens > 1 || used + static_cast<size_t>(n_active) > order.size()) shuffle(order, draw), used = 0;
      ids.insert(ids.end(), order.begin() + static_cast<std::ptrdiff_t>(used),
                 order.begin() + static_cast<std::ptrdiff_t>(used) + n_active);
      used += static_cast<size_t>(n_active);
    }
  }
  return sets;
}

}  // namespace

void bench_routed(Backend& backend, Timer& timer, RandomMemory& memory, const RoutedBlock& block, int64_t n_tokens,
                  bool parts, size_t flush_bytes, const std::string& model, const OpReport& report) {
  const Router& router = block.moe->router;
  const int64_t n_active = router.n_active, d_ff = block.moe->d_ff, d_model = block.d_model;
  const int64_t n_pairs = n_tokens * n_active, n_layers = static_cast<int64_t>(block.layers.size());

  const double share =
      1 - std::pow(1 - static_cast<double>(n_active) / router.n_experts, static_cast<double>(n_tokens));
  const double expected = share * router.n_experts * block.expert_bytes;
  int64_t n_sets =
      std::clamp<int64_t>(static_cast<int64_t>(std::ceil(static_cast<double>(flush_bytes) / expected)), 1, 64);
  n_sets = (n_sets + n_layers - 1) / n_layers * n_layers;

  DeviceData data(backend, memory);
  const Tensor x = data.operand(n_tokens, d_model), hidden = data.operand(n_pairs, d_ff);
  const Tensor outputs = data.floats(n_pairs, d_model), sum = data.floats(n_tokens, d_model);
  uint64_t* leaks = data.list(std::vector<uint64_t>(1, 0));
  const float* weights =
      data.list(std::vector<float>(static_cast<size_t>(n_pairs), 1.f / static_cast<float>(n_active)));
  std::vector<Route> routes;
  double distinct = 0;
  for (const auto& ids : even_routes(n_sets, n_tokens, router.n_experts, n_active)) {
    Route route;
    route.n_slots = static_cast<int32_t>(n_active);
    route.ids = data.list(ids);
    route.weights = const_cast<float*>(weights);
    routes.push_back(route);
    distinct += static_cast<double>(std::set<int32_t>(ids.begin(), ids.end()).size()) / static_cast<double>(n_sets);
  }

  const double pairs = static_cast<double>(n_pairs), ff = static_cast<double>(d_ff), dm = static_cast<double>(d_model);
  const double operand = static_cast<double>(dtype_size(backend.operand_dtype()));
  const double x_bytes = static_cast<double>(n_tokens) * dm * operand, hidden_bytes = pairs * ff * operand,
               outputs_bytes = pairs * dm * 4, sum_bytes = static_cast<double>(n_tokens) * dm * 4;
  const std::string sizes = sizes_text({{"tokens", n_tokens},
                                        {"experts", router.n_experts},
                                        {"active", n_active},
                                        {"d_model", d_model},
                                        {"d_ff", d_ff}});
  const auto measure = [&](const char* op, double flops, double bytes, const std::function<void(int64_t)>& work) {
    const Timing timing = timer.measure(n_sets, work);
    report({op, model, sizes, n_tokens, timing.seconds, timing.spread, flops, bytes});
  };
  const auto layer = [&](int64_t i) -> const ExpertMatrices& {
    return block.layers[static_cast<size_t>(i % n_layers)];
  };
  const auto make_hidden = [&](int64_t i) {
    backend.experts_hidden(hidden, x, routes[static_cast<size_t>(i)], n_tokens, layer(i), block.activation, leaks);
  };
  const auto make_outputs = [&](int64_t i) {
    backend.experts_out(outputs, hidden, routes[static_cast<size_t>(i)], n_tokens, layer(i));
  };
  const auto add_up = [&](int64_t i) { backend.combine(sum, outputs, routes[static_cast<size_t>(i)], Tensor()); };
  const double used_bytes = distinct * block.expert_bytes;
  measure("moe layer", 6 * pairs * dm * ff, used_bytes + x_bytes + sum_bytes, [&](int64_t i) {
    make_hidden(i);
    make_outputs(i);
    add_up(i);
  });
  if (!parts) return;
  // experts_out last. With one set of routes it finds the map that experts_hidden left behind for it, as in a forward;
  // with several a device would make a map in each call: but sets are several only where tokens are so few that the
  // kernels for few rows take them, which need none.
  measure("combine", 2 * pairs * dm, outputs_bytes + sum_bytes, add_up);
  measure("experts_hidden", 4 * pairs * dm * ff, used_bytes * 2 / 3 + x_bytes + hidden_bytes, make_hidden);
  measure("experts_out", 2 * pairs * dm * ff, used_bytes / 3 + hidden_bytes + outputs_bytes, make_outputs);
}

}  // namespace signalbox::tools
