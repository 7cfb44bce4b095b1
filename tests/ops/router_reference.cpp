#include "tests/ops/router_reference.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "kernels/random.h"

namespace signalbox::test {

namespace {

const double inf = std::numeric_limits<double>::infinity();
using Kind = RouteFault::Kind;
using Ids = std::vector<int32_t>;
using Doubles = std::vector<double>;

size_t at(int64_t i) { return static_cast<size_t>(i); }

Doubles softmax(const Doubles& z) {
  Doubles p;
  double sum = 0;
  for (const double x : z) p.push_back(std::exp(x)), sum += p.back();
  for (double& x : p) x /= sum;
  return p;
}

Ids sorted_by(const Doubles& values) {
  Ids order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return values[at(a)] > values[at(b)]; });
  return order;
}

struct View {
  Doubles z, weight_scores, values;
  std::vector<bool> dropped;  // by expert
  double group_margin = inf;
};

// Scores of every expert and what the top-k sees of them.
View look(const ReferenceInput& in, const std::vector<float>& logits, const std::vector<bool>& banned) {
  View v;
  v.z.assign(logits.begin(), logits.end());
  if (in.router.softmax_over_selected) {
    v.weight_scores = v.z;
  } else if (in.router.score == Router::Score::softmax) {
    v.weight_scores = softmax(v.z);
  } else {
    for (const double x : v.z) v.weight_scores.push_back(1 / (1 + std::exp(-x)));
  }
  v.values = v.weight_scores;
  for (size_t e = 0; e < v.values.size() && in.router.selection_bias; ++e)
    v.values[e] += static_cast<double>(in.selection_bias[e]);
  const size_t n_groups = at(in.router.n_groups), size = v.z.size() / n_groups;
  Doubles groups;
  for (size_t g = 0; g < n_groups; ++g) {
    Doubles members;
    for (size_t e = g * size; e < (g + 1) * size; ++e) {
      if (!banned[e]) members.push_back(v.values[e]);
    }
    std::sort(members.rbegin(), members.rend());
    double score = members.empty() ? -inf : members[0];
    if (in.router.group_score == Router::GroupScore::sum_top2 && members.size() > 1) score += members[1];
    groups.push_back(score);
  }
  const Ids best = sorted_by(groups);
  const size_t kept = at(in.router.n_groups_kept);
  if (kept < n_groups) v.group_margin = groups[at(best[kept - 1])] - groups[at(best[kept])];
  v.dropped.assign(v.values.size(), false);
  for (size_t i = at(in.router.n_groups_kept); i < n_groups; ++i) {
    for (size_t e = at(best[i]) * size; e < (at(best[i]) + 1) * size; ++e)
      v.values[e] = v.weight_scores[e] = 0, v.dropped[e] = true;
  }
  return v;
}

Doubles own_weights(const Router& router, const View& v, const Ids& ids) {
  Doubles w;
  for (const int32_t e : ids) w.push_back(router.softmax_over_selected ? v.z[at(e)] : v.weight_scores[at(e)]);
  if (router.softmax_over_selected) w = softmax(w);
  const double sum = std::accumulate(w.begin(), w.end(), 0.0) + static_cast<double>(router.renormalize_epsilon);
  for (double& x : w) x = (router.renormalize && sum != 0 ? x / sum : x) * static_cast<double>(router.scale);
  return w;
}

struct Refusal {
  Kind kind;
  int32_t edit, expert;
};

}  // namespace

