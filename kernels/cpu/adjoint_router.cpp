// The adjoint of the router: from the weights of the chosen experts to the logits of all. Ids are held. With z the
// logits that weights are made of, v what stands before a renormalisation, s the family's scale and d = dM/d weights:
//   renormalised      d_v_i = s (d_i - sum d_j v_j / Q) / Q with Q = sum v + epsilon; else d_v = s d
//   softmax over all  d_z = p (e - sum p e) with e = d_v at the chosen experts and 0 elsewhere
//   over the chosen   d_z_i = v_i (d_v_i - sum v_j d_v_j), 0 elsewhere; so is a softmax over all that is divided by the
//                     sum of the chosen (without epsilon), whose other experts cancel
//   sigmoid           d_z_i = d_v_i v_i (1 - v_i)
#include <algorithm>
#include <cmath>
#include <mutex>
#include <numeric>
#include <vector>

#include "base/error.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/router_stages.h"
#include "kernels/router_steps.h"

namespace signalbox::kernels::cpu {

namespace {

// What weights of some experts are made of.
struct Weighed {
  const float* logits = nullptr;   // [n_experts]
  const Scored* scored = nullptr;  // of these logits
  const int32_t* ids = nullptr;    // [k]
  int64_t k = 0;
  double slope = 1;  // d logits / d unedited logits
};

std::vector<double> softmax_of(const std::vector<double>& z) {
  std::vector<double> p(z.size());
  const double top = *std::max_element(z.begin(), z.end());
  double mass = 0;
  for (size_t i = 0; i < z.size(); ++i) mass += p[i] = std::exp(z[i] - top);
  for (double& x : p) x /= mass;
  return p;
}

// Adds to d_logits [n_experts] what d_weights [k] of the family's own weights (weigh_experts) make of it.
void weigh_adjoint(std::vector<double>& d_logits, const std::vector<double>& d_weights, const Router& router,
                   const Weighed& from) {
  const size_t k = static_cast<size_t>(from.k);
  if (k == 0) return;
  const bool over_chosen = router.softmax_over_selected;
  const bool softmax = over_chosen || router.score == Router::Score::softmax;
  const auto id = [&](size_t i) { return static_cast<size_t>(from.ids[i]); };
  const auto dropped = [&](size_t e) {
    return !over_chosen && !from.scored->dropped.empty() && from.scored->dropped[e];
  };
  std::vector<double> chosen(k), values(k), all;
  for (size_t i = 0; i < k; ++i) chosen[i] = static_cast<double>(from.logits[id(i)]);
  if (over_chosen) {
    values = softmax_of(chosen);
  } else if (softmax) {
    all = softmax_of(std::vector<double>(from.logits, from.logits + router.n_experts));
    for (size_t i = 0; i < k; ++i) values[i] = dropped(id(i)) ? 0 : all[id(i)];
  } else {
    for (size_t i = 0; i < k; ++i) values[i] = dropped(id(i)) ? 0 : 1 / (1 + std::exp(-chosen[i]));
  }
  const double scale = static_cast<double>(router.scale);
  std::vector<double> d_values(k);
  const double total =
      std::accumulate(values.begin(), values.end(), 0.0) + static_cast<double>(router.renormalize_epsilon);
  const bool renormalized = router.renormalize && total != 0;
  double mean = 0;
  for (size_t i = 0; i < k; ++i) mean += renormalized ? d_weights[i] * (values[i] / total) : 0;
  for (size_t i = 0; i < k; ++i)
    d_values[i] = renormalized ? scale * (d_weights[i] - mean) / total : scale * d_weights[i];
  // Among themselves: the other experts' shares cancel, exactly.
  if (softmax && (over_chosen || (renormalized && router.renormalize_epsilon == 0))) {
    double dot = 0;
    for (size_t i = 0; i < k; ++i) dot += values[i] * d_values[i];
    if (!over_chosen) dot = 0;  // sum v (d - mean) is 0
    for (size_t i = 0; i < k; ++i) d_logits[id(i)] += from.slope * values[i] * (d_values[i] - dot);
    return;
  }
  if (softmax) {
    double dot = 0;
    for (size_t i = 0; i < k; ++i) dot += values[i] * d_values[i];
    for (size_t e = 0; e < all.size(); ++e) d_logits[e] -= from.slope * all[e] * dot;
  }
  for (size_t i = 0; i < k; ++i) {
    if (dropped(id(i))) continue;
    d_logits[id(i)] += from.slope * d_values[i] * (softmax ? values[i] : values[i] * (1 - values[i]));
  }
}

// What the weights policy of an edited token adds to the family's rule.
void edited_adjoint(std::vector<double>& d_logits, std::vector<double> d_weights, const EditedToken& token,
                    const Router& router) {
  const size_t n = token.ids.size();
  const Weighing& rule = token.weighing;
  d_weights.resize(n);
  for (size_t i = 0; i < n; ++i) d_weights[i] *= static_cast<double>(token.factors[i]);
  const Weighed original{token.logits, token.scored, token.original_ids, router.n_active, 1};
  Weighed from{rule.logits, rule.scored, token.ids.data(), static_cast<int64_t>(n), 1.0 / rule.temperature};
  if (rule.recorded) return;
  if (rule.policy == WeightPolicy::keep_slot) {
    d_weights.resize(static_cast<size_t>(router.n_active), 0.0);
    weigh_adjoint(d_logits, d_weights, router, original);
    return;
  }
  if (rule.policy == WeightPolicy::keep_scores) {
    from = original;
    from.ids = token.ids.data();
    from.k = static_cast<int64_t>(n);
  } else if (rule.steered) {
    throw Error("gradient",
                "expected edits whose weights have a gradient, found mode steermoe with the model's weights "
                "(\"weights\": \"keep_scores\" has one)");
  }
  if (rule.policy == WeightPolicy::hole) {
    for (size_t i = 0; i < n; ++i) {
      if (static_cast<int64_t>(i) >= router.n_active || token.ids[i] != token.original_ids[i]) d_weights[i] = 0;
    }
  } else if (rule.policy == WeightPolicy::renormalize || rule.policy == WeightPolicy::preserve_mass) {
    // w' = w target / sum w
    std::vector<float> plain(n);
    weigh_experts(plain.data(), router, *rule.scored, rule.logits, token.ids.data(), static_cast<int64_t>(n));
    const double sum = std::accumulate(plain.begin(), plain.end(), 0.0);
    if (sum != 0) {
      const bool mass = rule.policy == WeightPolicy::preserve_mass;
      const double target =
          mass ? std::accumulate(token.original_weights, token.original_weights + router.n_active, 0.0) : 1.0;
      double d_target = 0;
      for (size_t i = 0; i < n; ++i) d_target += d_weights[i] * static_cast<double>(plain[i]) / sum;
      for (double& d : d_weights) d = (d - d_target) * target / sum;
      if (mass) {
        weigh_adjoint(d_logits, std::vector<double>(static_cast<size_t>(router.n_active), d_target), router, original);
      }
    }
  }
  weigh_adjoint(d_logits, d_weights, router, from);
}

}  // namespace

void CpuBackend::route_adjoint(Tensor d_logits, const float* d_weights, const Route& route, Tensor logits,
                               const Router& router, const float* selection_bias, const RouteBatch& batch) {
  std::mutex mutex;
  std::exception_ptr fault;
  for_ranges(logits.rows, router.n_experts * 32, [&](int64_t first, int64_t last, int) {
    RouterWorkspace w;
    std::vector<double> slopes, d_route;
    for (int64_t t = first; t < last; ++t) {
      const float* z = logits.row(t);
      const int32_t* ids = route.ids + t * route.n_slots;
      const int64_t k = std::find(ids, ids + route.n_slots, -1) - ids;
      slopes.assign(static_cast<size_t>(router.n_experts), 0.0);
      d_route.assign(d_weights + t * route.n_slots, d_weights + t * route.n_slots + k);
      try {
        const bool edited = edit_token(w, t, z, router, selection_bias, batch);
        if (edited) {
          edited_adjoint(slopes, d_route, w.token, router);
        } else {
          weigh_adjoint(slopes, d_route, router, {z, &w.scored, ids, k, 1});
        }
      } catch (...) {
        std::lock_guard lock(mutex);
        if (!fault) fault = std::current_exception();
      }
      std::copy(slopes.begin(), slopes.end(), d_logits.row(t));
    }
  });
  if (fault) std::rethrow_exception(fault);
}

}  // namespace signalbox::kernels::cpu
