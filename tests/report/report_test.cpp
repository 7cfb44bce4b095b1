// The HTML reports: well-formed, self-contained, escaped, and with the numbers of their files.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "base/error.h"
#include "eval/findings/audit.h"
#include "eval/findings/format.h"
#include "eval/findings/results.h"
#include "eval/report/charts.h"
#include "eval/report/detection_report.h"
#include "eval/report/run_report.h"
#include "eval/report/sample_digest.h"
#include "tests/report/html_check.h"
#include "tests/report/run_sample.h"
#include "tests/support.h"
#include "tools/signalbox/commands.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;
namespace fs = std::filesystem;

namespace {

size_t count_of(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++n;
  return n;
}

}  // namespace

TEST_CASE("report: a run directory") {
  test::TemporaryDirectory scratch;
  test::write_sample_run(scratch.path(), test::sample_values());
  const std::string html = render_report(scratch.path());
  // SIGNALBOX_KEEP_REPORT=DIR leaves the files for looking at.
  if (const char* keep = std::getenv("SIGNALBOX_KEEP_REPORT")) {
    fs::copy(scratch.path(), keep, fs::copy_options::recursive | fs::copy_options::overwrite_existing);
    test::write_file(fs::path(keep) / "report.html", html);
  }
  CHECK(test::mistake_in_html(html) == "");
  CHECK_FALSE(test::from_outside(html));
  CHECK(html == render_report(scratch.path()));
  CHECK(count_of(html, "<svg") == count_of(html, "</svg>"));
  // Of three metrics the forest of the one intervention and that of the grid, broad and narrow, doses, broad and
  // narrow, and scatters under two conditions and over all records; a map, rd against q, and its layers and the first
  // experts, broad and narrow.
  CHECK(count_of(html, "<svg") == 45);
  CHECK(html.find("off_a &amp; &lt;b&gt;|100%") != std::string::npos);
  CHECK(html.find("<b>|100%") == std::string::npos);
  CHECK(html.find("1 of 21") != std::string::npos);
  CHECK(html.find("21 primary contrasts of this run: off_a &amp; &lt;b&gt;|100%, mis/policy=next_best,fraction=0.25") !=
        std::string::npos);
  CHECK(html.find("minus controls [95 % CI]") != std::string::npos);
  CHECK(html.find("without_document - with_document") != std::string::npos);
  CHECK(html.find("off_a &amp; &lt;b&gt;|100% minus mis/policy=random,fraction=1") != std::string::npos);
  CHECK(html.find(": 3 of ") != std::string::npos);  // changed texts that are shown
  CHECK(html.find("policy = random") != std::string::npos);
  CHECK(html.find("<dt>model</dt><dd>builtin</dd>") != std::string::npos);
  CHECK(html.find("<dt>isa</dt><dd>avx2</dd>") != std::string::npos);
  CHECK(html.find("Spearman of |rd| and |effect|") != std::string::npos);
  CHECK(html.find("No causal audit was run") == std::string::npos);
  CHECK(html.find("Sorry, I cannot help with &lt;that&gt;.") != std::string::npos);
  CHECK(html.find("Is a &lt; b &amp; what is the capital of country") != std::string::npos);
  // Conditions stand apart wherever effects are shown, all records together last.
  const size_t overview = html.find("id=\"overview\"");
  CHECK(overview < html.find("id=\"differences\""));
  CHECK(html.find("<th class=\"n\">without_document</th><th class=\"n\">with_document</th>"
                  "<th class=\"n\">all records</th>") > overview);
  CHECK(html.find("em \xC2\xB7 with_document") != std::string::npos);
  // Controls and the audit's experts are no rows of their own.
  CHECK(html.find("/random-3") == std::string::npos);
  CHECK(html.find("audit/L1E0") == std::string::npos);
}

