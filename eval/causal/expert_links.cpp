#include "eval/causal/expert_links.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "base/csv.h"
#include "base/error.h"
#include "base/json.h"

namespace signalbox::eval {

namespace fs = std::filesystem;

namespace {

constexpr const char* pipelines_table = "pipelines.csv";
constexpr const char* pairs_table = "across_layers.csv";

CausalNode expert_of(const CsvTable& table, size_t row, const char* layer_column, const char* expert_column,
                     const ModelShape& shape) {
  const int64_t layer = table.integer(row, table.column(layer_column)),
                expert = table.integer(row, table.column(expert_column));
  const auto found = [&](const std::string& expected, int64_t what) {
    throw Error(table.place(row), "expected " + expected + ", found " + std::to_string(what));
  };
  if (layer < 0 || layer >= shape.n_layers() || !shape.layers[static_cast<size_t>(layer)].moe)
    found("a layer of this model with a router in " + std::string(layer_column), layer);
  const LayerShape& of = shape.layers[static_cast<size_t>(layer)];
  if (expert < 0 || expert >= of.n_experts)
    found("an expert from 0 to " + std::to_string(of.n_experts - 1) + " in " + expert_column, expert);
  if (of.n_active >= of.n_experts)
    throw Error(table.place(row),
                "expected a layer in which another expert can take the place of a banned one, found " +
                    std::to_string(of.n_active) + " of " + std::to_string(of.n_experts) + " selected in layer " +
                    std::to_string(layer));
  return {CausalNode::Kind::expert, static_cast<int32_t>(layer), static_cast<int32_t>(expert)};
}

double number_or_none(const CsvTable& table, size_t row, const char* column) {
  const size_t at = table.column(column);
  return table.text(row, at).empty() ? no_number : table.number(row, at);
}

class LinkList {
 public:
  ExpertLink& at(const CausalNode& from, const CausalNode& to) {
    const auto [found, added] =
        places_.try_emplace({from.layer, from.index, to.layer, to.index}, static_cast<size_t>(links_.size()));
    if (added) links_.push_back({from, to, {}, no_number});
    return links_[found->second];
  }
  std::vector<ExpertLink> sorted() {
    std::vector<ExpertLink> out;
    for (const auto& [key, place] : places_) out.push_back(std::move(links_[place]));
    return out;
  }

 private:
  std::map<std::tuple<int32_t, int32_t, int32_t, int32_t>, size_t> places_;
  std::vector<ExpertLink> links_;
};

void read_pipelines(const fs::path& file, const ModelShape& shape, LinkList& links) {
  const CsvTable table = CsvTable::read(file);
  const size_t number = table.column("pipeline"), step = table.column("step");
  CausalNode last;
  int64_t pipeline = 0, expected = 0;
  for (size_t row = 0; row < table.n_rows(); ++row) {
    const int64_t of = table.integer(row, number), at = table.integer(row, step);
    if (of != pipeline) expected = 1;
    if (at != expected || of < pipeline)
      throw Error(table.place(row), "expected step " + std::to_string(expected) + " of pipeline " +
                                        std::to_string(std::max(of, pipeline)) + ", found step " + std::to_string(at) +
                                        " of pipeline " + std::to_string(of));
    const CausalNode expert = expert_of(table, row, "layer", "expert", shape);
    if (at > 1) {
      if (expert.layer <= last.layer)
        throw Error(table.place(row),
                    "expected a layer above " + std::to_string(last.layer) + ", found " + std::to_string(expert.layer));
      ExpertLink& link = links.at(last, expert);
      link.pipelines.push_back(of);
      link.phi = number_or_none(table, row, "phi");
    }
    last = expert;
    pipeline = of;
    ++expected;
  }
}

void read_pairs(const fs::path& file, const ModelShape& shape, LinkList& links) {
  const CsvTable table = CsvTable::read(file);
  for (size_t row = 0; row < table.n_rows(); ++row) {
    if (!(number_or_none(table, row, "q") < linked_q)) continue;
    const CausalNode from = expert_of(table, row, "layer_a", "expert_a", shape),
                     to = expert_of(table, row, "layer_b", "expert_b", shape);
    if (to.layer <= from.layer)
      throw Error(table.place(row), "expected layer_b above layer_a, found " + std::to_string(to.layer) + " and " +
                                        std::to_string(from.layer));
    links.at(from, to).phi = number_or_none(table, row, "phi");
  }
}

}  // namespace

fs::path table_at(const fs::path& path, const char* name) {
  std::error_code none;
  return fs::is_directory(path, none) ? path / name : path;
}

std::vector<ExpertLink> read_expert_links(const fs::path& pipelines, const fs::path& pairs, const ModelShape& shape) {
  LinkList links;
  std::string asked;
  if (!pipelines.empty()) {
    const fs::path file = table_at(pipelines, pipelines_table);
    read_pipelines(file, shape, links);
    asked = file.string() + ": expected a pipeline of two steps or more";
  }
  if (!pairs.empty()) {
    const fs::path file = table_at(pairs, pairs_table);
    read_pairs(file, shape, links);
    asked += (asked.empty() ? "" : ", or ") + file.string() + ": a pair with q < 0.05";
  }
  std::vector<ExpertLink> found = links.sorted();
  if (found.empty()) throw Error("causal pipelines", asked + ", found none: nothing goes together there");
  return found;
}

void require_analysis_of(const fs::path& analysis, const std::string& model_hash) {
  std::error_code none;
  const fs::path file = (fs::is_directory(analysis, none) ? analysis : analysis.parent_path()) / "summary.json";
  if (!fs::exists(file, none)) return;
  const json::Value summary = json::parse_file(file);
  const auto object = [](const json::Value& value) { return value.type() == json::Type::object; };
  const json::Value* traces = object(summary) ? summary.find("traces") : nullptr;
  if (traces == nullptr || traces->type() != json::Type::array) return;
  for (const json::Value& trace : traces->items()) {
    const json::Value* hash = object(trace) ? trace.find("model_hash") : nullptr;
    if (hash != nullptr && hash->is_string() && hash->string() != model_hash)
      throw Error(file.string(), "expected the analysis of the model that is run, with model_hash " +
                                     model_hash.substr(0, 12) + ", found " + hash->string().substr(0, 12));
  }
}

}  // namespace signalbox::eval
