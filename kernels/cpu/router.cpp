// The unedited router, and the loop over tokens.
#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>

#include "base/error.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/router_stages.h"
#include "kernels/router_steps.h"

namespace signalbox::kernels::cpu {

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

// out may be x. Exponentials and their sum are rounded once each: they are computed in double.
void softmax(float* out, const float* x, int64_t n) {
  const float top = *std::max_element(x, x + n);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    out[i] = static_cast<float>(std::exp(static_cast<double>(x[i] - top)));
    sum += out[i];
  }
  const float total = static_cast<float>(sum);
  for (int64_t i = 0; i < n; ++i) out[i] /= total;
}

void sigmoid(float* out, const float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<float>(1 / (1 + std::exp(-static_cast<double>(x[i]))));
}

float group_score(const Router& router, const float* values, const uint8_t* banned, int64_t size) {
  float first = -infinity, second = -infinity;
  for (int64_t i = 0; i < size; ++i) {
    if (banned && banned[i]) continue;
    if (values[i] > first) {
      second = first;
      first = values[i];
    } else if (values[i] > second) {
      second = values[i];
    }
  }
  return router.group_score == Router::GroupScore::max || second == -infinity ? first : first + second;
}

// Scores and values of all experts outside the n_groups_kept best groups become 0; fills in the margin.
void limit_groups(Scored& out, const Router& router, const uint8_t* banned) {
  const int64_t size = router.n_experts / router.n_groups;
  std::vector<float> groups(static_cast<size_t>(router.n_groups));
  for (int64_t g = 0; g < router.n_groups; ++g) {
    groups[static_cast<size_t>(g)] =
        group_score(router, out.values.data() + g * size, banned ? banned + g * size : nullptr, size);
  }
  std::vector<int32_t> kept;
  rank_experts(kept, groups.data(), nullptr, router.n_groups, router.n_groups_kept + 1);
  const float best_dropped = groups[static_cast<size_t>(kept.back())];
  kept.pop_back();
  out.group_margin = groups[static_cast<size_t>(kept.back())] - best_dropped;
  out.dropped.assign(static_cast<size_t>(router.n_experts), 0);
  for (int32_t g = 0; g < router.n_groups; ++g) {
    if (std::find(kept.begin(), kept.end(), g) != kept.end()) continue;
    std::fill_n(out.scores.begin() + g * size, size, 0.f);
    std::fill_n(out.values.begin() + g * size, size, 0.f);
    std::fill_n(out.dropped.begin() + g * size, size, uint8_t{1});
  }
}

// Difference between the n_active-th and the next largest logit.
float route_margin(std::vector<int32_t>& order, const Router& router, const float* logits) {
  if (router.n_active >= router.n_experts) return infinity;
  rank_experts(order, logits, nullptr, router.n_experts, router.n_active + 1);
  return logits[order[static_cast<size_t>(router.n_active) - 1]] - logits[order[static_cast<size_t>(router.n_active)]];
}

// RouterStep::near_tie_below's measure.
float near_tie(std::vector<int32_t>& order, const Router& router, const Scored& scored) {
  const auto k = static_cast<size_t>(router.n_active);
  rank_experts(order, scored.values.data(), scored.dropped.empty() ? nullptr : scored.dropped.data(), router.n_experts,
               router.n_active + 1);
  if (order.size() <= k) return scored.group_margin;
  const std::vector<float>& values = scored.values;
  return std::min(scored.group_margin,
                  values[static_cast<size_t>(order[k - 1])] - values[static_cast<size_t>(order[k])]);
}

// A logit may be -inf (its expert has score 0), but not all of them, and none NaN or +inf.
bool usable(const float* logits, int64_t n) {
  bool any = false;
  for (int64_t e = 0; e < n; ++e) {
    if (!(logits[e] < infinity)) return false;
    any = any || logits[e] > -infinity;
  }
  return any;
}

void write_route(const Route& out, int64_t t, const int32_t* ids, const float* weights, int64_t k) {
  for (int64_t i = 0; i < out.n_slots; ++i) {
    out.ids[t * out.n_slots + i] = i < k ? ids[i] : -1;
    out.weights[t * out.n_slots + i] = i < k ? weights[i] : 0.f;
  }
}

void write_original(const Route& out, int64_t t, const int32_t* ids, int64_t k) {
  if (!out.original_ids) return;
  for (int64_t i = 0; i < out.n_slots; ++i) out.original_ids[t * out.n_slots + i] = i < k ? ids[i] : -1;
}

