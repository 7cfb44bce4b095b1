// Detection where nothing can differ: the cause is named, and nothing is ranked.
#include <doctest/doctest.h>

#include "eval/detect/analysis.h"
#include "eval/detect/risk_difference.h"
#include "eval/experiment/conduct.h"
#include "tests/detect/count_data.h"
#include "tests/run/experiment_sample.h"

using namespace signalbox;
using namespace signalbox::eval;
using namespace signalbox::test;

namespace {

ContrastOptions options_of() {
  ContrastOptions options;
  options.a = "with";
  options.b = "without";
  options.resamples = 50;
  return options;
}

// Four pairs of `tokens` tokens; expert i of every record is selected by `share` of four of them.
ContrastCounts counts_of(const std::vector<uint32_t>& quarters) {
  ContrastCounts counts = empty_counts(1, static_cast<int32_t>(quarters.size()), 4, true);
  for (size_t r = 0; r < counts.records.size(); ++r) {
    const uint32_t length = counts.records[r].under_b ? 8 : 4;
    counts.records[r].tokens = length;
    for (size_t i = 0; i < quarters.size(); ++i) counts.selected[r * quarters.size() + i] = quarters[i] * length / 4;
  }
  return counts;
}

}  // namespace

TEST_CASE("no difference: all experts selected, equal shares, and one that differs") {
  const ContrastOptions options = options_of();
  const std::string all = no_difference(counts_of({4, 4, 4}), options);
  CHECK(
      all.starts_with("no expert is selected more often under with than under without: the routers select every "
                      "expert for every token (k = E)"));
  CHECK(all.ends_with("{\"op\": \"top_k\", \"k\": 2}"));
  const std::string equal = no_difference(counts_of({4, 3, 1}), options);
  CHECK(equal.find("all 3 risk differences are 0") != std::string::npos);
  ContrastCounts differs = counts_of({4, 3, 1});
  ++differs.selected[1];
  CHECK(no_difference(differs, options).empty());

  const Detection none = detect(counts_of({4, 4, 4}), options), some = detect(differs, options);
  REQUIRE_FALSE(none.warnings.empty());
  CHECK(none.warnings.front() == all);
  CHECK(some.facts.no_difference.empty());
  TraceAnalysis analysis;
  analysis.detection = none;
  AnalysisOptions asked;
  asked.detection = options;
  const std::string text = analysis_text(analysis, asked, "out", 20);
  CHECK(text.find("Nothing to rank: " + all + ".") != std::string::npos);
  CHECK(text.find("+0.0000") == std::string::npos);
  analysis.detection = some;
  CHECK(analysis_text(analysis, asked, "out", 20).find("share A") != std::string::npos);
}

TEST_CASE("no difference: a run that would rank by selection is refused by the model alone") {
  ModelShape shape = sample_shape();
  const auto refused = [&](const std::string& by) {
    const ExperimentSpec spec = spec_of(
        "'detect': {'memory': {'contrast': 'a:b'}}, 'split': {'detect': 'x', 'test': 'y'}, " +
        entries("{'name': 'off', 'edits': [{'op': 'scale_expert', 'by': 0, 'experts': {'from': 'detect:memory', 'top': "
                "2" +
                by + "}}]}"));
    return error_of([&] { check_edits(spec, shape); });
  };
  CHECK(refused("") == "no error");
  for (LayerShape& layer : shape.layers) layer.n_active = layer.n_experts;
  CHECK(refused("").starts_with("S.json: interventions[1].edits[0].experts: expected a model that leaves experts out"));
  CHECK(refused("").find("select all 8 experts for every token (k = E)") != std::string::npos);
  CHECK(refused(", 'by': 'rd_weight'") == "no error");
}