TEST_CASE("report: warnings stand where they must") {
  test::TemporaryDirectory scratch;
  RunValues run = test::sample_values();
  test::write_sample_run(scratch.path(), run);
  std::string html = render_report(scratch.path());
  // 60 records, 20 controls, 400 resamples for 7 * 3 primary contrasts; texts are cut off and repeat as refusals rise.
  CHECK(html.find("Few records") == std::string::npos);
  CHECK(html.find("No matched controls") == std::string::npos);
  CHECK(html.find("Fewer than 19") == std::string::npos);
  CHECK(html.find("With 400 resamples and 21 primary contrasts") != std::string::npos);
  CHECK(html.find("are cut off: off_a &amp; &lt;b&gt;|100% (") != std::string::npos);
  CHECK(html.find("refused rises, but texts repeat more, more are cut off: the model may be degenerating rather than "
                  "declining under off_a &amp; &lt;b&gt;|100%") != std::string::npos);

  std::erase_if(run.interventions, [](const InterventionValues& one) { return one.name.starts_with("audit/"); });
  run.interventions.erase(run.interventions.begin() + 5, run.interventions.begin() + 23);  // leaves three controls
  run.resamples = 4000;
  test::TemporaryDirectory second;
  test::write_sample_run(second.path(), run);
  html = render_report(second.path());
  CHECK(html.find("Fewer than 19 random controls") != std::string::npos);
  CHECK(html.find("No causal audit was run") != std::string::npos);
  CHECK(html.find("With 4000 resamples") == std::string::npos);

  RunValues few = test::sample_values(20);
  std::erase_if(few.interventions, [](const InterventionValues& one) { return !one.control_of.empty(); });
  test::TemporaryDirectory third;
  test::write_sample_run(third.path(), few);
  html = render_report(third.path());
  CHECK(html.find("Few records, or pairs, with a value: em (10), refused (10), repetition (10)") != std::string::npos);
  CHECK(html.find("No matched controls were run") != std::string::npos);
}

TEST_CASE("report: warnings of controls that are near, and of tests that cannot reject") {
  RunValues run = test::sample_values(8);
  run.interventions[1].use = 0.158;
  for (InterventionValues& one : run.interventions)
    if (one.control == ControlKind::random) {
      one.control = ControlKind::frequency_matched;
      one.use = 0.135;
      one.shared = 2;
    }
  test::TemporaryDirectory scratch;
  test::write_sample_run(scratch.path(), run);
  std::string html = render_report(scratch.path());
  CHECK(html.find("its experts are selected by 0.158 of tokens, those of the controls by 0.135 on average") !=
        std::string::npos);
  CHECK(html.find("share 2 experts with it") != std::string::npos);
  CHECK(html.find("over 4 records or pairs the smallest p there is is 0.1250") != std::string::npos);
  for (InterventionValues& one : run.interventions) one.shared = 0;
  run.interventions[1].use = 0.14;
  test::TemporaryDirectory second;
  test::write_sample_run(second.path(), run);
  html = render_report(second.path());
  CHECK(html.find("matched in frequency of use are not") == std::string::npos);
  CHECK(html.find("with it, for its layers") == std::string::npos);
}

TEST_CASE("report: an analysis, and directories that are neither") {
  test::TemporaryDirectory scratch;
  test::write_sample_run(scratch.path(), test::sample_values(8));
  fs::create_directories(scratch / "t/analysis");
  fs::copy(scratch / "detect/memory/rd.csv", scratch / "t/analysis/rd.csv");
  test::write_file(scratch / "t/analysis/usage.csv",
                   "layer,expert,domain,count,tokens,share,mean_weight\r\n1,0,,3,4,0.75,0.5\r\n1,1,,1,4,0.25,\r\n"
                   "1,0,x,3,4,0.75,0.5\r\n");
  test::write_file(scratch / "t/analysis/domains.csv",
                   "layer,chi2,df,p,cramers_v,p_permutation\r\n1,3.5,2,0.1737739434504451,0.25,\r\n");
  const std::string html = render_report(scratch / "t");
  CHECK(test::mistake_in_html(html) == "");
  CHECK_FALSE(test::from_outside(html));
  CHECK(test::data_block(html, "usage").find("\"share\":[0.75,0.25]") != std::string::npos);
  CHECK(html.find("data-draw=\"usage_domains\"") != std::string::npos);
  CHECK(html.find("<td class=\"n\">0.173774</td>") != std::string::npos);
  CHECK(html == render_report(scratch / "t/analysis"));

  const auto refusal = [](const fs::path& dir) {
    try {
      render_report(dir);
    } catch (const Error& error) {
      return error.reason();
    }
    return std::string("accepted");
  };
  fs::create_directories(scratch / "empty");
  CHECK(refusal(scratch / "empty").starts_with("expected a directory that has a page (a run, a trace, an analysis"));
  CHECK(refusal(scratch / "none") == "expected a directory, found none");
  fs::remove(scratch / "metrics.json");
  CHECK(refusal(scratch.path()).starts_with("expected a finished run with metrics.json"));
}

