// Every example of docs/experiments.md is what it says: an experiment, or one that is refused with those words.
#include <algorithm>
#include <set>

#include "eval/experiment/interventions.h"
#include "tests/docs.h"
#include "tests/run/experiment_sample.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;
using namespace signalbox::test;

namespace {

std::string docs_page() { return page_of("docs/experiments.md"); }

}  // namespace

TEST_CASE("docs: every example of docs/experiments.md is an experiment") {
  TemporaryDirectory dir;
  const std::string page = docs_page();
  const auto examples = fenced_blocks(page, "json experiment");
  CHECK(examples.size() >= 6);
  std::set<std::string> used;
  for (const std::string& example : examples) {
    CAPTURE(example);
    write_file(dir / "experiment.json", example);
    REQUIRE_NOTHROW(load_experiment(dir / "experiment.json"));
    const json::Value spec = json::parse(example, "example");
    for (const auto& [key, value] : spec.members()) used.insert(key);
  }
  for (const char* key : {"model", "data",     "interventions", "baseline",    "generate",  "programs", "detect",
                          "audit", "controls", "metrics",       "judges",      "seeds",     "split",    "cross_fit",
                          "tune",  "traces",   "primary",       "equivalence", "resamples", "seed"}) {
    CHECK_MESSAGE(page.find("| `" + std::string(key) + "` |") != std::string::npos, key);
    CHECK_MESSAGE((used.contains(key) || std::string(key) == "baseline"), key);
  }
}

TEST_CASE("docs: what docs/experiments.md says of its examples") {
  TemporaryDirectory dir;
  const auto examples = fenced_blocks(docs_page(), "json experiment");
  ModelShape shape = sample_shape();
  shape.layers.assign(6, {true, 64, 6, 3, true});
  write_file(dir / "experiment.json", examples.at(0));
  const ExperimentSpec first = load_experiment(dir / "experiment.json");
  const Detected detected = {{}, UsageTable(6, std::vector<double>(64, 1.0))};
  CHECK(plan_interventions(first, all_interventions(first), shape, detected).size() == 23);
  write_file(dir / "experiment.json", examples.at(1));
  const ExperimentSpec grid = load_experiment(dir / "experiment.json");
  REQUIRE(grid.interventions.size() == 13);
  CHECK(grid.interventions[1].name == "mis/policy=next_best,layers=1-2,fraction=0.25");
  const auto curve = std::find_if(examples.begin(), examples.end(), [](const std::string& example) {
    return example.find("rd_weight") != std::string::npos;
  });
  REQUIRE(curve != examples.end());
  write_file(dir / "experiment.json", *curve);
  const ExperimentSpec choices = load_experiment(dir / "experiment.json");
  REQUIRE(choices.interventions.size() == 37);
  CHECK(choices.interventions[36].name == "off/span=question,length_match=true,top=16,by=rd_weight");
}

TEST_CASE("docs: every refusal of docs/experiments.md is refused with these words") {
  TemporaryDirectory dir;
  const std::string page = docs_page();
  const auto examples = fenced_blocks(page, "json refused"), messages = fenced_blocks(page, "text refusal");
  REQUIRE(examples.size() == messages.size());
  CHECK(examples.size() >= 3);
  for (size_t i = 0; i < examples.size(); ++i) {
    write_file(dir / "experiment.json", examples[i]);
    const std::string found = error_of([&] { load_experiment(dir / "experiment.json"); });
    CHECK("experiment.json" + found.substr(std::min(found.size(), (dir / "experiment.json").string().size())) + "\n" ==
          messages[i]);
  }
}
