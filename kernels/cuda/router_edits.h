// Edits of a token's route by one warp, as kernels/cpu/router_edits.cpp defines them: (1) logits, (2) selection,
// (3) route, (4) weights, (5) scales. All lanes go through the steps together; what a step decides is the same in each.
#pragma once
#include "base/namespaces.h"
#include "kernels/cuda/router_token.h"
#include "kernels/random.h"
#include "kernels/router_steps.h"

#if defined(SIGNALBOX_SHIM)
#define SIGNALBOX_CALLED
#else
#define SIGNALBOX_CALLED __noinline__
#endif

namespace signalbox::kernels::DEVICE_SPACE {

namespace {

// a + b * c, rounded twice.
__device__ inline float add_product(float a, float b, float c) { return __fadd_rn(a, __fmul_rn(b, c)); }

__device__ inline bool sorted_list_has(const int32_t* list, int n, int32_t x) {
  int low = 0, high = n;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (list[middle] < x) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < n && list[low] == x;
}

// The draws of a step's slots, slot after slot: each lane makes one of 32.
class SlotDraws {
 public:
  __device__ explicit SlotDraws(const Draws& source) : source_(source) {}
  __device__ double next() {
    if (slot_ % warp_size == 0) mine_ = source_.uniform(static_cast<uint32_t>(slot_ + lane_index()));
    return __shfl_sync(all_lanes, mine_, slot_++ % warp_size);
  }

 private:
  Draws source_;
  double mine_ = 0;
  int slot_ = 0;
};

// The steps of a program on one token and what they have made of its route so far. A stage returns false at a fault.
class Edits {
 public:
  __device__ Edits(const RouteArgs& args, const TokenMemory& m, const RouterProgram& program, int64_t t, int sequence,
                   const uint8_t* active, const RouteMargins& margins)
      : args_(args),
        router_(args.router),
        m_(m),
        program_(program),
        active_(active),
        t_(t),
        sequence_(sequence),
        margins_(margins),
        logits_(m.logits),
        scores_(m.scores),
        values_(m.values) {}

  // Not inlined: the kernels with edits share one copy, which is most of what there is to compile.
  __device__ SIGNALBOX_CALLED bool apply() {
    edit_logits();
    if (!select()) return false;
    for (int i = 0; i < program_.n_steps; ++i) {
      if (acts(i, EditStage::route) && !edit_route(program_.steps[i])) return false;
    }
    weigh();
    scale();
    if (args_.out.edits) count(args_.out.edits[t_]);
    return true;
  }

  __device__ int k() const { return k_; }
  __device__ float shared_scale() const { return shared_scale_; }
  __device__ void report() const { report_fault(args_.out.faults, args_.batch, kind_, t_, edit_, expert_); }

 private:
  __device__ bool acts(int i, EditStage stage) const {
    const RouterStep& step = program_.steps[i];
    return stage_of(step.op) == stage && step_acts(step, active_, margins_);
  }
  __device__ bool fail(RouteFault::Kind kind, const RouterStep* step, int32_t expert = -1) {
    kind_ = kind;
    edit_ = step ? step->edit : -1;
    expert_ = expert;
    return false;
  }
  __device__ Draws draws(const RouterStep& step) const {
    DrawKey key;
    key.seed = step.seed;
    key.record_hash = args_.batch.record_hash ? args_.batch.record_hash[sequence_] : 0;
    key.sample = args_.batch.samples ? args_.batch.samples[sequence_] : 0;
    key.position = position();
    key.layer = args_.batch.layer;
    key.purpose = DrawPurpose::route;
    return Draws(key);
  }
  __device__ int32_t position() const { return args_.batch.positions ? args_.batch.positions[t_] : 0; }

  // ---- stage 1: logits

