#include "eval/compress/plan.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "eval/data/dice.h"

namespace signalbox::eval {

namespace {

const Moe& moe_of(const PlanInputs& inputs, int32_t layer) { return *inputs.model->layers[layer].moe(); }

std::vector<uint8_t> always(const PlanInputs& inputs, const LayerMeasures& layer) {
  std::vector<uint8_t> out(static_cast<size_t>(layer.n_experts), 0);
  if (const auto found = inputs.kept_always.find(layer.layer); found != inputs.kept_always.end())
    for (const int32_t e : found->second) out[e] = 1;
  return out;
}

[[noreturn]] void refuse_keep(int32_t layer, const std::string& expected, int64_t keep) {
  throw Error("--keep",
              "layer " + std::to_string(layer) + ": expected " + expected + ", found " + std::to_string(keep));
}

// The first `keep` of `order`, those of `first` before all others.
std::vector<int32_t> choose(const PlanInputs& inputs, const LayerMeasures& layer, const std::vector<int32_t>& order,
                            int64_t keep) {
  const std::vector<uint8_t> first = always(inputs, layer);
  const auto n_first = std::count(first.begin(), first.end(), 1);
  if (n_first > keep) refuse_keep(layer.layer, "at least " + std::to_string(n_first) + " (its super experts)", keep);
  if (inputs.merges && n_first == keep && keep < layer.n_experts)
    refuse_keep(layer.layer, "at least " + std::to_string(n_first + 1) + " (its super experts and one to merge into)",
                keep);
  const Router& router = moe_of(inputs, layer.layer).router;
  const int32_t n_groups = inputs.merges || !router.limits_groups() ? 1 : router.n_groups;
  const int32_t group_size = layer.n_experts / n_groups;
  std::vector<int64_t> room(static_cast<size_t>(n_groups), keep / n_groups);
  std::vector<int32_t> kept;
  for (const uint8_t turn : {1, 0})
    for (const int32_t e : order) {
      if (first[e] != turn) continue;
      int64_t& left = room[static_cast<size_t>(e / group_size)];
      if (left == 0 && turn == 1)
        refuse_keep(layer.layer, "room for all super experts of group " + std::to_string(e / group_size), keep);
      if (left == 0) continue;
      --left;
      kept.push_back(e);
    }
  std::sort(kept.begin(), kept.end());
  return kept;
}

// Groups from where each expert goes: itself, or one that stays.
std::vector<MergeGroup> groups_of(const LayerMeasures& layer, const std::vector<int32_t>& goes_to) {
  std::vector<MergeGroup> groups;
  for (int32_t leader = 0; leader < layer.n_experts; ++leader) {
    MergeGroup group;
    group.experts.push_back(leader);
    for (int32_t e = 0; e < layer.n_experts; ++e)
      if (e != leader && goes_to[e] == leader) group.experts.push_back(e);
    if (group.experts.size() < 2) continue;
    double sum = 0;
    for (const int32_t e : group.experts) sum += static_cast<double>(layer.experts[e].tokens());
    for (const int32_t e : group.experts)  // never used, any of them: all alike
      group.weights.push_back(sum > 0 ? static_cast<double>(layer.experts[e].tokens()) / sum
                                      : 1 / static_cast<double>(group.experts.size()));
    groups.push_back(std::move(group));
  }
  return groups;
}

// The candidates that stay and may be merged into.
std::vector<int32_t> open_for_merging(const PlanInputs& inputs, const LayerMeasures& layer,
                                      const std::vector<int32_t>& keep) {
  const std::vector<uint8_t> closed = always(inputs, layer);
  std::vector<int32_t> out;
  for (const int32_t e : keep)
    if (!closed[e]) out.push_back(e);
  return out;
}

std::vector<int32_t> nearest(const LayerPairs& pairs, const std::vector<int32_t>& keep,
                             const std::vector<int32_t>& open) {
  std::vector<int32_t> goes_to(static_cast<size_t>(pairs.n_experts));
  std::iota(goes_to.begin(), goes_to.end(), 0);
  for (int32_t e = 0; e < pairs.n_experts; ++e) {
    if (std::binary_search(keep.begin(), keep.end(), e)) continue;
    // Scores with weights and scores without are not compared: where one has weights, only those count.
    const bool weighed =
        std::any_of(open.begin(), open.end(), [&](int32_t o) { return !std::isnan(pairs.merge_score(e, o)); });
    double best = -std::numeric_limits<double>::infinity();
    for (const int32_t o : open) {
      const double score = weighed ? pairs.merge_score(e, o) : pairs.use_score(e, o);
      if (score > best) {
        best = score;
        goes_to[e] = o;
      }
    }
  }
  return goes_to;
}

json::Value ids_json(const std::vector<int32_t>& ids) {
  json::Value out = json::Value::array();
  for (const int32_t id : ids) out.push_back(int64_t{id});
  return out;
}

}  // namespace

void check_keep(const Model& model, int64_t keep, bool merges) {
  for (const int32_t layer : model.moe_layers()) {
    const Router& router = model.layers[layer].moe()->router;
    if (keep < router.n_active || keep > router.n_experts)
      refuse_keep(layer,
                  "a number from " + std::to_string(router.n_active) + " (active experts) to " +
                      std::to_string(router.n_experts) + " (experts)",
                  keep);
    if (merges || !router.limits_groups()) continue;
    if (keep % router.n_groups != 0)
      refuse_keep(layer, "a multiple of its " + std::to_string(router.n_groups) + " groups of experts (n_group)", keep);
    const int32_t least = (router.n_active + router.n_groups_kept - 1) / router.n_groups_kept * router.n_groups;
    if (keep < least)
      refuse_keep(layer,
                  "at least " + std::to_string(least) + ": its " + std::to_string(router.n_groups_kept) +
                      " groups (topk_group) must hold " + std::to_string(router.n_active) + " active experts",
                  keep);
  }
}

Plan best_plan(const PlanInputs& inputs, std::string name, int64_t keep,
               const std::vector<std::vector<double>>& scores) {
  Plan plan;
  plan.name = std::move(name);
  plan.keep = keep;
  plan.merges = inputs.merges;
  for (size_t l = 0; l < inputs.measures->size(); ++l) {
    const LayerMeasures& layer = (*inputs.measures)[l];
    const auto score = [&](int32_t e) {
      return std::isnan(scores[l][e]) ? -std::numeric_limits<double>::infinity() : scores[l][e];
    };
    std::vector<int32_t> order(static_cast<size_t>(layer.n_experts));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return score(a) > score(b); });
    LayerPlan& out = plan.layers.emplace_back();
    out.layer = layer.layer;
    out.keep = choose(inputs, layer, order, keep);
    if (inputs.merges)
      out.groups = groups_of(layer, nearest((*inputs.pairs)[l], out.keep, open_for_merging(inputs, layer, out.keep)));
  }
  return plan;
}

