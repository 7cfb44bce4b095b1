// signalbox vocabulary: against means that numpy made token by token, each contribution through the whole head.
#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <set>
#include <tuple>

#include "base/json.h"
#include "tests/lens/lens_runs.h"
#include "tests/tolerances.h"

using namespace signalbox;
using namespace signalbox::test;

namespace {

// Every row of the golden is the program's, in the same order, but for the text, which models without a tokenizer lack.
void check_table(const CsvTable& golden, const CsvTable& found) {
  REQUIRE(found.n_rows() == golden.n_rows());
  double worst = 0, largest = 1;
  for (size_t r = 0; r < golden.n_rows(); ++r)
    for (size_t c = 0; c < golden.header().size(); ++c) {
      const std::string& name = golden.header()[c];
      CAPTURE(golden.place(r));
      CAPTURE(name);
      if (name == "mean") {
        largest = std::max(largest, std::abs(golden.number(r, c)));
        worst = std::max(worst, std::abs(found.number(r, found.column(name)) - golden.number(r, c)));
      } else {
        REQUIRE(found.text(r, found.column(name)) == golden.text(r, c));
      }
    }
  CHECK(worst <= tolerance::forward * largest);
}

CsvTable golden_table(const std::string& name) { return CsvTable::read(goldens_dir() / "lens" / name); }

}  // namespace

TEST_CASE("vocabulary: both tables of the reference implementation's tensors") {
  for (const std::string family : {"deepseek_v2_lite", "gpt_oss", "qwen2_moe"}) {
    CAPTURE(family);
    const LensRun run("vocabulary", family, "--top 3", true);
    check_table(golden_table(family + "_experts.csv"), run.table("expert_vocabulary.csv"));
    check_table(golden_table(family + "_tokens.csv"), run.table("token_experts.csv"));
    CHECK(run.table("token_experts.csv").header() ==
          std::vector<std::string>{"token", "text", "rank", "layer", "expert", "mean", "n"});
    CHECK(run.table("expert_vocabulary.csv").header() ==
          std::vector<std::string>{"layer", "expert", "rank", "token", "text", "mean", "n"});
  }
}

TEST_CASE("vocabulary: given tokens are the whole table's, with their ranks") {
  const LensRun whole("vocabulary", "olmoe", "--top 96"), some("vocabulary", "olmoe", "--top 5 --tokens 40,2"),
      pieces("vocabulary", "olmoe", "--top 96 --batch 1 --chunk 5");
  std::map<std::tuple<std::string, std::string, std::string>, std::pair<std::string, double>> all;
  const CsvTable table = whole.table("expert_vocabulary.csv"), again = pieces.table("expert_vocabulary.csv");
  REQUIRE(again.n_rows() == table.n_rows());
  std::map<std::pair<std::string, std::string>, double> centre;
  for (size_t r = 0; r < table.n_rows(); ++r) {
    all[{table.text(r, 0), table.text(r, 1), table.text(r, 3)}] = {table.text(r, 2), table.number(r, 5)};
    centre[{table.text(r, 0), table.text(r, 1)}] += table.number(r, 5);
  }
  for (size_t r = 0; r < again.n_rows(); ++r)
    REQUIRE(all.at({again.text(r, 0), again.text(r, 1), again.text(r, 3)}).second ==
            doctest::Approx(again.number(r, 5)).epsilon(1e-6));
  for (const auto& one : centre) CHECK(std::abs(one.second) <= 1e-4);  // centred over the vocabulary
  const CsvTable given = some.table("expert_vocabulary.csv");
  CHECK(given.n_rows() == 2 * centre.size());
  for (size_t r = 0; r < given.n_rows(); ++r) {
    CHECK(given.text(r, 3) == (r % 2 ? "2" : "40"));
    const auto& of_all = all.at({given.text(r, 0), given.text(r, 1), given.text(r, 3)});
    CHECK(of_all.first == given.text(r, 2));
    CHECK(of_all.second == given.number(r, 5));
  }
  const CsvTable tokens = some.table("token_experts.csv");
  CHECK(tokens.n_rows() == 10);
  CHECK((tokens.text(0, 0) == "40" && tokens.text(5, 0) == "2"));
  // The experts that raise token 40 most are the largest of the other table.
  std::multiset<double> of_token;
  for (const auto& one : all)
    if (std::get<2>(one.first) == "40") of_token.insert(-one.second.second);
  auto at = of_token.begin();
  for (size_t r = 0; r < 5; ++r, ++at) CHECK(tokens.number(r, 5) == -*at);
}

TEST_CASE("vocabulary: edits, counts and prompts") {
  TemporaryDirectory dir;
  write_file(dir / "one.json", R"({"edits": [{"op": "top_k", "k": 1}]})");
  const LensRun run("vocabulary", "deepseek_v2_lite", "--top 1 --layers 0-1 --edits " + (dir / "one.json").string());
  // Each token has one expert in the one layer of the range that has a router.
  const CsvTable table = run.table("expert_vocabulary.csv");
  int64_t n = 0;
  for (size_t r = 0; r < table.n_rows(); ++r) {
    CHECK(table.text(r, 0) == "1");
    n += table.integer(r, 6);
  }
  CHECK(n == 81);
  const json::Value summary = json::parse(run.file("summary.json"), "summary");
  CHECK(summary.find("layers")->string() == "1");
  CHECK(summary.find("prompts")->items().size() == 2);
  CHECK(summary.find("edits")->items().size() == 1);
  CHECK(summary.find("n_experts")->integer() == static_cast<int64_t>(table.n_rows()));
  CHECK(summary.find("tables")->find("expert_vocabulary.csv"));

  const LensRun often("vocabulary", "deepseek_v2_lite", "--top 1 --min-count 20");
  const CsvTable kept = often.table("expert_vocabulary.csv");
  CHECK(kept.n_rows() > 0);
  for (size_t r = 0; r < kept.n_rows(); ++r) CHECK(kept.integer(r, 6) >= 20);
}

TEST_CASE("vocabulary: experts that it ranks may be edited, but not tested on the prompts that ranked them") {
  TemporaryDirectory dir;
  const std::string model = (goldens_dir() / "olmoe/model").string();
  write_file(dir / "seen.jsonl", "{\"id\": \"a\", \"tokens\": [5, 9, 40, 3]}\n");
  write_file(dir / "new.jsonl", "{\"id\": \"b\", \"tokens\": [5, 9, 40, 4]}\n");
  REQUIRE(run_command(binary() + " vocabulary " + model + " --input " + (dir / "seen.jsonl").string() +
                      " --tokens 40 --quiet --out " + (dir / "ranked").string())
              .code == 0);
  const auto tested = [&](const std::string& data) {
    write_file(dir / "spec.json", R"({"model": ")" + model + R"(", "data": ")" + data + R"(", "metrics": ["kl"],
        "controls": false, "interventions": [{"name": "baseline"}, {"name": "off", "edits": [{"op": "deactivate",
        "mode": "ban", "experts": {"from": "ranked/expert_vocabulary.csv", "by": "mean", "top": 2, "sign": "+"}}]}]})");
    return run_command(binary() + " run " + (dir / "spec.json").string() + " --quiet --out " +
                       (dir / ("run-" + data)).string());
  };
  const Ran seen = tested("seen.jsonl"), unseen = tested("new.jsonl");
  CAPTURE(seen.err);
  CHECK(seen.code == 1);
  CHECK(seen.err.find("ranked/expert_vocabulary.csv") != std::string::npos);
  CAPTURE(unseen.err);
  CHECK(unseen.code == 0);
}