  __device__ void edit_logits() {
    const int lane = lane_index(), n_experts = router_.n_experts;
    for (int e = lane; e < n_experts; e += warp_size) m_.banned[e] = 0;
    n_candidates_ = n_experts;
    bool edited = false, steered = false;
    float low = 0, high = 0;  // of the one log-softmax that all steermoe edits share
    float* z = m_.edited_logits;
    for (int i = 0; i < program_.n_steps; ++i) {
      if (!acts(i, EditStage::logits)) continue;
      const RouterStep& step = program_.steps[i];
      if (!edited) {
        for (int e = lane; e < n_experts; e += warp_size) z[e] = m_.logits[e];
        edited = true;
      }
      __syncwarp();
      last_ = &step;
      switch (step.op) {
        case EditOp::ban:
          ban_ = &step;
          for (int j = lane; j < step.n_listed; j += warp_size) {
            z[step.experts[j]] = -infinity;
            m_.banned[step.experts[j]] = 1;
          }
          break;
        case EditOp::bias:
          for (int j = lane; j < step.n_listed; j += warp_size) z[step.experts[j]] += step.value;
          break;
        case EditOp::temperature:
          for (int e = lane; e < n_experts; e += warp_size) z[e] /= step.value;
          break;
        default:
          if (!steered) log_softmax(z, low, high);
          steered = true;
          for (int j = lane; j < step.n_listed; j += warp_size) {
            const int e = step.experts[j];
            if (!m_.banned[e]) z[e] = step.op == EditOp::steermoe_down ? low - 0.01f : high + 0.01f;
          }
      }
      __syncwarp();
    }
    if (!edited) {
      __syncwarp();
      return;
    }
    int any = 0, n_banned = 0;
    for (int e = lane; e < n_experts; e += warp_size) {
      any |= z[e] > -infinity;
      n_banned += m_.banned[e];
    }
    for (int m = warp_size / 2; m > 0; m /= 2) n_banned += __shfl_xor_sync(all_lanes, n_banned, m);
    n_candidates_ -= n_banned;
    logits_ = z;
    scores_ = m_.edited_scores;
    values_ = m_.edited_values;
    if (__any_sync(all_lanes, any)) {
      score_experts(m_.edited_scores, m_.edited_values, reinterpret_cast<float*>(m_.keys), router_, z,
                    args_.selection_bias, m_.banned, m_.dropped);
    } else {  // nothing is left to score; the selection says so
      for (int e = lane; e < n_experts; e += warp_size) m_.edited_scores[e] = m_.edited_values[e] = 0;
      __syncwarp();
    }
  }

  // z becomes its log-softmax; low and high are its extremes.
  __device__ void log_softmax(float* z, float& low, float& high) const {
    const int lane = lane_index(), n_experts = router_.n_experts;
    float top = -infinity;
    for (int e = lane; e < n_experts; e += warp_size) top = fmaxf(top, z[e]);
    top = warp_max(top);
    double sum = 0;
    for (int e = lane; e < n_experts; e += warp_size) sum += exp(static_cast<double>(z[e]) - static_cast<double>(top));
    const double log_sum = log(warp_sum_double(sum));
    low = infinity;
    high = -infinity;
    for (int e = lane; e < n_experts; e += warp_size) {
      z[e] = static_cast<float>(static_cast<double>(z[e]) - static_cast<double>(top) - log_sum);
      if (z[e] > -infinity) low = fminf(low, z[e]);
      high = fmaxf(high, z[e]);
    }
    low = -warp_max(-low);
    high = warp_max(high);
    __syncwarp();
  }

  // ---- stage 2: selection

