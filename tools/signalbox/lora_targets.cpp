#include "tools/signalbox/lora_targets.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <set>
#include <string_view>

#include "base/csv.h"
#include "base/near_names.h"
#include "base/text.h"
#include "engine/roles.h"
#include "probes/ranking.h"
#include "tools/signalbox/arguments.h"
#include "tools/signalbox/expert_list.h"
#include "train/expert_files.h"

namespace signalbox::tools {

namespace {

using Experts = ExpertSet;

constexpr std::string_view part_names[] = {"router", "experts", "attention", "shared", "dense", "lm_head"};

std::string_view part_of(Role role) {
  if (is_attention_matrix(role)) return "attention";
  switch (role) {
    case Role::router: return "router";
    case Role::expert_gate:
    case Role::expert_up:
    case Role::expert_down: return "experts";
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

std::set<std::string> read_parts(const std::string& list) {
  std::set<std::string> parts;
  for (const std::string& item : items_of_list(list)) {
    if (std::find(std::begin(part_names), std::end(part_names), item) == std::end(part_names))
      throw UsageError("--targets", "expected " + joined(part_names) + ", found " + in_quotes(item));
    parts.insert(item);
  }
  return parts;
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

// scores.csv of train experts: those that were chosen.
Experts read_scores(const CsvTable& table, const std::string& file, const Model& model) {
  Experts experts;
  const size_t layer = table.column("layer"), expert = table.column("expert"), chosen = table.column("chosen");
  for (size_t row = 0; row < table.n_rows(); ++row)
    if (table.integer(row, chosen) != 0)
      add_expert(experts, model, file, table.integer(row, layer), table.integer(row, expert));
  return experts;
}

Experts read_table(const std::string& file, int64_t top, const Model& model) {
  const CsvTable table = CsvTable::read(file);
  if (const auto& header = table.header(); std::find(header.begin(), header.end(), "chosen") == header.end())
    return read_ranking(file, top, model);
  if (top > 0) throw UsageError("--top", "expected an rd.csv beside it, found " + file + ", which says what is chosen");
  return read_scores(table, file, model);
}

Experts read_experts(const LoraTargets& targets, const Model& model) {
  const std::string& from = targets.experts;
  const bool csv = from.ends_with(".csv"), config = from.ends_with(".json");
  if (targets.top > 0 && !csv) throw UsageError("--top", "expected --experts FILE.csv beside it, found none");
  Experts experts = csv      ? read_table(from, targets.top, model)
                    : config ? read_config(from, model)
                             : parse_expert_list("--experts", from, model);
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

}  // namespace signalbox::tools