TEST_CASE("report: digest of samples") {
  test::TemporaryDirectory scratch;
  test::write_sample_run(scratch.path(), test::sample_values());
  SampleDigest digest = digest_samples(scratch.path(), "baseline", {test::odd_name, "none"});
  CHECK(digest.counts.at("baseline").texts == 60);
  CHECK(digest.counts.at("baseline").truncated == 0);
  CHECK(digest.counts.at(test::odd_name).truncated > 5);
  CHECK(digest.metrics == std::vector<std::string>{"em", "repetition", "refused"});
  REQUIRE(digest.records.size() == 60);
  CHECK(digest.n_records == 60);
  CHECK(digest.records[1].id == "r1");
  CHECK(digest.records[1].condition == "with_document");
  CHECK(digest.records[1].question.starts_with("Is a < b"));
  const auto changed = std::count_if(digest.records.begin(), digest.records.end(),
                                     [](const ShownRecord& record) { return text_changed(record, 1); });
  CHECK((changed > 20 && changed < 60));
  for (const ShownRecord& record : digest.records) {
    CHECK(text_changed(record, 1) == score_changed(record, 1));
    CHECK_FALSE(record.texts[2].has);
    CHECK_FALSE(score_changed(record, 2));
  }
  // Without room for all: whole pairs, in the order of the run, the same ones each time.
  digest = digest_samples(scratch.path(), "baseline", {test::odd_name}, 4000);
  REQUIRE((digest.records.size() > 2 && digest.records.size() < 40));
  CHECK(digest.n_records == 60);
  for (size_t i = 0; i < digest.records.size(); i += 2) {
    const int number = std::stoi(digest.records[i].id.substr(1));
    CHECK(number % 2 == 0);
    CHECK(digest.records[i + 1].id == "r" + std::to_string(number + 1));
  }
  CHECK(digest.records.back().id != "r59");
  test::write_file(scratch / "samples.jsonl", "{\"intervention\": \"baseline\", \"id\": \"r0\"}\n");
  CHECK_THROWS_AS(digest_samples(scratch.path(), "baseline", {}), Error);
}

TEST_CASE("audit: effects beside the ranking") {
  test::TemporaryDirectory scratch;
  RunValues run = test::sample_values();
  test::write_sample_run(scratch.path(), run);
  const std::string csv = test::read_file(scratch / "audit.csv");
  CHECK(
      csv.starts_with("layer,expert,rd,q,metric,condition,effect,ci_lo,ci_hi,p,q_effect,n\r\n"
                      "1,0,0.3,0.001,em,without_document,-"));
  CHECK(csv.find("\r\n1,0,0.3,0.001,em,,-") != std::string::npos);
  CHECK(count_of(csv, "\r\n") == 1 + 3 * 6 * 3);

  // By hand: |rd| 0.4 0.3 0.2 0.1 and effects -0.5 -0.1 -0.2 (none): ranks 3 2 1 against 3 1 2 of the sizes: 0.5;
  // signed rd 0.4 -0.3 0.2: ranks 3 1 2 against 1 3 2: -1.
  std::vector<AuditRow> rows(4);
  const double rd[] = {0.4, -0.3, 0.2, 0.1}, effect[] = {-0.5, -0.1, -0.2, NAN};
  for (size_t i = 0; i < 4; ++i) {
    rows[i].expert = {1, static_cast<int32_t>(i), rd[i]};
    rows[i].metric = "em";
    rows[i].effect = {effect[i], NAN, NAN, i < 3 ? 9 : 0};
  }
  const std::vector<AuditCorrelation> audit = audit_correlations(rows);
  REQUIRE(audit.size() == 1);
  CHECK(audit[0].n == 3);
  CHECK(audit[0].spearman.value() == doctest::Approx(0.5));
  CHECK(audit[0].spearman_signed.value() == doctest::Approx(-1.0));
  rows.resize(2);
  CHECK_FALSE(audit_correlations(rows)[0].spearman);
  CHECK(audit_csv(rows) ==
        "layer,expert,rd,q,metric,effect,ci_lo,ci_hi,p,q_effect,n\r\n"
        "1,0,0.4,,em,-0.5,,,,,9\r\n1,1,-0.3,,em,-0.1,,,,,9\r\n");

  // Experts that the ranking does not have, and none at all.
  const std::vector<AuditRow> some = audit_rows(run_findings(run, 1), {{1, 2, -0.1}, {1, 0, 0.05}});
  REQUIRE(some.size() == 18);
  CHECK((some[0].expert.expert == 2 && some[1].expert.expert == 0 && some[2].expert.expert == 1));
  CHECK(std::isnan(some[2].expert.rd));
  CHECK((some[6].metric == "repetition" && some[0].effect.n == 60));
}