  __device__ bool select() {
    const int lane = lane_index(), n_experts = router_.n_experts;
    int count = router_.n_active;
    const RouterStep* few = ban_;  // what to name for too few candidates, for too many forced
    const RouterStep* many = nullptr;
    for (int e = lane; e < n_experts; e += warp_size) m_.taken[e] = 0;
    __syncwarp();
    for (int i = 0; i < program_.n_steps; ++i) {
      if (!acts(i, EditStage::selection)) continue;
      const RouterStep& step = program_.steps[i];
      if (step.op == EditOp::top_k) {
        if (step.k == count) continue;
        count = step.k;
        few = &step;
      } else {
        int bad = no_index;
        for (int j = lane; j < step.n_listed; j += warp_size) {
          const int e = step.experts[j];
          if (m_.banned[e]) bad = min(bad, j);
          m_.taken[e] = 1;
        }
        bad = warp_min_index(bad);
        if (bad != no_index) return fail(RouteFault::Kind::banned_expert, &step, step.experts[bad]);
      }
      last_ = many = &step;
    }
    __syncwarp();
    for (int first = 0; first < n_experts; first += warp_size) {
      const int e = first + lane;
      const bool mine = e < n_experts && m_.taken[e];
      const unsigned forced = __ballot_sync(all_lanes, mine);
      if (mine) m_.ids[k_ + __popc(forced & lanes_below(lane))] = e;
      k_ += __popc(forced);
    }
    __syncwarp();
    if (k_ > count) return fail(RouteFault::Kind::too_many_forced, many, m_.ids[count]);
    for (int e = lane; e < n_experts; e += warp_size) m_.keys[e] = m_.banned[e] || m_.taken[e] ? 0 : key_of(values_[e]);
    k_ += rank_keys(m_.ids + k_, m_.keys, n_experts, count - k_);
    if (k_ < count) return fail(RouteFault::Kind::too_few_candidates, few ? few : last_);
    return true;
  }

  static __device__ unsigned lanes_below(int lane) { return (1u << lane) - 1; }

  // ---- stage 3: route

  __device__ bool edit_route(const RouterStep& step) {
    bool acted = true, ok = true;
    switch (step.op) {
      case EditOp::next_best: ok = next_best(step); break;
      case EditOp::swap_last: ok = swap_last(step); break;
      case EditOp::worst: ok = worst(step); break;
      case EditOp::shift:
      case EditOp::permute: ok = map_experts(step); break;
      case EditOp::random: ok = random(step); break;
      case EditOp::gumbel: ok = gumbel(step); break;
      case EditOp::frequency_matched: ok = frequency_matched(step); break;
      case EditOp::fixed: ok = fixed(step); break;
      default: ok = replay(step, acted);
    }
    if (!ok || !acted) return ok;
    // Possible where an edit follows another (swap_last after next_best, say): the route would not be a set.
    int repeated = no_index;
    for (int i = lane_index(); i < k_ && repeated == no_index; i += warp_size) {
      for (int j = 0; j < i; ++j) {
        if (m_.ids[j] == m_.ids[i]) {
          repeated = i;
          break;
        }
      }
    }
    repeated = warp_min_index(repeated);
    if (repeated != no_index) return fail(RouteFault::Kind::repeated_expert, &step, m_.ids[repeated]);
    last_ = &step;
    return true;
  }

  // Who is out of the step's reach: banned, or of a group that is not kept where the step stays within those; n = the
  // others. Within groups the list is m_.taken, which no stage needs at that time.
  __device__ const uint8_t* beyond(const RouterStep& step, int& n) {
    n = n_candidates_;
    if (!step.within_kept) return m_.banned;
    n = 0;
    __syncwarp();
    for (int e = lane_index(); e < router_.n_experts; e += warp_size) {
      m_.taken[e] = m_.banned[e] | m_.dropped[e];
      n += !m_.taken[e];
    }
    for (int m = warp_size / 2; m > 0; m /= 2) n += __shfl_xor_sync(all_lanes, n, m);
    __syncwarp();
    return m_.taken;
  }

  // m_.ranking = the n best within reach. False: there are fewer.
  __device__ bool rank(const RouterStep& step, int n) {
    int n_left;
    const uint8_t* out = beyond(step, n_left);
    if (n_left < n) return fail(RouteFault::Kind::too_few_candidates, &step);
    fill_keys(m_.keys, values_, out, router_.n_experts);
    rank_keys(m_.ranking, m_.keys, router_.n_experts, n);
    return true;
  }

