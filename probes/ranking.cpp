#include "probes/ranking.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>
#include <tuple>

#include "base/error.h"
#include "base/text.h"

namespace signalbox::probes {

bool ranks_before(const RankKey& a, const RankKey& b, Ranking::Sign sign) {
  const auto place = [sign](const RankKey& key) {
    const double value = sign == Ranking::Sign::minus  ? key.value
                         : sign == Ranking::Sign::plus ? -key.value
                                                       : -std::abs(key.value);
    return std::tuple(value, key.layer, key.expert);
  };
  return place(a) < place(b);
}

RankingFile::RankingFile(const std::filesystem::path& file, const ModelShape* shape, const RankingRows* rows)
    : table_(CsvTable::read(file)), file_(file.string()) {
  const size_t layers = table_.column("layer"), experts = table_.column("expert");
  kept_.resize(table_.n_rows());
  std::iota(kept_.begin(), kept_.end(), size_t{0});
  if (rows) choose(*rows);
  for (const size_t r : kept_) {
    const int64_t layer = table_.integer(r, layers), expert = table_.integer(r, experts);
    if (shape) {
      if (layer < 0 || layer >= shape->n_layers() || !shape->layers[layer].moe)
        throw Error(table_.place(r),
                    "layer: expected a layer of the model with a router, found " + std::to_string(layer));
      if (expert < 0 || expert >= shape->layers[layer].n_experts)
        throw Error(table_.place(r), "expert: expected an expert below " +
                                         std::to_string(shape->layers[layer].n_experts) + ", found " +
                                         std::to_string(expert));
    } else if (layer < 0 || layer > 1'000'000 || expert < 0 || expert > 1'000'000) {
      throw Error(table_.place(r),
                  "expected a layer and an expert, found " + std::to_string(layer) + " and " + std::to_string(expert));
    }
    experts_.emplace_back(static_cast<int32_t>(layer), static_cast<int32_t>(expert));
  }
  if (shape) check_repeats(*shape);
}

void RankingFile::check_repeats(const ModelShape& shape) const {
  std::vector<std::vector<uint8_t>> seen(shape.layers.size());
  for (size_t r = 0; r < n_rows(); ++r) {
    std::vector<uint8_t>& of_layer = seen[static_cast<size_t>(layer(r))];
    of_layer.resize(static_cast<size_t>(shape.layers[static_cast<size_t>(layer(r))].n_experts), 0);
    if (of_layer[static_cast<size_t>(expert(r))]++)
      throw Error(table_.place(kept_[r]), "expected a row for each expert of a layer, found layer " +
                                              std::to_string(layer(r)) + " expert " + std::to_string(expert(r)) +
                                              " twice");
  }
}

void RankingFile::choose(const RankingRows& rows) {
  const auto narrow = [&](const char* name, const std::optional<std::string>& wanted) {
    const auto column = find_column(name);
    if (!column) {
      if (wanted)
        throw Error(file_,
                    std::string("expected a column \"") + name + "\", for the rows of \"" + *wanted + "\", found none");
      return;
    }
    std::vector<std::string> found;
    for (const size_t r : kept_)
      if (const std::string text(table_.text(r, *column)); std::find(found.begin(), found.end(), text) == found.end())
        found.push_back(text);
    const std::string listed = joined(found, ", ", [](const std::string& text) { return "\"" + text + "\""; });
    const bool metric = std::string_view(name) == "metric";
    if (metric && !wanted && found.size() > 1)
      throw Error(file_, "expected the key \"metric\" in the ranking, one of " + listed + ", found none");
    if (metric && !wanted) return;
    const std::string text = wanted.value_or("");
    if (!found.empty() && std::find(found.begin(), found.end(), text) == found.end())
      throw Error(file_, std::string("expected a ") + name + " of " + listed + ", found \"" + text + "\"");
    std::erase_if(kept_, [&](size_t r) { return table_.text(r, *column) != text; });
  };
  narrow("condition", rows.condition);
  narrow("domain", rows.domain);
  narrow("metric", rows.metric);
}

namespace {

// What rankings by what experts give are asked for by, and their columns.
struct Given {
  std::string_view by, column, q;
};
constexpr Given given[] = {
    {"norm", "rd_norm", "q_norm"}, {"update_share", "rd_update", "q_update"}, {"direct", "rd_direct", "q_direct"}};

}  // namespace

std::string_view contribution_point(std::string_view by) {
  constexpr std::string_view points[] = {"expert.norm", "expert.update_share", "expert.direct"};
  for (size_t i = 0; i < std::size(given); ++i)
    if (by == given[i].by || by == given[i].column) return points[i];
  return "";
}

size_t RankingFile::effect_column(const std::string& by) const {
  if (const auto own = find_column(by)) return *own;
  for (const Given& one : given) {
    if (by != one.by) continue;
    if (const auto found = find_column(one.column)) return *found;
    throw Error(file_, "expected a column \"" + std::string(one.column) + "\", for the ranking by \"" + by +
                           "\" (a trace with the point " + std::string(contribution_point(by)) +
                           " gives it), found none");
  }
  return column(by);
}

size_t RankingFile::q_column(const std::string& by) const {
  if (!find_column(by) || by.starts_with("rd_"))
    for (const Given& one : given)
      if (by == one.by || by == one.column) return column(one.q);
  return column(by == "effect" ? "q_effect" : "q");
}

std::optional<size_t> RankingFile::find_column(std::string_view name) const {
  const std::vector<std::string>& header = table_.header();
  const auto found = std::find(header.begin(), header.end(), name);
  if (found == header.end()) return std::nullopt;
  return static_cast<size_t>(found - header.begin());
}

std::optional<double> RankingFile::value(size_t row, size_t column) const {
  if (table_.text(kept_[row], column).empty() && table_.header()[column] != "rd") return std::nullopt;
  return table_.number(kept_[row], column);
}

}  // namespace signalbox::probes
