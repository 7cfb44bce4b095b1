#include "train/likeness_files.h"

#include <cmath>

#include "base/csv.h"
#include "base/files.h"
#include "base/text_table.h"
#include "eval/findings/format.h"

namespace signalbox::train {

namespace {

// The best of a layer's pairs by what `get` gives.
std::string best_text(const LayerLikeness& layer, double ExpertLikeness::*get) {
  const ExpertLikeness* best = nullptr;
  for (const ExpertLikeness& pair : layer.pairs)
    if (!std::isnan(pair.*get) && (!best || pair.*get > best->*get)) best = &pair;
  if (!best) return "";
  return std::to_string(best->expert_a) + "-" + std::to_string(best->expert_b) + " " + format_value(best->*get, 3);
}

json::Value layer_json(const LayerLikeness& layer) {
  json::Value out = json::Value::object(), matching = json::Value::array();
  out.set("layer_a", int64_t{layer.layer_a}).set("layer_b", int64_t{layer.layer_b});
  out.set("basis", basis_json(layer.map));
  for (size_t a = 0; a < layer.matched.size(); ++a) {
    const int32_t b = layer.matched[a];
    if (b < 0) continue;
    const ExpertLikeness& pair = layer.pairs[a * static_cast<size_t>(layer.n_b) + static_cast<size_t>(b)];
    matching.push_back(json::Value::object()
                           .set("expert_a", static_cast<int64_t>(a))
                           .set("expert_b", int64_t{b})
                           .set("function", pair.function));
  }
  out.set("matching", std::move(matching));
  out.set("matched_mean", layer.matched_mean).set("all_pairs_mean", layer.all_mean);
  out.set("random_experts_mean", layer.random_mean);
  return out.set("no_weight", layer.no_weight.empty() ? json::Value() : json::Value(layer.no_weight));
}

}  // namespace

json::Value basis_json(const BasisMap& map) {
  json::Value out = json::Value::object();
  out.set("kind", basis_names[static_cast<size_t>(map.kind)]).set("scale", map.scale);
  out.set("tokens_fitted", map.fitted).set("tokens_judged", map.judged).set("residual", map.residual);
  out.set("error_none", map.error_none).set("error_procrustes", map.error_procrustes);
  out.set("error_ridge", map.error_ridge);
  if (map.kind != Basis::procrustes) return out;
  return out.set("rank", map.rank).set("way", map.whitened ? "whitened" : "plain");
}

std::string basis_text(const BasisMap& map) {
  const double error = map.kind == Basis::none         ? map.error_none
                       : map.kind == Basis::procrustes ? map.error_procrustes
                                                       : map.error_ridge;
  return std::string(basis_names[static_cast<size_t>(map.kind)]) + ", error " + format_value(error, 3);
}

void write_likeness(const LikenessResult& result, json::Value about, const std::filesystem::path& directory) {
  CsvWriter csv({"layer_a", "expert_a", "layer_b", "expert_b", "weight", "function", "cka", "routing",
                 "function_selected", "error", "error_selected", "svcca"});
  json::Value layers = json::Value::array();
  for (const LayerLikeness& layer : result.layers) {
    layers.push_back(layer_json(layer));
    for (const ExpertLikeness& pair : layer.pairs) {
      csv.cell(int64_t{layer.layer_a}).cell(int64_t{pair.expert_a});
      csv.cell(int64_t{layer.layer_b}).cell(int64_t{pair.expert_b});
      csv.cell(pair.weight).cell(pair.function).cell(pair.cka).cell(pair.routing).cell(pair.function_selected);
      csv.cell(pair.error).cell(pair.error_selected).cell(pair.svcca).end_row();
    }
  }
  about.set("tokens", result.tokens).set("states", result.states).set("states_for_cka", result.needed);
  about.set("layers", std::move(layers));
  write_file_atomically(directory / likeness_files[0], csv.text());
  write_file_atomically(directory / likeness_files[1], json::dump(about, 2) + "\n");
}

std::string likeness_table(const LikenessResult& result, int width) {
  TextTable table({{"layers", false, true},
                   {"basis"},
                   {"matched"},
                   {"all pairs"},
                   {"random"},
                   {"best function"},
                   {"best weight"},
                   {"best CKA"},
                   {"best routing"}});
  for (const LayerLikeness& layer : result.layers)
    table.add({std::to_string(layer.layer_a) + " and " + std::to_string(layer.layer_b), basis_text(layer.map),
               format_value(layer.matched_mean, 3), format_value(layer.all_mean, 3), format_value(layer.random_mean, 3),
               best_text(layer, &ExpertLikeness::function), best_text(layer, &ExpertLikeness::weight),
               best_text(layer, &ExpertLikeness::cka), best_text(layer, &ExpertLikeness::routing)});
  return table.text(width);
}

}  // namespace signalbox::train