  // Slots 1 .. k get r(k+1) .. r(2k).
  __device__ bool next_best(const RouterStep& step) {
    if (!rank(step, 2 * k_)) return false;
    for (int i = lane_index(); i < k_; i += warp_size) m_.ids[i] = m_.ranking[k_ + i];
    __syncwarp();
    return true;
  }

  // Slot k gets r(k+1).
  __device__ bool swap_last(const RouterStep& step) {
    if (!rank(step, k_ + 1)) return false;
    if (lane_index() == 0 && k_ > 0) m_.ids[k_ - 1] = m_.ranking[k_];
    __syncwarp();
    return true;
  }

  // Slots 1 .. k get the end of the ranking, last first: the smallest values, ties to the highest index. That is a
  // ranking of the experts in reverse by keys in reverse.
  __device__ bool worst(const RouterStep& step) {
    int n_left;
    const uint8_t* out = beyond(step, n_left);
    if (n_left < k_) return fail(RouteFault::Kind::too_few_candidates, &step);
    const int n_experts = router_.n_experts;
    for (int i = lane_index(); i < n_experts; i += warp_size) {
      const int e = n_experts - 1 - i;
      m_.keys[i] = out[e] ? 0 : ~key_of(values_[e]);
    }
    rank_keys(m_.ranking, m_.keys, n_experts, k_);
    for (int i = lane_index(); i < k_; i += warp_size) m_.ids[i] = n_experts - 1 - m_.ranking[i];
    __syncwarp();
    return true;
  }

  // False: a slot holds a banned expert; the first such slot is named.
  __device__ bool allowed(const RouterStep& step) {
    int bad = no_index;
    __syncwarp();
    for (int i = lane_index(); i < k_ && bad == no_index; i += warp_size) {
      if (m_.banned[m_.ids[i]]) bad = i;
    }
    bad = warp_min_index(bad);
    return bad == no_index || fail(RouteFault::Kind::banned_expert, &step, m_.ids[bad]);
  }

  // shift: e -> (e + shift) mod n_experts; permute: e -> experts[e].
  __device__ bool map_experts(const RouterStep& step) {
    for (int i = lane_index(); i < k_; i += warp_size) {
      const int e = m_.ids[i];
      m_.ids[i] = step.op == EditOp::shift ? (e + step.shift) % router_.n_experts : step.experts[e];
    }
    return allowed(step);
  }

  // Each slot in turn: one of the candidates left, listed by index, all alike.
  __device__ bool random(const RouterStep& step) {
    const int lane = lane_index(), n_experts = router_.n_experts;
    for (int e = lane; e < n_experts; e += warp_size)
      m_.taken[e] = m_.banned[e] | (step.within_kept ? m_.dropped[e] : 0);
    __syncwarp();
    if (step.exclude_original) {
      for (int i = lane; i < router_.n_active; i += warp_size) m_.taken[m_.original_ids[i]] = 1;
      __syncwarp();
    }
    int n_left = 0;
    for (int e = lane; e < n_experts; e += warp_size) n_left += !m_.taken[e];
    for (int m = warp_size / 2; m > 0; m /= 2) n_left += __shfl_xor_sync(all_lanes, n_left, m);
    if (n_left < k_) return fail(RouteFault::Kind::too_few_candidates, &step);
    SlotDraws source(draws(step));
    for (int i = 0; i < k_; ++i, --n_left) {
      int place = static_cast<int>(source.next() * static_cast<double>(n_left));
      for (int first = 0; first < n_experts; first += warp_size) {
        const int e = first + lane;
        const bool mine = e < n_experts && !m_.taken[e];
        const unsigned left = __ballot_sync(all_lanes, mine);
        if (place < __popc(left)) {
          if (mine && __popc(left & lanes_below(lane)) == place) {
            m_.ids[i] = e;
            m_.taken[e] = 1;
          }
          break;
        }
        place -= __popc(left);
      }
      __syncwarp();
    }
    return true;
  }

