// Specification curves, and what a report says of data and deals.
#include <doctest/doctest.h>

#include <cmath>

#include "eval/findings/metrics_file.h"
#include "eval/findings/specification_curve.h"
#include "eval/report/charts.h"
#include "eval/report/run_report.h"
#include "tests/report/run_sample.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::eval;

namespace {

size_t occurrences(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++n;
  return n;
}

// Four points of an entry, one undefined, and an intervention beside them.
RunFindings small_findings() {
  RunFindings run;
  run.baseline = "baseline";
  run.resamples = 100;
  run.metrics = {"em"};
  const auto add = [&](const std::string& name, GridPoint grid, double difference, double p) {
    Intervention one;
    one.name = name;
    one.entry = name.substr(0, name.find('/'));
    one.grid = std::move(grid);
    run.interventions.push_back(one);
    run.all.means.push_back({Estimate{0.5, 0.4, 0.6, 10}});
    Contrast contrast;
    contrast.difference = {difference, difference - 0.125, difference + 0.125, 10};
    contrast.p = p;
    contrast.q = 2 * p;
    run.all.contrasts.push_back({contrast});
  };
  add("baseline", {}, no_number, no_number);
  add("off/span=null,top=4", {{"span", nullptr}, {"top", 4}}, 0.25, 0.5);
  add("off/span=null,top=8", {{"span", nullptr}, {"top", 8}}, -0.5, 0.01);
  add("off/span=q,top=4", {{"span", "q"}, {"top", 4}}, no_number, no_number);
  add("off/span=q,top=8", {{"span", "q"}, {"top", 8}}, -0.25, 0.06);
  add("plain", {}, -1, 0.001);
  return run;
}

}  // namespace

TEST_CASE("specification curve: effects in ascending order with their choices, counted by sign and p") {
  RunFindings run = small_findings();
  const json::Value spec = json::parse(
      R"({"interventions": [{"name": "baseline", "edits": []},
          {"name": "off/span=null,top=4", "edits": [{"op": "deactivate", "experts": {"from": "detect:m/span=null", "top": 4}}]},
          {"name": "plain", "edits": [{"op": "deactivate", "experts": {"from": "detect:m/span=null", "top": 4}}]}]})",
      "spec");
  run.curves = curve_entries(spec, run);
  CHECK(run.curves == std::vector<std::string>{"off"});  // one point alone is no curve
  const std::vector<SpecificationCurve> curves = specification_curves(run);
  REQUIRE(curves.size() == 1);
  CHECK(curves[0].order == std::vector<size_t>{2, 4, 1});
  CHECK(curves[0].median == -0.25);
  CHECK(
      curve_sentence(curves[0]) ==
      "2 of 4 choices lower em, 1 raise it, under 1 it is undefined; p < 0.05 in 1 of those that lower it and in 0 of "
      "those that raise it. Median -0.250, from -0.500 to +0.250.");
  CHECK(specification_curve_csv(run) ==
        "entry,metric,place,intervention,choice_span,choice_top,diff,ci_lo,ci_hi,p,q,n\r\n"
        "off,em,1,\"off/span=null,top=8\",null,8,-0.5,-0.625,-0.375,0.01,0.02,10\r\n"
        "off,em,2,\"off/span=q,top=8\",q,8,-0.25,-0.375,-0.125,0.06,0.12,10\r\n"
        "off,em,3,\"off/span=null,top=4\",null,4,0.25,0.125,0.375,0.5,1,10\r\n"
        "off,em,,\"off/span=q,top=4\",q,4,,,,,,10\r\n");
  const json::Value json = metrics_json(run);
  CHECK(
      json::dump(*json.find("specification_curves")) ==
      R"({"off":{"em":{"points":4,"negative":2,"positive":1,"zero":0,"negative_p_below_05":1,"positive_p_below_05":0,)"
      R"("median":-0.25,"min":-0.5,"max":0.25}}})");
  CHECK(metrics_json(read_findings(json::Ref(json, "metrics.json"))) == json);
}

