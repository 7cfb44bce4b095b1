// Which layers and experts of a model an edit means.
#include <algorithm>
#include <cmath>

#include "probes/edit_plan.h"

namespace signalbox::probes {

namespace {

// Whether the edit can act on a layer, and what the layer lacks if not.
struct Ability {
  bool able = true;
  const char* lacks = "";
};

Ability ability(const EditSpec& spec, int32_t l, const ModelShape& shape) {
  const LayerShape& layer = shape.layers[l];
  if (spec.kind == EditSpec::Kind::router) {
    if (!layer.moe) return {false, "a router"};
    if (spec.op == EditOp::scale_shared && !layer.shared) return {false, "a shared expert"};
    return {};
  }
  if (spec.tokens.by_margin() && !layer.moe) return {false, "a router"};
  if (point_exists(spec.point, l, shape)) return {};
  switch (point_info(spec.point).where) {
    case PointInfo::Where::attention: return {false, "known attention heads"};
    case PointInfo::Where::dense: return {false, "a dense feed-forward block"};
    case PointInfo::Where::shared: return {false, layer.moe ? "a shared expert" : "a router"};
    default: return {false, "a router"};
  }
}

std::string layer_text(int32_t layer) { return "layer " + std::to_string(layer); }

std::vector<int32_t> resolve_layers(const EditSpec& spec, const ModelShape& shape) {
  const int32_t n_layers = shape.n_layers();
  const auto key = spec.ref.find("layers");
  const json::Ref place = key ? *key : spec.ref;
  std::vector<int32_t> layers;
  const char* lacks = "a router";
  auto take = [&](int32_t l, bool named) {
    const Ability found = ability(spec, l, shape);
    if (found.able)
      layers.push_back(l);
    else if (named)
      place.fail("expected layers with " + std::string(found.lacks) + ", found " + layer_text(l));
    else
      lacks = found.lacks;
  };
  if (spec.layers.all)
    for (int32_t l = 0; l < n_layers; ++l) take(l, false);
  for (const LayerList::Item& item : spec.layers.items) {
    if (item.last >= n_layers)
      place.fail("expected layers below " + std::to_string(n_layers) + ", found " + std::to_string(item.last));
    for (int32_t l = item.first; l <= item.last; ++l) take(l, !item.range);
  }
  if (layers.empty()) place.fail("expected a layer with " + std::string(lacks) + ", found none");
  std::sort(layers.begin(), layers.end());
  return layers;
}

void check_expert(const json::Ref& place, int32_t layer, int32_t expert, const ModelShape& shape) {
  const int32_t n_experts = shape.layers[layer].n_experts;
  if (expert >= n_experts)
    place.fail("expected experts below " + std::to_string(n_experts) + " in " + layer_text(layer) + ", found " +
               std::to_string(expert));
}

LayerExperts rank_experts(const Ranking& ranking, const json::Ref& place, const std::vector<int32_t>& layers,
                          const ModelShape& shape) {
  const RankingFile file(ranking.file, &shape, &ranking.rows);
  const size_t by = file.effect_column(ranking.by), q_column = ranking.q_below ? file.q_column(ranking.by) : 0;
  std::vector<RankKey> rows;
  bool any_value = false, any_difference = false;
  for (size_t r = 0; r < file.n_rows(); ++r) {
    // An undefined value has no rank, and is not significant.
    const std::optional<double> value = file.value(r, by);
    if (value) {
      any_value = true;
      any_difference = any_difference || *value != 0;
    }
    if (!value || !std::binary_search(layers.begin(), layers.end(), file.layer(r))) continue;
    if (ranking.q_below) {
      const std::optional<double> q = file.value(r, q_column);
      if (!q || *q >= *ranking.q_below) continue;
    }
    const bool wanted = ranking.sign == Ranking::Sign::plus    ? *value > 0
                        : ranking.sign == Ranking::Sign::minus ? *value < 0
                                                               : *value != 0;
    if (wanted) rows.push_back({*value, file.layer(r), file.expert(r)});
  }
  std::sort(rows.begin(), rows.end(),
            [&](const RankKey& a, const RankKey& b) { return ranks_before(a, b, ranking.sign); });
  std::vector<std::vector<int32_t>> chosen(shape.layers.size());
  int64_t n_chosen = 0;
  for (const RankKey& row : rows) {
    if (n_chosen == ranking.top) break;
    if (static_cast<int64_t>(chosen[row.layer].size()) >= ranking.per_layer) continue;
    chosen[row.layer].push_back(row.expert);
    ++n_chosen;
  }
  if (n_chosen == 0 && any_value && !any_difference)
    place.fail("expected experts that differ in " + ranking.by + ", found none: it is 0 in every row of " +
               ranking.file.string() +
               " (every expert selected for every token, or the same tokens under both conditions; rank by another "
               "column, such as \"by\": \"norm\" or \"rd_weight\", or contrast tokens that differ)");
  if (n_chosen == 0)
    place.fail("expected experts with " + std::string(ranking.by == "rd" ? "an rd" : "a " + ranking.by) +
               " of the sign asked for" + (ranking.q_below ? " and a q below q_below" : "") + " in " +
               ranking.file.string() + ", found none");
  LayerExperts result;
  for (int32_t l = 0; l < shape.n_layers(); ++l)
    if (!chosen[l].empty()) result.emplace_back(l, std::move(chosen[l]));
  return result;
}

}  // namespace

Targets resolve_targets(const EditSpec& spec, const ModelShape& shape) {
  Targets targets;
  const bool of_layer = spec.kind == EditSpec::Kind::router || point_info(spec.point).per_layer;
  if (!of_layer) {
    targets.layers.emplace_back(-1, std::vector<int32_t>{});
    return targets;
  }
  const json::Ref experts = spec.ref.find("experts").value_or(spec.ref);
  targets.by_expert = spec.experts.kind != ExpertList::Kind::none;
  if (spec.experts.kind == ExpertList::Kind::by_layer) {
    for (const auto& [layer, list] : spec.experts.by_layer) {
      if (layer >= shape.n_layers())
        experts.fail("expected layers below " + std::to_string(shape.n_layers()) + ", found " + std::to_string(layer));
      const Ability found = ability(spec, layer, shape);
      if (!found.able)
        experts.fail("expected layers with " + std::string(found.lacks) + ", found " + layer_text(layer));
      for (int32_t expert : list) check_expert(experts, layer, expert, shape);
      targets.layers.emplace_back(layer, list);
    }
    return targets;
  }
  const std::vector<int32_t> layers = resolve_layers(spec, shape);
  if (spec.experts.kind == ExpertList::Kind::ranking) {
    targets.layers = rank_experts(spec.experts.ranking, experts, layers, shape);
    return targets;
  }
  for (int32_t layer : layers) {
    for (int32_t expert : spec.experts.list) check_expert(experts, layer, expert, shape);
    targets.layers.emplace_back(layer, spec.experts.list);
  }
  return targets;
}

}  // namespace signalbox::probes