  // The k largest of edited logit + tau * Gumbel, draw e for expert e.
  __device__ bool gumbel(const RouterStep& step) {
    int n_left;
    const uint8_t* out = beyond(step, n_left);
    if (n_left < k_) return fail(RouteFault::Kind::too_few_candidates, &step);
    const Draws source = draws(step);
    for (int e = lane_index(); e < router_.n_experts; e += warp_size) {
      const float noise = source.gumbel(static_cast<uint32_t>(e));
      m_.keys[e] = out[e] ? 0 : key_of(add_product(logits_[e], step.value, noise));
    }
    rank_keys(m_.ids, m_.keys, router_.n_experts, k_);
    return true;
  }

  // Each slot in turn: one of the experts left, in proportion to its rate.
  __device__ bool frequency_matched(const RouterStep& step) {
    const int lane = lane_index(), n_experts = router_.n_experts;
    for (int e = lane; e < n_experts; e += warp_size)
      m_.taken[e] = m_.banned[e] | (step.within_kept ? m_.dropped[e] : 0);
    __syncwarp();
    SlotDraws source(draws(step));
    for (int i = 0; i < k_; ++i) {
      double total = 0;
      for (int e = lane; e < n_experts; e += warp_size) total += m_.taken[e] ? 0 : static_cast<double>(step.rates[e]);
      total = warp_sum_double(total);
      if (!(total > 0)) return fail(RouteFault::Kind::too_few_candidates, &step);
      const double point = source.next() * total;
      double below = 0;
      int chosen = -1;  // the last one with a rate stays if rounding carries the point past the end
      for (int first = 0; first < n_experts; first += warp_size) {
        const int e = first + lane;
        const bool mine = e < n_experts && !m_.taken[e] && step.rates[e] > 0;
        double upto = mine ? static_cast<double>(step.rates[e]) : 0;
        for (int m = 1; m < warp_size; m *= 2) {
          const double before = __shfl_up_sync(all_lanes, upto, static_cast<unsigned>(m));
          if (lane >= m) upto += before;
        }
        const unsigned left = __ballot_sync(all_lanes, mine);
        const unsigned past = __ballot_sync(all_lanes, mine && point < below + upto);
        if (past != 0) {
          chosen = first + __ffs(static_cast<int>(past)) - 1;
          break;
        }
        if (left != 0) chosen = first + 31 - __clz(static_cast<int>(left));
        below += __shfl_sync(all_lanes, upto, warp_size - 1);
      }
      if (lane == 0) {
        m_.ids[i] = chosen;
        m_.taken[chosen] = 1;
      }
      __syncwarp();
    }
    return true;
  }

  __device__ bool fixed(const RouterStep& step) {
    if (step.n_listed != k_) return fail(RouteFault::Kind::too_few_candidates, &step);
    for (int i = lane_index(); i < k_; i += warp_size) m_.ids[i] = step.experts[i];
    return allowed(step);
  }

  // The recorded route of the position, its own k included. acted = false: nothing was recorded here, the route stays.
  __device__ bool replay(const RouterStep& step, bool& acted) {
    const int32_t p = position();
    const int32_t row = p >= 0 && p < step.replay_positions ? step.replay_index[p] : -1;
    if (row < 0) {
      acted = false;
      return step.leave_past || fail(RouteFault::Kind::not_recorded, &step);
    }
    const int64_t first = int64_t{row} * step.replay_k;
    const int32_t* ids = step.replay_ids + first;
    int n = 0;
    while (n < step.replay_k && n <= router_.n_experts && ids[n] >= 0) ++n;  // more than all experts: one is repeated
    for (int i = lane_index(); i < n; i += warp_size) m_.ids[i] = ids[i];
    k_ = n;
    recorded_ = step.replay_weights ? step.replay_weights + first : nullptr;
    return allowed(step);
  }

  // ---- stage 4: weights