// Adds to `to` what the program has done to a token's route.
void count_edits(TokenEdits& to, const EditedToken& token, int64_t n_original) {
  if (!token.acted) return;
  const auto n = static_cast<int64_t>(token.ids.size());
  int64_t unchanged = 0;
  for (int64_t i = 0; i < n_original; ++i) {
    const auto found = std::find(token.ids.begin(), token.ids.end(), token.original_ids[i]);
    if (found != token.ids.end())
      unchanged += token.weights[static_cast<size_t>(found - token.ids.begin())] == token.original_weights[i];
  }
  ++to.layers;
  to.changed += static_cast<uint32_t>(std::max(n, n_original) - unchanged);
  to.added += static_cast<uint32_t>(std::max<int64_t>(0, n - n_original));
}

// Whether an edit acts on token t, whose unedited route stands in w; then w.token is what edits make of it.
bool edit_scored(RouterWorkspace& w, int64_t t, const float* logits, float margin, const Router& router,
                 const float* selection_bias, const RouteBatch& batch, uint8_t* banned) {
  if (!batch.programs) return false;
  const int32_t sequence = batch.sequences ? batch.sequences[t] : 0;
  const uint8_t* active = batch.active ? batch.active + t * batch.n_edits : nullptr;
  const RouterProgram& program = batch.programs[sequence];
  const RouteMargins margins = {margin, asks_for_near_ties(program) ? near_tie(w.order, router, w.scored) : any_margin};
  if (!program_acts(program, active, margins)) return false;
  EditedToken& token = w.token;
  token.logits = logits;
  token.scored = &w.scored;
  token.original_ids = w.original_ids.data();
  token.original_weights = w.original_weights.data();
  token.margins = margins;
  token.position = batch.positions ? batch.positions[t] : 0;
  token.layer = batch.layer;
  token.record_hash = batch.record_hash ? batch.record_hash[sequence] : 0;
  token.sample = batch.samples ? batch.samples[sequence] : 0;
  token.active = active;
  w.banned.assign(static_cast<size_t>(router.n_experts), 0);
  token.banned = banned ? banned : w.banned.data();
  apply_program(token, w, router, selection_bias, program);
  return true;
}

// The unedited route of a row of logits, in w.
void route_unedited(RouterWorkspace& w, const float* logits, const Router& router, const float* selection_bias) {
  score_experts(w.scored, router, logits, selection_bias, nullptr);
  rank_experts(w.original_ids, w.scored.values.data(), nullptr, router.n_experts, router.n_active);
  w.original_weights.resize(static_cast<size_t>(router.n_active));
  weigh_experts(w.original_weights.data(), router, w.scored, logits, w.original_ids.data(), router.n_active);
}

// Routes token t; throws RouteFault after having written the unedited route where edits cannot be applied.
void route_token(const Route& out, int64_t t, const float* logits, const Router& router, const float* selection_bias,
                 const RouteBatch& batch, RouterWorkspace& w) {
  const int64_t n_experts = router.n_experts, k = router.n_active;
  if (out.shared_scale) out.shared_scale[t] = 1;
  if (out.banned) std::fill_n(out.banned + t * n_experts, n_experts, uint8_t{0});
  if (!usable(logits, n_experts)) {
    write_route(out, t, nullptr, nullptr, 0);
    write_original(out, t, nullptr, 0);
    if (out.margin) out.margin[t] = 0;
    if (out.group_margin) out.group_margin[t] = 0;
    if (out.scores) std::fill_n(out.scores + t * n_experts, n_experts, 0.f);
    throw RouteFault{RouteFault::Kind::not_finite, 0, static_cast<int32_t>(t), -1, -1};
  }
  route_unedited(w, logits, router, selection_bias);
  const float margin = route_margin(w.order, router, logits);
  if (out.margin) out.margin[t] = margin;
  if (out.group_margin) out.group_margin[t] = w.scored.group_margin;
  if (out.scores) std::copy_n(w.scored.values.data(), n_experts, out.scores + t * n_experts);
  write_original(out, t, w.original_ids.data(), k);
  write_route(out, t, w.original_ids.data(), w.original_weights.data(), k);

  if (!edit_scored(w, t, logits, margin, router, selection_bias, batch,
                   out.banned ? out.banned + t * n_experts : nullptr))
    return;
  const EditedToken& token = w.token;
  if (static_cast<int64_t>(token.ids.size()) > out.n_slots) {
    throw Error("router", "expected at most " + std::to_string(out.n_slots) + " slots a token, found a route of " +
                              std::to_string(token.ids.size()));
  }
  write_route(out, t, token.ids.data(), token.weights.data(), static_cast<int64_t>(token.ids.size()));
  if (out.shared_scale) out.shared_scale[t] = token.shared_scale;
  if (out.edits) count_edits(out.edits[t], token, k);
}

}  // namespace