ReferenceRoute reference_route(const ReferenceInput& in) {
  ReferenceRoute out;
  const int32_t n = in.router.n_experts;
  out.banned.assign(at(n), false);
  const View plain = look(in, in.logits, out.banned);
  Ids order = sorted_by(plain.values);
  out.original_ids.assign(order.begin(), order.begin() + in.router.n_active);
  out.original_weights = own_weights(in.router, plain, out.original_ids);
  const Ids by_logit = sorted_by(plain.z);
  out.margin = in.router.n_active == n
                   ? inf
                   : plain.z[at(by_logit[at(in.router.n_active - 1)])] - plain.z[at(by_logit[at(in.router.n_active)])];
  out.group_margin = plain.group_margin;
  // The nearest other choice: the next expert of the groups kept, or the next group.
  double near_tie = plain.group_margin;
  Ids candidates;
  for (const int32_t e : order) {
    if (!plain.dropped[at(e)]) candidates.push_back(e);
  }
  const size_t active = at(in.router.n_active);
  if (candidates.size() > active)
    near_tie = std::min(near_tie, plain.values[at(candidates[active - 1])] - plain.values[at(candidates[active])]);
  out.ids = out.original_ids;
  out.weights = out.original_weights;

  std::vector<RouterStep> steps;  // those that act here
  for (const RouterStep& s : in.steps) {
    const bool nothing =
        (s.op == EditOp::bias && s.value == 0) || (s.op == EditOp::shift && s.shift == 0) ||
        ((s.op == EditOp::temperature || s.op == EditOp::scale_expert || s.op == EditOp::scale_shared) && s.value == 1);
    if (!nothing && in.active[at(s.edit)] &&
        (std::isinf(s.margin_below) || out.margin < static_cast<double>(s.margin_below)) &&
        (std::isinf(s.near_tie_below) || near_tie < static_cast<double>(s.near_tie_below)))
      steps.push_back(s);
  }
  const auto listed = [](const RouterStep& s) { return Ids(s.experts, s.experts + s.n_listed); };
  WeightPolicy policy = WeightPolicy::model;
  const float* recorded = nullptr;
  try {
    // (1) logits
    std::vector<float> z = in.logits;
    std::optional<std::pair<float, float>> bounds;
    int32_t ban_edit = -1;
    for (const RouterStep& s : steps) {
      const bool steer = s.op == EditOp::steermoe_down || s.op == EditOp::steermoe_up;
      if (s.op == EditOp::ban) {
        for (const int32_t e : listed(s)) z[at(e)] = -std::numeric_limits<float>::infinity(), out.banned[at(e)] = true;
        ban_edit = s.edit;
      } else if (s.op == EditOp::bias) {
        for (const int32_t e : listed(s)) z[at(e)] += s.value;
      } else if (s.op == EditOp::temperature) {
        for (float& x : z) x /= s.value;
      } else if (steer) {
        if (!bounds) {
          double sum = 0;
          for (const float x : z) sum += std::exp(static_cast<double>(x));
          bounds.emplace(std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity());
          for (float& x : z) {
            x = static_cast<float>(static_cast<double>(x) - std::log(sum));
            if (std::isfinite(x))
              bounds->first = std::min(bounds->first, x), bounds->second = std::max(bounds->second, x);
          }
        }
        for (const int32_t e : listed(s)) {
          if (!out.banned[at(e)])
            z[at(e)] = s.op == EditOp::steermoe_down ? bounds->first - 0.01f : bounds->second + 0.01f;
        }
      } else {
        continue;
      }
      policy = s.weights;
    }
    const View edited = look(in, z, out.banned);
    const auto within_reach = [&](int32_t e, const RouterStep* s) {
      return !out.banned[at(e)] && !(s && s->within_kept && edited.dropped[at(e)]);
    };
    const auto ranked = [&](const RouterStep* s) {
      Ids found;
      for (const int32_t e : sorted_by(edited.values)) {
        if (within_reach(e, s)) found.push_back(e);
      }
      return found;
    };
    Ids ranking = ranked(nullptr);
    const auto check = [&](int32_t e, const RouterStep& s) {
      if (out.banned[at(e)]) throw Refusal{Kind::banned_expert, s.edit, e};
      return e;
    };

    // (2) selection
    size_t k = at(in.router.n_active);
    std::set<int32_t> forced;
    int32_t few = ban_edit, many = -1;
    for (const RouterStep& s : steps) {
      if (s.op == EditOp::top_k && at(s.k) != k) {
        k = at(s.k), few = many = s.edit, policy = s.weights;
      } else if (s.op == EditOp::force) {
        for (const int32_t e : listed(s)) forced.insert(check(e, s));
        many = s.edit, policy = s.weights;
      }
    }
    if (forced.size() > k) throw Refusal{Kind::too_many_forced, many, *std::next(forced.begin(), static_cast<long>(k))};
    Ids ids(forced.begin(), forced.end());
    for (const int32_t e : ranking) {
      if (ids.size() < k && !forced.count(e)) ids.push_back(e);
    }
    if (ids.size() < k) throw Refusal{Kind::too_few_candidates, few, -1};

    // (3) route
    for (const RouterStep& s : steps) {
      k = ids.size();
      ranking = ranked(&s);
      const auto need = [&](bool enough) {
        if (!enough) throw Refusal{Kind::too_few_candidates, s.edit, -1};
      };
      DrawKey key;
      key.seed = s.seed, key.record_hash = in.record_hash, key.sample = in.sample, key.position = in.position,
      key.layer = in.layer;
      const Draws draws(key);
      switch (s.op) {
        case EditOp::next_best:
          need(ranking.size() >= 2 * k);
          for (size_t i = 0; i < k; ++i) ids[i] = ranking[k + i];
          break;
        case EditOp::swap_last:
          need(ranking.size() >= k + 1);
          ids[k - 1] = ranking[k];
          break;
        case EditOp::worst:
          need(ranking.size() >= k);
          for (size_t i = 0; i < k; ++i) ids[i] = ranking[ranking.size() - 1 - i];
          break;
        case EditOp::shift:
          for (int32_t& e : ids) e = check((e + s.shift) % n, s);
          break;
        case EditOp::permute:
          for (int32_t& e : ids) e = check(s.experts[e], s);
          break;
        case EditOp::random: {
          Ids left;
          for (int32_t e = 0; e < n; ++e) {
            const bool original = std::count(out.original_ids.begin(), out.original_ids.end(), e) > 0;
            if (within_reach(e, &s) && !(s.exclude_original && original)) left.push_back(e);
          }
          need(left.size() >= k);
          for (uint32_t i = 0; i < k; ++i) {
            const size_t pick = static_cast<size_t>(std::floor(draws.uniform(i) * static_cast<double>(left.size())));
            ids[i] = left[pick];
            left.erase(left.begin() + static_cast<long>(pick));
          }
          break;
        }
        case EditOp::gumbel: {
          Doubles noisy;
          for (int32_t e = 0; e < n; ++e)
            noisy.push_back(static_cast<double>(z[at(e)] + s.value * draws.gumbel(static_cast<uint32_t>(e))));
          Ids best;
          for (const int32_t e : sorted_by(noisy)) {
            if (within_reach(e, &s) && best.size() < k) best.push_back(e);
          }
          need(best.size() == k);
          ids = best;
          break;
        }
        case EditOp::frequency_matched: {
          std::map<int32_t, double> left;
          for (int32_t e = 0; e < n; ++e) {
            if (within_reach(e, &s) && s.rates[e] > 0) left[e] = static_cast<double>(s.rates[e]);
          }
          for (uint32_t i = 0; i < k; ++i) {
            need(!left.empty());
            double total = 0;
            for (const auto& [e, rate] : left) total += rate;
            double point = draws.uniform(i) * total, below = 0;
            int32_t chosen = left.rbegin()->first;
            for (const auto& [e, rate] : left) {
              below += rate;
              if (point < below) {
                chosen = e;
                break;
              }
            }
            ids[i] = chosen;
            left.erase(chosen);
          }
          break;
        }
        case EditOp::fixed:
          need(at(s.n_listed) == k);
          for (size_t i = 0; i < k; ++i) ids[i] = check(s.experts[i], s);
          break;
        case EditOp::replay: {
          const int32_t row = in.position < s.replay_positions ? s.replay_index[in.position] : -1;
          if (row < 0 && s.leave_past) continue;
          if (row < 0) throw Refusal{Kind::not_recorded, s.edit, -1};
          ids.clear();
          for (int32_t i = 0; i < s.replay_k; ++i) {
            if (s.replay_ids[row * s.replay_k + i] >= 0) ids.push_back(check(s.replay_ids[row * s.replay_k + i], s));
          }
          recorded = s.replay_weights ? s.replay_weights + row * s.replay_k : nullptr;
          break;
        }
        default: continue;
      }
      for (size_t i = 0; i < ids.size(); ++i)
        if (std::count(ids.begin(), ids.begin() + static_cast<long>(i), ids[i]) > 0)
          throw Refusal{Kind::repeated_expert, s.edit, ids[i]};
      policy = s.weights;
    }

    // (4) weights
    k = ids.size();
    Doubles w = own_weights(in.router, policy == WeightPolicy::keep_scores ? plain : edited, ids);
    const double sum = std::accumulate(w.begin(), w.end(), 0.0);
    const double mass = std::accumulate(out.original_weights.begin(), out.original_weights.end(), 0.0);
    for (size_t i = 0; i < k; ++i) {
      const bool had = i < out.original_ids.size();
      if (policy == WeightPolicy::renormalize && sum != 0) w[i] /= sum;
      if (policy == WeightPolicy::preserve_mass && sum != 0) w[i] *= mass / sum;
      if (policy == WeightPolicy::keep_slot) w[i] = had ? out.original_weights[i] : 0;
      if (policy == WeightPolicy::hole && !(had && out.original_ids[i] == ids[i])) w[i] = 0;
      if (policy == WeightPolicy::recorded && recorded) w[i] = static_cast<double>(recorded[i]);
    }

    // (5) scales
    for (const RouterStep& s : steps) {
      if (s.op == EditOp::scale_shared) out.shared_scale *= static_cast<double>(s.value);
      if (s.op != EditOp::scale_expert) continue;
      const Ids scaled = listed(s);
      for (size_t i = 0; i < k; ++i)
        w[i] *= std::count(scaled.begin(), scaled.end(), ids[i]) ? static_cast<double>(s.value) : 1;
    }
    out.ids = ids;
    out.weights = w;
    int32_t slots = in.router.n_active;
    for (const RouterStep& s : steps) {
      const bool recorded_here = in.position < s.replay_positions && s.replay_index[in.position] >= 0;
      if ((s.op == EditOp::top_k && s.k == slots) || (s.op == EditOp::replay && !recorded_here)) continue;
      if (s.op == EditOp::top_k) slots = s.k;
      out.acted = true;
    }
  } catch (const Refusal& r) {
    out.fault = RouteFault{r.kind, 0, 0, r.edit, r.expert};
    out.shared_scale = 1;
  }
  return out;
}

}  // namespace signalbox::test
