#include "probes/ranking.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "base/error.h"

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

RankingFile::RankingFile(const std::filesystem::path& file, const ModelShape* shape) : table_(CsvTable::read(file)) {
  const size_t layers = table_.column("layer"), experts = table_.column("expert");
  for (size_t r = 0; r < table_.n_rows(); ++r) {
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
      throw Error(table_.place(r), "expected a row for each expert of a layer, found layer " +
                                       std::to_string(layer(r)) + " expert " + std::to_string(expert(r)) + " twice");
  }
}

std::optional<size_t> RankingFile::find_column(std::string_view name) const {
  const std::vector<std::string>& header = table_.header();
  const auto found = std::find(header.begin(), header.end(), name);
  if (found == header.end()) return std::nullopt;
  return static_cast<size_t>(found - header.begin());
}

std::optional<double> RankingFile::value(size_t row, size_t column) const {
  if (table_.text(row, column).empty() && table_.header()[column] != "rd") return std::nullopt;
  return table_.number(row, column);
}

}  // namespace signalbox::probes
