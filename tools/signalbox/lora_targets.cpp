#include "tools/signalbox/lora_targets.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <set>
#include <string_view>

#include "base/near_names.h"
#include "base/text.h"
#include "probes/ranking.h"
#include "tools/signalbox/arguments.h"
#include "train/expert_files.h"

namespace signalbox::tools {

namespace {

using Experts = std::set<std::pair<int32_t, int32_t>>;

constexpr std::string_view part_names[] = {"router", "experts", "attention", "shared", "dense", "lm_head"};

std::string_view part_of(Role role) {
  switch (role) {
    case Role::router: return "router";
    case Role::expert_gate:
    case Role::expert_up:
    case Role::expert_down: return "experts";
    case Role::q:
    case Role::k:
    case Role::v:
    case Role::o:
    case Role::q_a:
    case Role::q_b:
    case Role::kv_a:
    case Role::kv_b: return "attention";
    case Role::shared_gate:
    case Role::shared_up:
    case Role::shared_down: return "shared";
    case Role::dense_gate:
    case Role::dense_up:
    case Role::dense_down: return "dense";
    case Role::lm_head: return "lm_head";
    default: return "";
  }
}

std::vector<std::string> items_of(const std::string& list) {
  std::vector<std::string> items;
  for (size_t begin = 0; begin <= list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    items.emplace_back(trimmed(std::string_view(list).substr(begin, end - begin)));
    begin = end + 1;
  }
  return items;
}

std::set<std::string> read_parts(const std::string& list) {
  std::set<std::string> parts;
  for (const std::string& item : items_of(list)) {
    if (std::find(std::begin(part_names), std::end(part_names), item) == std::end(part_names))
      throw UsageError("--targets", "expected " + joined(part_names) + ", found " + in_quotes(item));
    parts.insert(item);
  }
  return parts;
}

void add_expert(Experts& experts, const Model& model, const std::string& where, int64_t layer, int64_t expert) {
  if (layer < 0 || layer >= model.n_layers() || !model.layers[static_cast<size_t>(layer)].moe())
    throw Error(where, "expected a layer with experts, found " + std::to_string(layer));
  const int32_t n = model.layers[static_cast<size_t>(layer)].moe()->router.n_experts;
  if (expert < 0 || expert >= n)
    throw Error(where, "expected experts 0 to " + std::to_string(n - 1) + " of layer " + std::to_string(layer) +
                           ", found " + std::to_string(expert));
  experts.emplace(static_cast<int32_t>(layer), static_cast<int32_t>(expert));
}

// L:E and L:E-E.
Experts read_list(const std::string& list, const Model& model) {
  Experts experts;
  for (const std::string& item : items_of(list)) {
    int64_t numbers[3] = {0, 0, 0};
    const char *at = item.data(), *end = at + item.size();
    const auto number = [&](int64_t& to, char before) {
      if (before != 0 && (at == end || *at++ != before)) return false;
      const auto [rest, error] = std::from_chars(at, end, to);
      at = rest;
      return error == std::errc();
    };
    bool good = number(numbers[0], 0) && number(numbers[1], ':');
    numbers[2] = numbers[1];
    if (good && at != end) good = number(numbers[2], '-') && at == end && numbers[2] >= numbers[1];
    if (!good)
      throw UsageError("--experts",
                       "expected LAYER:EXPERT or LAYER:FIRST-LAST with commas, or a file, found " + in_quotes(item));
    for (int64_t e = numbers[1]; e <= numbers[2]; ++e) add_expert(experts, model, "--experts", numbers[0], e);
  }
  return experts;
}

Experts read_ranking(const std::string& file, int64_t top, const Model& model) {
  const ModelShape shape = probe_shape(model);
  const RankingRows rows;
  const RankingFile ranking(file, &shape, &rows);
  const size_t rd = ranking.effect_column("rd");
  std::vector<RankKey> keys;
  for (size_t row = 0; row < ranking.n_rows(); ++row) {
    const auto value = ranking.value(row, rd);
    if (!value || *value <= 0) continue;
    if (top == 0) {
      const auto q = ranking.value(row, ranking.q_column("rd"));
      if (!q || *q >= 0.05) continue;
    }
    keys.push_back({*value, ranking.layer(row), ranking.expert(row)});
  }
  std::sort(keys.begin(), keys.end(),
            [](const RankKey& a, const RankKey& b) { return ranks_before(a, b, Ranking::Sign::plus); });
  if (top > 0 && static_cast<int64_t>(keys.size()) > top) keys.resize(static_cast<size_t>(top));
  Experts experts;
  for (const RankKey& key : keys) add_expert(experts, model, file, key.layer, key.expert);
  return experts;
}

Experts read_config(const std::string& file, const Model& model) {
  Experts experts;
  for (const auto& [layer, ids] : train::read_expert_config(file, model).experts)
    for (const int32_t id : ids) experts.emplace(layer, id);
  return experts;
}

Experts read_experts(const LoraTargets& targets, const Model& model) {
  const std::string& from = targets.experts;
  const bool csv = from.ends_with(".csv"), config = from.ends_with(".json");
  if (targets.top > 0 && !csv) throw UsageError("--top", "expected --experts FILE.csv beside it, found none");
  Experts experts = csv      ? read_ranking(from, targets.top, model)
                    : config ? read_config(from, model)
                             : read_list(from, model);
  if (experts.empty()) throw Error(from, "expected at least one expert, found none");
  return experts;
}

}  // namespace

std::vector<TensorId> lora_targets(const LoraTargets& targets, const Model& model) {
  const bool chosen = !targets.parts.empty();
  const std::set<std::string> parts =
      chosen ? read_parts(targets.parts) : std::set<std::string>{"experts", "attention", "shared", "dense"};
  if (!targets.experts.empty() && !parts.contains("experts"))
    throw UsageError("--experts", "expected experts among --targets, found " + joined(parts));
  if (targets.experts.empty() && targets.top > 0)
    throw UsageError("--top", "expected --experts FILE.csv beside it, found none");
  const Experts experts = targets.experts.empty() ? Experts() : read_experts(targets, model);
  std::vector<TensorId> ids;
  std::set<std::string_view> found;
  Weights shapes;
  const auto visit = [&](const TensorId& id) {
    const std::string_view part = part_of(id.role);
    if (!parts.contains(std::string(part))) return;
    found.insert(part);
    if (id.expert >= 0 && !experts.empty() && !experts.contains({id.layer, id.expert})) return;
    ids.push_back(id);
  };
  for_each_tensor(model, shapes, [&](const TensorPlace& place) {
    if (place.matrix) visit(place.id);
  });
  if (model.tied_embeddings) visit({Role::lm_head, -1, -1});
  for (const std::string& part : parts)
    if (chosen && !found.contains(part))
      throw UsageError("--targets", "expected parts that this model has, found " + part + ", which it has not");
  return ids;
}

std::string why_routers_stay(const Model& model) {
  const std::vector<int32_t> layers = model.moe_layers();
  const bool stay = std::all_of(layers.begin(), layers.end(), [&](int32_t layer) {
    const Router& router = model.layers[static_cast<size_t>(layer)].moe()->router;
    return router.n_active == 1 && (router.renormalize || router.softmax_over_selected);
  });
  return stay && !layers.empty() ? "one expert is active and its weight is made 1, whatever the router says: its "
                                   "gradient is 0 and its adapter learns nothing"
                                 : "";
}

}  // namespace signalbox::tools