  __device__ void weigh() {
    const int lane = lane_index(), n_original = router_.n_active;
    float* weights = m_.weights;
    const WeightPolicy policy = last_ ? last_->weights : WeightPolicy::model;
    if (policy == WeightPolicy::keep_slot || (policy == WeightPolicy::recorded && recorded_)) {
      const bool slots = policy == WeightPolicy::keep_slot;
      for (int i = lane; i < k_; i += warp_size)
        weights[i] = !slots ? recorded_[i] : i < n_original ? m_.original_weights[i] : 0;
      return;
    }
    const bool unedited = policy == WeightPolicy::keep_scores;
    weigh_experts(weights, router_, unedited ? m_.scores : scores_, unedited ? m_.logits : logits_, m_.ids, k_);
    if (policy == WeightPolicy::renormalize || policy == WeightPolicy::preserve_mass) {
      const float sum = slot_sum(weights, k_);
      const float target = policy == WeightPolicy::renormalize ? 1.f : slot_sum(m_.original_weights, n_original);
      __syncwarp();
      if (sum == 0) return;
      for (int i = lane; i < k_; i += warp_size)
        weights[i] = policy == WeightPolicy::renormalize ? weights[i] / sum : weights[i] * (target / sum);
    } else if (policy == WeightPolicy::hole) {
      for (int i = lane; i < k_; i += warp_size) {
        if (i >= n_original || m_.ids[i] != m_.original_ids[i]) weights[i] = 0;
      }
    }
  }

  // ---- stage 5: scales

  __device__ void scale() {
    for (int i = 0; i < program_.n_steps; ++i) {
      if (!acts(i, EditStage::scales)) continue;
      const RouterStep& step = program_.steps[i];
      scaled_ = true;
      if (step.op == EditOp::scale_shared) {
        shared_scale_ *= step.value;
        continue;
      }
      for (int j = lane_index(); j < k_; j += warp_size) {
        if (sorted_list_has(step.experts, step.n_listed, m_.ids[j])) m_.weights[j] *= step.value;
      }
    }
    __syncwarp();
  }

  // ---- what has been done: TokenEdits. One warp of a launch has the token, and launches follow each other.

  __device__ void count(TokenEdits& to) const {
    if (!last_ && !scaled_) return;
    const int n_original = router_.n_active;
    int unchanged = 0;
    for (int i = lane_index(); i < n_original; i += warp_size) {
      for (int j = 0; j < k_; ++j) {
        if (m_.ids[j] == m_.original_ids[i]) unchanged += m_.weights[j] == m_.original_weights[i];
      }
    }
    for (int m = warp_size / 2; m > 0; m /= 2) unchanged += __shfl_xor_sync(all_lanes, unchanged, m);
    if (lane_index() != 0) return;
    to.layers += 1;
    to.changed += static_cast<uint32_t>(max(k_, n_original) - unchanged);
    to.added += static_cast<uint32_t>(max(k_ - n_original, 0));
  }

  const RouteArgs& args_;
  const Router& router_;
  TokenMemory m_;
  RouterProgram program_;
  const uint8_t* active_;
  int64_t t_;
  int sequence_;
  RouteMargins margins_;

  const float* logits_;  // edited
  const float* scores_;  // of the edited logits
  const float* values_;
  int n_candidates_ = 0;  // experts that are not banned
  int k_ = 0;
  float shared_scale_ = 1;
  bool scaled_ = false;               // some step of the last stage acted
  const RouterStep* ban_ = nullptr;   // the last ban, to name where too few experts are left
  const RouterStep* last_ = nullptr;  // the last step that acted on route or selection: its weights policy holds
  const float* recorded_ = nullptr;   // weights of the recording that last_ replays
  RouteFault::Kind kind_ = RouteFault::Kind::none;
  int32_t edit_ = -1, expert_ = -1;
};

}  // namespace

}  // namespace signalbox::kernels::DEVICE_SPACE