TEST_CASE("specification curve: a mark below each effect for every choice that it has") {
  const std::vector<SpecificationRow> rows = {{"span", "all"}, {"span", "q"}, {"top", "4"}};
  const std::string svg =
      specification_plot({{"a <b>", -0.5, -0.75, -0.25, true, {0, 2}}, {"b", 0.25, NAN, NAN, false, {1}}}, rows,
                         "em: intervention - baseline");
  CHECK(svg.starts_with("<svg"));
  CHECK(svg.ends_with("</svg>"));
  CHECK(occurrences(svg, "class=\"mark\"") == 3);
  CHECK(occurrences(svg, "class=\"dot\"") == 1);
  CHECK(occurrences(svg, "class=\"hollow\"") == 1);
  CHECK(occurrences(svg, "class=\"ci\"") == 1);
  CHECK(svg.find("a &lt;b&gt;") != std::string::npos);
  // The marks of the first effect stand below it, in the rows of its choices.
  const auto place = [&](size_t nth, const std::string& key) {
    size_t at = svg.find("class=\"mark\"");
    for (size_t i = 0; i < nth; ++i) at = svg.find("class=\"mark\"", at + 1);
    at = svg.find(key + "=\"", at) + key.size() + 2;
    return std::stod(svg.substr(at));
  };
  CHECK(place(0, "cx") == place(1, "cx"));
  CHECK(place(2, "cx") > place(0, "cx"));
  CHECK(place(0, "cy") < place(2, "cy"));
  CHECK(place(2, "cy") < place(1, "cy"));
  CHECK(specification_plot({}, {}, "x").find("nan") == std::string::npos);
}

TEST_CASE("report: specification curves, deals, and cautions about the data") {
  test::TemporaryDirectory dir;
  test::write_sample_run(dir.path(), test::sample_values());
  RunFindings run = read_findings(dir.path());
  CHECK(render_run_report(dir.path(), run).find("id=\"curves\"") == std::string::npos);
  run.curves = {"mis"};
  run.data.emplace();
  run.data->rankings = {{"interventions[1].edits[0].experts.from", "rd.csv", "beside which there is no summary.json"}};
  run.data->copies = {60, 30, 12, 4, 6, "r7"};
  run.data->shared_between_splits = 3;
  run.data->first_shared = "r<9>";
  CrossFitFindings fit;
  fit.deals = 2;
  fit.share = 0.5;
  fit.effects.assign(
      run.interventions.size(),
      std::vector<std::vector<DealEffect>>(run.metrics.size(), {{{-0.5, -1, 0, 30}, 0.1}, {{-0.25, -1, 0, 30}, 0.1}}));
  fit.selection = {
      {test::odd_name, {1, 0}, 2, 0.3}, {test::odd_name, {1, 1}, 1, 0.2}, {test::odd_name, {1, 2}, 0, 0.1}};
  run.cross_fit = fit;
  write_metrics(dir.path(), run);
  const std::string html = render_report(dir.path());
  CHECK(html.find("<h2 id=\"curves\">") != std::string::npos);
  CHECK(html.find("6 of 6 choices lower em") != std::string::npos);
  CHECK(html.find("class=\"mark\"") != std::string::npos);
  CHECK(html.find("<h2 id=\"deals\">") != std::string::npos);
  CHECK(html.find("2 experts were taken by some deal, 1 by all") != std::string::npos);
  CHECK(html.find("experts of unknown origin: interventions[1].edits[0].experts.from takes them from rd.csv") !=
        std::string::npos);
  CHECK(html.find("4 of 60 tested records repeat the prompts of earlier ones") != std::string::npos);
  CHECK(html.find("3 records share their prompt with another split") != std::string::npos);
  CHECK(html.find("r&lt;9&gt;") != std::string::npos);
  // Cautions stand before the differences.
  CHECK(html.find("experts of unknown origin") < html.find("What the interventions changed"));
}