void score_experts(Scored& out, const Router& router, const float* logits, const float* selection_bias,
                   const uint8_t* banned) {
  const int64_t n = router.n_experts;
  out.scores.assign(logits, logits + n);
  if (!router.softmax_over_selected) {
    if (router.score == Router::Score::softmax) {
      softmax(out.scores.data(), logits, n);
    } else {
      sigmoid(out.scores.data(), logits, n);
    }
  }
  out.values = out.scores;
  if (router.selection_bias && selection_bias) {
    for (int64_t e = 0; e < n; ++e) out.values[static_cast<size_t>(e)] += selection_bias[e];
  }
  out.group_margin = infinity;
  out.dropped.clear();
  if (router.limits_groups()) limit_groups(out, router, banned);
}

void rank_experts(std::vector<int32_t>& order, const float* values, const uint8_t* banned, int64_t n_experts,
                  int64_t n_ranked) {
  order.clear();
  for (int32_t e = 0; e < n_experts; ++e) {
    if (!banned || !banned[e]) order.push_back(e);
  }
  const int64_t n = std::min<int64_t>(n_ranked, static_cast<int64_t>(order.size()));
  std::partial_sort(order.begin(), order.begin() + n, order.end(),
                    [&](int32_t a, int32_t b) { return values[a] > values[b] || (values[a] == values[b] && a < b); });
  order.resize(static_cast<size_t>(n));
}

void weigh_experts(float* weights, const Router& router, const Scored& scored, const float* logits, const int32_t* ids,
                   int64_t k) {
  if (k == 0) return;
  for (int64_t i = 0; i < k; ++i) {
    weights[i] = router.softmax_over_selected ? logits[ids[i]] : scored.scores[static_cast<size_t>(ids[i])];
  }
  if (router.softmax_over_selected) softmax(weights, weights, k);
  if (router.renormalize) {
    float sum = 0;
    for (int64_t i = 0; i < k; ++i) sum += weights[i];
    sum += router.renormalize_epsilon;
    if (sum != 0) {
      for (int64_t i = 0; i < k; ++i) weights[i] /= sum;
    }
  }
  for (int64_t i = 0; i < k; ++i) weights[i] *= router.scale;
}

bool edit_token(RouterWorkspace& w, int64_t t, const float* logits, const Router& router, const float* selection_bias,
                const RouteBatch& batch) {
  route_unedited(w, logits, router, selection_bias);
  return edit_scored(w, t, logits, batch.programs ? route_margin(w.order, router, logits) : infinity, router,
                     selection_bias, batch, nullptr);
}

namespace {

// Copies the route of token t to this step's slot of the ring.
void record_route(const Route& out, int64_t t, const float* logits, int64_t n_experts) {
  const RouteRecord& record = out.record;
  const int64_t at = static_cast<int64_t>(*record.step % record.n_steps) * record.step_stride + t, k = out.n_slots;
  if (record.ids) std::copy_n(out.ids + t * k, k, record.ids + at * k);
  if (record.weights) std::copy_n(out.weights + t * k, k, record.weights + at * k);
  if (record.original_ids) {
    std::copy_n((out.original_ids ? out.original_ids : out.ids) + t * k, k, record.original_ids + at * k);
  }
  if (record.margin) record.margin[at] = out.margin[t];
  if (record.group_margin && out.group_margin) record.group_margin[at] = out.group_margin[t];
  if (record.logits) std::copy_n(logits, n_experts, record.logits + at * n_experts);
  if (record.scores) std::copy_n(out.scores + t * n_experts, n_experts, record.scores + at * n_experts);
}

}  // namespace

void CpuBackend::route(const Route& out, Tensor logits, Tensor x, const Matrix& w, const float* bias,
                       const Router& router, const float* selection_bias, const RouteBatch& batch) {
  if (x) matmul(logits, x, w, bias ? Vector{bias, w.rows} : Vector{});
  if (out.n_slots < router.n_active) {
    throw Error("router", "expected n_slots of at least n_active = " + std::to_string(router.n_active) + ", found " +
                              std::to_string(out.n_slots));
  }
  std::mutex mutex;
  for_ranges(logits.rows, router.n_experts * 32, [&](int64_t first, int64_t last, int) {
    RouterWorkspace workspace;
    for (int64_t t = first; t < last; ++t) {
      try {
        route_token(out, t, logits.row(t), router, selection_bias, batch, workspace);
      } catch (RouteFault fault) {
        fault.layer = batch.layer;
        fault.token = static_cast<int32_t>(t);
        if (out.banned) std::fill_n(out.banned + t * router.n_experts, router.n_experts, uint8_t{0});
        if (out.faults) {
          uint64_t& first_fault = out.faults[batch.sequences ? batch.sequences[t] : 0];
          std::lock_guard lock(mutex);
          first_fault = std::min(first_fault, pack_fault(fault));
        }
      }
      if (out.record.step) record_route(out, t, logits.row(t), router.n_experts);
    }
  });
}

}  // namespace signalbox::kernels::cpu
