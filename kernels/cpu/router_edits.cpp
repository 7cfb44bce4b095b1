// Edits of a token's route: (1) logits, (2) selection, (3) route, (4) weights, (5) scales. The order of stages and what
// each edit means is the contract of the edit spec (docs/edits.md).
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/router_stages.h"
#include "kernels/random.h"
#include "kernels/router_steps.h"

namespace signalbox::kernels::cpu {

namespace {

using Fault = RouteFault::Kind;

constexpr float infinity = std::numeric_limits<float>::infinity();

[[noreturn]] void fail(Fault kind, const RouterStep& step, int32_t expert = -1) {
  throw RouteFault{kind, 0, 0, step.edit, expert};
}

// The steps of one program on one token, in application order, and what they have made of the route so far.
struct Edits {
  EditedToken& token;
  RouterWorkspace& w;
  const Router& router;
  const float* selection_bias;
  const RouterProgram& program;

  const float* logits = nullptr;     // edited
  const Scored* scored = nullptr;    // of the edited logits
  const RouterStep* ban = nullptr;   // the last ban, to name where too few experts are left
  const RouterStep* last = nullptr;  // the last step that acted on route or selection: its weights policy holds
  const float* recorded = nullptr;   // weights of the recording that `last` replays

  int64_t n_experts() const { return router.n_experts; }
  int64_t k() const { return static_cast<int64_t>(token.ids.size()); }

  template <class F>
  void for_steps(EditStage stage, F f) {
    for (int32_t i = 0; i < program.n_steps; ++i) {
      const RouterStep& step = program.steps[i];
      if (stage_of(step.op) == stage && step_acts(step, token.active, token.margins)) f(step);
    }
  }

  // Stage 1.
  void edit_logits();
  void steer(float* z, const RouterStep& step, bool& first, float& low, float& high);
  // Stage 2.
  void select();
  // Stage 3.
  void edit_route(const RouterStep& step);
  void next_best(const RouterStep& step);
  void swap_last(const RouterStep& step);
  void worst(const RouterStep& step);
  void map_experts(const RouterStep& step);
  void random(const RouterStep& step);
  void gumbel(const RouterStep& step);
  void frequency_matched(const RouterStep& step);
  void fixed(const RouterStep& step);
  bool replay(const RouterStep& step);
  // Stage 4.
  void weigh();
  // Stage 5.
  void scale();