TEST_CASE("charts: ticks, and pictures of nothing") {
  CHECK(nice_ticks(0, 1, 5) == std::vector<double>{0, 0.2, 0.4, 0.6000000000000001, 0.8, 1});
  CHECK(nice_ticks(-0.3, 0.25, 4) == std::vector<double>{-0.2, 0, 0.2});
  CHECK(nice_ticks(2, 2, 4) == std::vector<double>{2});
  CHECK(nice_ticks(0, 1e9, 3).size() == 3);
  const auto forest_row = [](double value) {
    ForestRow row;
    row.difference = row.lo = row.hi = value;
    return row;
  };
  for (const std::string& svg :
       {forest_plot({}, "x"), forest_plot({forest_row(NAN)}, "x"), forest_plot({forest_row(0)}, "x"),
        dose_plot({}, "x", "y", NAN), dose_plot({{"one", {{1, NAN, NAN, NAN}}}}, "x", "y", 0.5), heat_map({}, "x"),
        specification_plot({}, {}, "x"), scatter_plot({}, "x", "y"),
        scatter_plot({{0, 0, 0, 0, "", false}}, "x", "y")}) {
    CHECK(svg.find("nan") == std::string::npos);
    CHECK(svg.find("inf") == std::string::npos);
    CHECK(svg.ends_with("</svg>"));
  }
  // Lines that coincide are told apart by width, dash and mark; the narrow form is narrow and cuts no name.
  const std::string long_name = "p of the answer that was given with the full explanation, forced";
  const std::vector<DoseLine> alike = {{"same", {{0, 0.5, 0.25, 0.75}, {1, 1, 1, 1}}},
                                       {long_name, {{0, 0.5, 0.25, 0.75}, {1, 1, 1, 1}}}};
  const std::string doses = dose_plot(alike, "x", "y", NAN), narrow = dose_plot(alike, "x", "y", NAN, DoseForm::narrow);
  CHECK(doses.find("<polyline class=\"l0\" stroke-width=\"4\" points") != std::string::npos);
  CHECK(doses.find("<polyline class=\"l1\" stroke-width=\"2\" stroke-dasharray=\"8 5\" points") != std::string::npos);
  CHECK(doses.find("<circle class=\"l0 open\"") != std::string::npos);
  CHECK(doses.find("<path class=\"l1\"") != std::string::npos);
  CHECK(doses.find(long_name + "</text>") != std::string::npos);
  CHECK(narrow.find(" width=\"340\"") != std::string::npos);
  CHECK(narrow.find(">p of the answer that was given with the</text>") != std::string::npos);
  CHECK(narrow.find(">full explanation, forced</text>") != std::string::npos);
  // Blue and orange, frame and dot; the fill grows with the value.
  const std::string map = heat_map({{0, 0, 0.4, "+40", "t", true, false}, {0, 1, -0.2, "-20", "t", false, true}}, "x");
  CHECK(map.find("class=\"cell up\"") != std::string::npos);
  CHECK(map.find("class=\"cell down frame\"") != std::string::npos);
  CHECK(map.find("fill-opacity=\"0.9\"") != std::string::npos);
  CHECK(map.find("fill-opacity=\"0.45\"") != std::string::npos);
  CHECK(count_of(map, "class=\"mark\"") == 1);
}

TEST_CASE("report: the names of the conditions come from summary.json") {
  test::TemporaryDirectory scratch;
  CHECK(conditions_of(scratch.path()).first == "the first condition");
  test::write_file(scratch / "summary.json", R"({"contrast": {"a": "x<y", "b": "z"}})");
  CHECK(conditions_of(scratch.path()) == std::pair<std::string, std::string>("x<y", "z"));
  const std::string html = ranking_section("t", conditions_of(scratch.path()), {{1, 2, 0.5}}, {});
  CHECK(html.find("under x&lt;y minus under z") != std::string::npos);
}

TEST_CASE("report: the command") {
  test::TemporaryDirectory scratch;
  test::write_sample_run(scratch.path(), test::sample_values());
  const auto run = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "report");
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    return report_command(static_cast<int>(argv.size()), argv.data());
  };
  const std::string dir = scratch.path().string(), elsewhere = (scratch / "other.html").string();
  CHECK(run({dir, "--quiet"}) == 0);
  CHECK(run({dir, "--quiet", "-o", elsewhere}) == 0);
  CHECK(test::read_file(scratch / "report.html") == render_report(scratch.path()));
  CHECK(test::read_file(elsewhere) == test::read_file(scratch / "report.html"));
  CHECK_THROWS_AS(run({dir, "--quiet", "-o", (scratch / "none/x.html").string()}), Error);
  CHECK_THROWS_AS(run({(scratch / "none").string(), "--table", "md"}), Error);
  // Flags that do not go together.
  for (const std::vector<std::string>& wrong :
       {std::vector<std::string>{dir, "--all"}, {dir, "--table", "xls"}, {dir, "--table", "md", "-o", "x"}, {}}) {
    int code = 2;
    try {
      code = run(wrong);
    } catch (const UsageError&) {
    }
    CHECK(code == 2);
  }
}
