// The parts of a run's report: their sentences, and the numbers in their data, are those of metrics.json.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>

#include "eval/findings/metrics_file.h"
#include "eval/report/run_grid.h"
#include "eval/report/run_headline.h"
#include "eval/report/run_ranking.h"
#include "eval/report/run_report.h"
#include "eval/report/run_texts.h"
#include "tests/report/html_check.h"
#include "tests/report/run_sample.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;

namespace {

bool has(const std::string& text, const std::string& part) {
  INFO(text);
  INFO(part);
  return text.find(part) != std::string::npos;
}

// One effect under conditions "a" (lower, among 20 controls) and "b" (none), over 50 records each.
RunFindings findings_of(double value, int64_t rank) {
  RunFindings run;
  run.baseline = "baseline";
  run.metrics = {"em", "f1"};
  run.interventions.resize(2);
  run.interventions[0].name = run.interventions[0].entry = "baseline";
  run.interventions[1].name = run.interventions[1].entry = "off";
  run.primary = {{"off"}, {"em"}};
  Contrast em, none;
  em.difference = {value, value - 0.1, value + 0.12, 50};
  em.p = em.q = value == 0 ? 1 : 0.001;
  em.random.differences = {-0.05, -0.1, 0, 20};
  em.random.rank = rank;
  none.difference = {0, -0.05, 0.05, 50};
  none.p = 1;
  RecordFindings found;
  found.means = {{{0.9, 0.8, 1, 50}, {0.9, 0.8, 1, 50}}, {{0.5, 0.4, 0.6, 50}, {0.9, 0.8, 1, 50}}};
  found.contrasts = {{{}, {}}, {em, none}};
  run.all = found;
  run.all.contrasts[1][0].by_condition = {{"a - b", {-0.4, -0.5, -0.3, 0.002}}};
  RecordFindings there = found;
  there.contrasts[1][0] = none;
  run.conditions = {{"a", found}, {"b", there}};
  return run;
}

std::vector<std::string> sentences_of(const RunFindings& run) {
  return intervention_sentences(FindingsIndex(run), "off");
}

}  // namespace

TEST_CASE("run report: sentences of an intervention") {
  RunFindings run = findings_of(-0.4, 1);
  std::vector<std::string> told = sentences_of(run);
  REQUIRE(told.size() == 3);
  CHECK(told[0] ==
        "It lowers em under a by 0.400 [0.280, 0.500] (n = 50, q 0.0010), more than all 20 random sets; is not "
        "shown to change em under b: 0.000 [-0.050, +0.050] (n = 50, p 1.0000).");
  CHECK(told[1] == "The effect on em under a - b is -0.400 [-0.500, -0.300] (p 0.0020).");
  CHECK(told[2] == "It is not shown to change f1.");
  CHECK(has(sentences_of(findings_of(0.4, 4))[0], "It raises em under a by 0.400 [0.300, 0.520]"));
  CHECK(has(sentences_of(findings_of(0.4, 4))[0], "and 3 of 20 random sets by as much or more"));
  run.conditions[0].found.contrasts[1][0].random.differences.n = 5;
  CHECK(has(sentences_of(run)[0], "more than all 5 random sets, which are few"));
  run.conditions[0].found.contrasts[1][0].difference = {};
  CHECK(has(sentences_of(run)[0], "It has no value of em under a to compare"));
  run.all.edits.resize(2);
  run.all.edits[1] = EditTotals{1, true, {77, 0, 0, 0}, 50, 50};
  CHECK(sentences_of(run) ==
        std::vector<std::string>{"Its edits acted on none of 77 tokens: the unedited model was run, and nothing is "
                                 "found about these edits."});
}