  int32_t allowed(int32_t expert, const RouterStep& step) const;
  const uint8_t* beyond(const RouterStep& step);
  Draws draws(const RouterStep& step) const;
};

// ---- stage 1: logits

void Edits::edit_logits() {
  logits = token.logits;
  scored = token.scored;
  bool edited = false, first_steer = true;
  float low = 0, high = 0;  // of the one log-softmax that all steermoe edits share
  for_steps(EditStage::logits, [&](const RouterStep& step) {
    if (!edited) w.edited_logits.assign(token.logits, token.logits + n_experts());
    edited = true;
    last = &step;
    float* z = w.edited_logits.data();
    switch (step.op) {
      case EditOp::ban:
        ban = &step;
        for (int32_t i = 0; i < step.n_listed; ++i) {
          z[step.experts[i]] = -infinity;
          token.banned[step.experts[i]] = 1;
        }
        break;
      case EditOp::bias:
        for (int32_t i = 0; i < step.n_listed; ++i) z[step.experts[i]] += step.value;
        break;
      case EditOp::temperature:
        for (int64_t e = 0; e < n_experts(); ++e) z[e] /= step.value;
        token.weighing.temperature *= step.value;
        break;
      default: steer(z, step, first_steer, low, high); token.weighing.steered = true;
    }
  });
  if (!edited) return;
  // With every expert banned there is nothing left to score; the selection says so.
  const bool any = std::any_of(w.edited_logits.begin(), w.edited_logits.end(), [](float z) { return z > -infinity; });
  logits = w.edited_logits.data();
  scored = &w.edited_scored;
  if (any) {
    score_experts(w.edited_scored, router, logits, selection_bias, token.banned);
  } else {
    w.edited_scored.scores.assign(static_cast<size_t>(n_experts()), 0.f);
    w.edited_scored.values = w.edited_scored.scores;
  }
}

// z becomes its log-softmax once; then the listed experts go just below its minimum or above its maximum.
void Edits::steer(float* z, const RouterStep& step, bool& first, float& low, float& high) {
  if (first) {
    first = false;
    const float top = *std::max_element(z, z + n_experts());
    double sum = 0;
    for (int64_t e = 0; e < n_experts(); ++e) sum += std::exp(static_cast<double>(z[e]) - top);
    low = infinity;
    high = -infinity;
    for (int64_t e = 0; e < n_experts(); ++e) {
      z[e] = static_cast<float>(static_cast<double>(z[e]) - top - std::log(sum));
      if (z[e] > -infinity) low = std::min(low, z[e]);
      high = std::max(high, z[e]);
    }
  }
  for (int32_t i = 0; i < step.n_listed; ++i) {
    const int32_t e = step.experts[i];
    if (token.banned[e]) continue;
    z[e] = step.op == EditOp::steermoe_down ? low - 0.01f : high + 0.01f;
  }
}

// ---- stage 2: selection

void Edits::select() {
  int64_t count = router.n_active;
  const RouterStep* few = ban;  // what to name for too few candidates, for too many forced
  const RouterStep* many = nullptr;
  w.taken.assign(static_cast<size_t>(n_experts()), 0);
  token.ids.clear();
  for_steps(EditStage::selection, [&](const RouterStep& step) {
    if (step.op == EditOp::top_k) {
      if (step.k == count) return;
      count = step.k;
      few = &step;
    } else {
      for (int32_t i = 0; i < step.n_listed; ++i) w.taken[static_cast<size_t>(allowed(step.experts[i], step))] = 1;
    }
    last = many = &step;
  });
  for (int32_t e = 0; e < n_experts(); ++e) {
    if (w.taken[static_cast<size_t>(e)]) token.ids.push_back(e);
  }
  if (k() > count) fail(Fault::too_many_forced, *many, token.ids[static_cast<size_t>(count)]);
  rank_experts(w.order, scored->values.data(), token.banned, n_experts(), count + k());
  for (const int32_t e : w.order) {
    if (k() < count && !w.taken[static_cast<size_t>(e)]) token.ids.push_back(e);
  }
  if (k() < count) fail(Fault::too_few_candidates, few ? *few : *last);
}

// ---- stage 3: route

int32_t Edits::allowed(int32_t expert, const RouterStep& step) const {
  if (token.banned[expert]) fail(Fault::banned_expert, step, expert);
  return expert;
}

// [n_experts] 1 = out of the step's reach: banned, or of a group that is not kept where the step stays within those.
const uint8_t* Edits::beyond(const RouterStep& step) {
  if (!step.within_kept || scored->dropped.empty()) return token.banned;
  w.beyond = scored->dropped;
  for (int64_t e = 0; e < n_experts(); ++e) w.beyond[static_cast<size_t>(e)] |= token.banned[e];
  return w.beyond.data();
}

Draws Edits::draws(const RouterStep& step) const {
  DrawKey key;
  key.seed = step.seed;
  key.record_hash = token.record_hash;
  key.sample = token.sample;
  key.position = token.position;
  key.layer = token.layer;
  key.purpose = DrawPurpose::route;
  return Draws(key);
}

void Edits::edit_route(const RouterStep& step) {
  switch (step.op) {
    case EditOp::next_best: next_best(step); break;
    case EditOp::swap_last: swap_last(step); break;
    case EditOp::worst: worst(step); break;
    case EditOp::shift:
    case EditOp::permute: map_experts(step); break;
    case EditOp::random: random(step); break;
    case EditOp::gumbel: gumbel(step); break;
    case EditOp::frequency_matched: frequency_matched(step); break;
    case EditOp::fixed: fixed(step); break;
    case EditOp::replay:
      if (!replay(step)) return;
      break;
    default: return;
  }
  // Possible where an edit follows another (swap_last after next_best, say): the route would not be a set.
  for (size_t i = 0; i < token.ids.size(); ++i) {
    if (std::find(token.ids.begin(), token.ids.begin() + static_cast<int64_t>(i), token.ids[i]) !=
        token.ids.begin() + static_cast<int64_t>(i))
      fail(Fault::repeated_expert, step, token.ids[i]);
  }
  last = &step;
}

// Slots 1 .. k get r(k+1) .. r(2k).
void Edits::next_best(const RouterStep& step) {
  rank_experts(w.ranking, scored->values.data(), beyond(step), n_experts(), 2 * k());
  if (static_cast<int64_t>(w.ranking.size()) < 2 * k()) fail(Fault::too_few_candidates, step);
  std::copy_n(w.ranking.begin() + k(), k(), token.ids.begin());
}

// Slot k gets r(k+1).
void Edits::swap_last(const RouterStep& step) {
  rank_experts(w.ranking, scored->values.data(), beyond(step), n_experts(), k() + 1);
  if (static_cast<int64_t>(w.ranking.size()) < k() + 1) fail(Fault::too_few_candidates, step);
  token.ids.back() = w.ranking.back();
}

// Slots 1 .. k get the end of the ranking, last first.
void Edits::worst(const RouterStep& step) {
  rank_experts(w.ranking, scored->values.data(), beyond(step), n_experts(), n_experts());
  if (static_cast<int64_t>(w.ranking.size()) < k()) fail(Fault::too_few_candidates, step);
  std::copy_n(w.ranking.rbegin(), k(), token.ids.begin());
}

// shift: e -> (e + shift) mod n_experts; permute: e -> experts[e].
void Edits::map_experts(const RouterStep& step) {
  for (int32_t& e : token.ids) {
    e = allowed(step.op == EditOp::shift ? (e + step.shift) % router.n_experts : step.experts[e], step);
  }
}

// Each slot in turn: one of the candidates left, listed by index, all alike.
void Edits::random(const RouterStep& step) {
  w.candidates.clear();
  const int32_t* originals_end = token.original_ids + router.n_active;
  const uint8_t* out_of_reach = beyond(step);
  for (int32_t e = 0; e < n_experts(); ++e) {
    if (out_of_reach[e]) continue;
    if (step.exclude_original && std::find(token.original_ids, originals_end, e) != originals_end) continue;
    w.candidates.push_back(e);
  }
  if (static_cast<int64_t>(w.candidates.size()) < k()) fail(Fault::too_few_candidates, step);
  const Draws source = draws(step);
  for (size_t i = 0; i < token.ids.size(); ++i) {
    const double n = static_cast<double>(w.candidates.size());
    const auto chosen = w.candidates.begin() + static_cast<int64_t>(source.uniform(static_cast<uint32_t>(i)) * n);
    token.ids[i] = *chosen;
    w.candidates.erase(chosen);
  }
}

// The k largest of edited logit + tau * Gumbel, draw e for expert e.
void Edits::gumbel(const RouterStep& step) {
  const Draws source = draws(step);
  w.perturbed.resize(static_cast<size_t>(n_experts()));
  for (int64_t e = 0; e < n_experts(); ++e) {
    w.perturbed[static_cast<size_t>(e)] = logits[e] + step.value * source.gumbel(static_cast<uint32_t>(e));
  }
  rank_experts(w.ranking, w.perturbed.data(), beyond(step), n_experts(), k());
  if (static_cast<int64_t>(w.ranking.size()) < k()) fail(Fault::too_few_candidates, step);
  token.ids = w.ranking;
}

// Each slot in turn: one of the experts left, in proportion to its rate.
void Edits::frequency_matched(const RouterStep& step) {
  const uint8_t* out_of_reach = beyond(step);
  w.taken.assign(out_of_reach, out_of_reach + n_experts());
  const Draws source = draws(step);
  for (size_t i = 0; i < token.ids.size(); ++i) {
    double total = 0;
    for (int64_t e = 0; e < n_experts(); ++e) {
      if (!w.taken[static_cast<size_t>(e)]) total += step.rates[e];
    }
    if (!(total > 0)) fail(Fault::too_few_candidates, step);
    const double point = source.uniform(static_cast<uint32_t>(i)) * total;
    double below = 0;
    int32_t chosen = -1;  // the last one with a rate stays if rounding carries the point past the end
    for (int32_t e = 0; e < n_experts(); ++e) {
      if (w.taken[static_cast<size_t>(e)] || !(step.rates[e] > 0)) continue;
      chosen = e;
      below += step.rates[e];
      if (point < below) break;
    }
    token.ids[i] = chosen;
    w.taken[static_cast<size_t>(chosen)] = 1;
  }
}

void Edits::fixed(const RouterStep& step) {
  if (step.n_listed != k()) fail(Fault::too_few_candidates, step);
  for (size_t i = 0; i < token.ids.size(); ++i) token.ids[i] = allowed(step.experts[i], step);
}

// The recorded route of the position, its own k included. False: nothing was recorded here and the route stays.
bool Edits::replay(const RouterStep& step) {
  const int32_t row =
      token.position >= 0 && token.position < step.replay_positions ? step.replay_index[token.position] : -1;
  if (row < 0) {
    if (step.leave_past) return false;
    fail(Fault::not_recorded, step);
  }
  const int32_t* ids = step.replay_ids + int64_t{row} * step.replay_k;
  token.ids.clear();
  for (int32_t i = 0; i < step.replay_k && ids[i] >= 0; ++i) token.ids.push_back(allowed(ids[i], step));
  recorded = step.replay_weights ? step.replay_weights + int64_t{row} * step.replay_k : nullptr;
  return true;
}

// ---- stage 4: weights

float sum_of(const float* x, int64_t n) {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  return sum;
}

void Edits::weigh() {
  const int64_t n = k(), n_original = router.n_active;
  token.weights.assign(static_cast<size_t>(n), 0.f);
  float* weights = token.weights.data();
  const WeightPolicy policy = last ? last->weights : WeightPolicy::model;
  token.weighing.logits = logits;
  token.weighing.scored = scored;
  token.weighing.policy = policy;
  token.weighing.recorded = policy == WeightPolicy::recorded && recorded;
  if (policy == WeightPolicy::keep_slot) {
    std::copy_n(token.original_weights, std::min(n, n_original), weights);
    return;
  }
  if (token.weighing.recorded) {
    std::copy_n(recorded, n, weights);
    return;
  }
  if (policy == WeightPolicy::keep_scores) {
    weigh_experts(weights, router, *token.scored, token.logits, token.ids.data(), n);
    return;
  }
  weigh_experts(weights, router, *scored, logits, token.ids.data(), n);
  if (policy == WeightPolicy::renormalize || policy == WeightPolicy::preserve_mass) {
    const float sum = sum_of(weights, n);
    const float target = policy == WeightPolicy::renormalize ? 1.f : sum_of(token.original_weights, n_original);
    if (sum == 0) return;
    for (int64_t i = 0; i < n; ++i) {
      weights[i] = policy == WeightPolicy::renormalize ? weights[i] / sum : weights[i] * (target / sum);
    }
  } else if (policy == WeightPolicy::hole) {
    for (int64_t i = 0; i < n; ++i) {
      if (i >= n_original || token.ids[static_cast<size_t>(i)] != token.original_ids[i]) weights[i] = 0;
    }
  }
}

// ---- stage 5: scales

void Edits::scale() {
  token.factors.assign(token.ids.size(), 1.f);
  for_steps(EditStage::scales, [&](const RouterStep& step) {
    token.acted = true;
    if (step.op == EditOp::scale_shared) {
      token.shared_scale *= step.value;
      return;
    }
    for (size_t i = 0; i < token.ids.size(); ++i) {
      if (!std::binary_search(step.experts, step.experts + step.n_listed, token.ids[i])) continue;
      token.weights[i] *= step.value;
      token.factors[i] *= step.value;
    }
  });
}

}  // namespace

void apply_program(EditedToken& token, RouterWorkspace& workspace, const Router& router, const float* selection_bias,
                   const RouterProgram& program) {
  token.shared_scale = 1;
  token.acted = false;
  token.weighing = {};
  Edits edits{token, workspace, router, selection_bias, program};
  edits.edit_logits();
  edits.select();
  edits.for_steps(EditStage::route, [&](const RouterStep& step) { edits.edit_route(step); });
  edits.weigh();
  token.acted = edits.last != nullptr;
  edits.scale();
}

}  // namespace signalbox::kernels::cpu
