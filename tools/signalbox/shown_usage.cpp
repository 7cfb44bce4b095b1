#include "tools/signalbox/shown_usage.h"

#include <algorithm>
#include <map>

#include "base/csv.h"
#include "base/no_number.h"

namespace signalbox::tools {

using namespace eval;

namespace {

// Rows in the order of their first appearance, a column for each expert.
CharacterMap map_of(const std::vector<Usage>& usage, const auto& takes, const auto& name_of, const auto& value_of) {
  CharacterMap map;
  std::map<std::string, size_t> places;
  size_t n_experts = 0;
  for (const Usage& row : usage) n_experts = std::max(n_experts, static_cast<size_t>(row.expert) + 1);
  for (const Usage& row : usage) {
    if (!takes(row)) continue;
    const auto [at, is_new] = places.try_emplace(name_of(row), map.rows.size());
    if (is_new) {
      map.rows.push_back(at->first);
      map.values.emplace_back(n_experts, no_number);
    }
    map.values[at->second][static_cast<size_t>(row.expert)] = value_of(row);
  }
  return map;
}

// Cramer's V by layer, of domains.csv.
std::vector<std::pair<int32_t, double>> domain_effects(const std::filesystem::path& analysis) {
  std::vector<std::pair<int32_t, double>> out;
  if (!std::filesystem::exists(analysis / "domains.csv")) return out;
  const CsvTable table = CsvTable::read(analysis / "domains.csv");
  const size_t layer = table.column("layer"), effect = table.column("cramers_v");
  for (size_t r = 0; r < table.n_rows(); ++r)
    out.emplace_back(static_cast<int32_t>(table.integer(r, layer)),
                     table.text(r, effect).empty() ? no_number : table.number(r, effect));
  return out;
}

}  // namespace

std::string usage_pictures(const std::vector<Usage>& usage, const std::filesystem::path& analysis,
                           const PictureStyle& style) {
  if (usage.empty()) return "";
  const auto of_all = [](const Usage& row) { return row.domain.empty(); };
  const auto share = [](const Usage& row) { return row.share(); };
  std::string out = "Experts by layer: share of tokens that select each\n\n";
  out += character_map(map_of(
                           usage, of_all, [](const Usage& row) { return "layer " + std::to_string(row.layer); }, share),
                       "%", style);
  const std::vector<std::pair<int32_t, double>> effects = domain_effects(analysis);
  if (effects.empty()) return out;
  std::vector<CharacterBar> bars;
  std::pair<int32_t, double> most = {effects[0].first, -1};
  for (const auto& [layer, effect] : effects) {
    bars.push_back({"layer " + std::to_string(layer), effect});
    if (effect > most.second) most = {layer, effect};
  }
  out += "\nHow much use differs between domains (Cram\xC3\xA9r's V; tests in domains.csv)\n\n" +
         character_bars(bars, most.second, style);
  std::map<int32_t, double> overall;
  for (const Usage& row : usage)
    if (row.domain.empty() && row.layer == most.first) overall[row.expert] = row.share();
  out += "\nLayer " + std::to_string(most.first) + ": each domain's share less that of all tokens\n\n";
  return out +
         character_map(map_of(
                           usage, [&](const Usage& row) { return !row.domain.empty() && row.layer == most.first; },
                           [](const Usage& row) { return row.domain; },
                           [&](const Usage& row) { return row.share() - overall[row.expert]; }),
                       "%", style);
}

}  // namespace signalbox::tools