TEST_CASE("run report: title, question and command") {
  const RunFindings run = findings_of(-0.4, 1);
  const FindingsIndex findings(run);
  CHECK(title_of(findings, {}).title == "off against baseline");
  CHECK(title_of(findings, {}).question == "What does off change in em, f1, under a, b?");
  test::TemporaryDirectory scratch;
  test::write_sample_run(scratch.path(), test::sample_values(8));
  const std::optional<Manifest> manifest = Manifest::read(scratch.path());
  CHECK(title_of(findings, manifest).title == "Banned & <misrouted>");
  CHECK(title_of(findings, manifest).question == "Does either matter?");
  CHECK(command_of(*manifest) == "signalbox run 'a spec.json' --seed 1 --out DIR");
  CHECK(command_of(Manifest()) == "");
}

TEST_CASE("run report: the numbers of its data are those of metrics.json") {
  test::TemporaryDirectory scratch;
  test::write_sample_run(scratch.path(), test::sample_values());
  const std::string html = render_report(scratch.path());
  CHECK(test::mistake_in_html(html) == "");
  CHECK(has(html, "<h1>Banned &amp; &lt;misrouted&gt;</h1>"));
  const json::Value metrics = json::parse_file(scratch / "metrics.json");
  const json::Value grid = json::parse(test::data_block(html, "grid-0-data"), "grid");
  const std::vector<std::string> conditions = {"without_document", "with_document", ""};
  REQUIRE(grid.find("points")->items().size() == 6);
  CHECK_FALSE(grid.find("keys")->items()[0].find("from_zero")->boolean());
  CHECK(grid.find("keys")->items()[1].find("from_zero")->boolean());
  size_t compared = 0;
  for (size_t m = 0; m < 3; ++m)
    for (size_t c = 0; c < 3; ++c)
      for (size_t i = 0; i < 6; ++i) {
        const std::string name = grid.find("names")->items()[i].string();
        const std::string metric = grid.find("metrics")->items()[m].string();
        const json::Value& of = conditions[c].empty() ? metrics : *metrics.find("conditions")->find(conditions[c]);
        const json::Value& contrast = *of.find("contrasts")->find(name)->find(metric);
        const json::Value& cell = grid.find("cells")->items()[m].items()[c].items()[i];
        CHECK(cell.find("diff")->real() == contrast.find("diff")->real());
        CHECK(cell.find("lo")->real() == contrast.find("ci_lo")->real());
        CHECK(cell.find("mean")->real() == of.find("interventions")->find(name)->find(metric)->find("mean")->real());
        ++compared;
      }
  CHECK(compared == 54);

  const json::Value texts = json::parse(test::data_block(html, "texts-data"), "texts");
  CHECK(texts.find("records")->items().size() == 60);
  CHECK(texts.find("interventions")->items()[1].string() == test::odd_name);
  // Each different text once, and no tag among them.
  CHECK(texts.find("strings")->items().size() == 60 + 3 + 2);
  CHECK(test::data_block(html, "texts-data").find('<') == std::string::npos);
}

TEST_CASE("run report: a ranking names its tokens, its shares and who uses its experts") {
  RunFindings run = findings_of(-0.4, 1);
  run.interventions[1].experts = {{3, 5}};
  RankingView view;
  view.id = "r";
  view.title = "t";
  view.use = {"a<", "b", "question", "given"};
  view.experts = {{3, 5, 0.5, 0.4, 0.6, 0.001, 0.002}, {3, 6, -0.1, -0.2, 0.1, 0.5, 0.6}, {4, 0, 0, 0, 0, 1, 1}};
  view.experts[0].share_a = 0.75;
  view.experts[0].share_b = 0.25;
  const std::string html = ranking_figures(view, run);
  CHECK(has(html, "share of question tokens that select the expert under a&lt; (blue: more) minus under b"));
  CHECK(has(html, "Small squares: the 2 of 3 experts"));
  CHECK(has(html, "A solid frame: named by an intervention (1)."));
  CHECK_FALSE(has(html, "A dashed frame"));
  CHECK(has(html, "L3E5\nselected by 75.00 % of tokens under a&lt;,\n25.00 % under b"));
  CHECK(has(html, "No causal audit was run"));
  CHECK(has(html, "1 of 3 experts have q below 0.05"));
}
