// The experts that the authors of ESFT published for four tasks, from the scores that they published: the same 488.
#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/csv.h"
#include "base/json.h"
#include "loaders/open.h"
#include "tests/support.h"
#include "train/expert_choice.h"
#include "train/expert_files.h"

using namespace signalbox;
using namespace signalbox::test;
using namespace signalbox::train;

namespace {

std::vector<int32_t> numbers_of(const std::string& text) {
  std::vector<int32_t> numbers;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(' ', at), text.size());
    numbers.push_back(std::stoi(text.substr(at, end - at)));
    at = end + 1;
  }
  return numbers;
}

}  // namespace

TEST_CASE("experts: published scores choose the published experts, and published configurations are read") {
  const TemporaryDirectory dir;
  // As many layers and experts as DeepSeek-V2-Lite has, each tiny.
  write_file(dir / "spec.json",
             R"({"family": "deepseek_v2", "tokenizer": "bytes", "config": {"num_hidden_layers": 27,
             "n_routed_experts": 64, "num_experts_per_tok": 6, "hidden_size": 8, "moe_intermediate_size": 8,
             "intermediate_size": 16, "n_shared_experts": 2}})");
  REQUIRE(
      run_command(binary() + " make-model " + (dir / "spec.json").string() + " --out " + (dir / "m").string()).code ==
      0);
  const Session session = loaders::open_session((dir / "m").string(), {});
  const CsvTable table = CsvTable::read(source_dir() / "tests/train/esft_published.csv");
  REQUIRE(table.n_rows() == 4 * 26);
  std::map<std::string, ExpertsByLayer> experts;
  std::map<std::string, json::Value> published;
  for (size_t row = 0; row < table.n_rows(); ++row) {
    const std::string task = table.text(row, table.column("task"));
    const auto layer = static_cast<int32_t>(table.integer(row, table.column("layer")));
    CAPTURE(task);
    CAPTURE(layer);
    std::vector<int32_t> chosen = numbers_of(table.text(row, table.column("chosen")));
    json::Value list = json::Value::array();
    for (const int32_t expert : chosen) list.push_back(int64_t{expert});
    published.try_emplace(task, json::Value::object()).first->second.set(std::to_string(layer), std::move(list));
    std::vector<double> scores;
    for (const int32_t score : numbers_of(table.text(row, table.column("token_scores")))) scores.push_back(score / 1e4);
    REQUIRE(scores.size() == 64);
    // In the order of their falling scores; of equal ones the first.
    for (size_t i = 1; i < chosen.size(); ++i)
      CHECK(std::pair(-scores[chosen[i - 1]], chosen[i - 1]) < std::pair(-scores[chosen[i]], chosen[i]));
    std::sort(chosen.begin(), chosen.end());
    CHECK(choose_experts(scores, 0.2) == chosen);
    experts[task][layer] = chosen;
  }
  const std::map<std::string, size_t> counts = {{"intent", 124}, {"law", 153}, {"summary", 128}, {"translation", 83}};
  for (const auto& one : counts) {
    const std::string& task = one.first;
    CAPTURE(task);
    size_t n = 0;
    for (const auto& of : experts.at(task)) n += of.second.size();
    CHECK(n == one.second);
    // Their file, with experts in the order of their scores.
    write_file(dir / "expert_cfg.json", json::dump(json::Value::object()
                                                       .set("experts", std::move(published.at(task)))
                                                       .set("shared_experts", false)
                                                       .set("non_expert_modules", false)));
    const ExpertConfig config = read_expert_config(dir / "expert_cfg.json", session.model);
    CHECK(config.experts == experts.at(task));
    CHECK_FALSE(config.shared_experts);
    CHECK_FALSE(config.non_expert_modules);
    // And ours is read as it was written.
    write_file(dir / "ours.json", expert_config_json(config));
    CHECK(read_expert_config(dir / "ours.json", session.model).experts == config.experts);
  }
}