Plan random_plan(const PlanInputs& inputs, int64_t keep, uint64_t seed) {
  Plan plan;
  plan.name = "random";
  plan.keep = keep;
  plan.seed = seed;
  plan.merges = inputs.merges;
  for (const LayerMeasures& layer : *inputs.measures) {
    Dice dice(seed, "compress random layer " + std::to_string(layer.layer));
    std::vector<int32_t> order(static_cast<size_t>(layer.n_experts));
    std::iota(order.begin(), order.end(), 0);
    dice.shuffle(order);
    LayerPlan& out = plan.layers.emplace_back();
    out.layer = layer.layer;
    out.keep = choose(inputs, layer, order, keep);
    if (!inputs.merges) continue;
    const std::vector<int32_t> open = open_for_merging(inputs, layer, out.keep);
    std::vector<int32_t> goes_to(static_cast<size_t>(layer.n_experts));
    for (int32_t e = 0; e < layer.n_experts; ++e)
      goes_to[e] = std::binary_search(out.keep.begin(), out.keep.end(), e) ? e : dice.pick(open);
    out.groups = groups_of(layer, goes_to);
  }
  return plan;
}

int64_t kept_of_share(double share, int64_t n_experts, int64_t n_active) {
  // A share such as 0.35 of 20 is 7, whatever its last bit says.
  const double exact = share * static_cast<double>(n_experts);
  return std::clamp(static_cast<int64_t>(std::ceil(exact - 1e-9 * exact)), n_active, n_experts);
}

json::Value layers_json(const Plan& plan) {
  json::Value layers = json::Value::object();
  for (const LayerPlan& layer : plan.layers) {
    json::Value merge = json::Value::array(), weights = json::Value::array();
    for (const MergeGroup& group : layer.groups) {
      merge.push_back(ids_json(group.experts));
      json::Value list = json::Value::array();
      for (const double weight : group.weights) list.push_back(weight);
      weights.push_back(std::move(list));
    }
    json::Value out = json::Value::object();
    out.set("keep", ids_json(layer.keep)).set("merge", std::move(merge));
    if (plan.merges) out.set("merge_weights", std::move(weights));
    layers.set(std::to_string(layer.layer), std::move(out));
  }
  return layers;
}

}  // namespace signalbox::eval
