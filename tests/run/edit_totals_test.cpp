// What edits did, summed: totals, files, tables and cautions.
#include "eval/findings/edit_totals.h"

#include <doctest/doctest.h>

#include "base/csv.h"
#include "eval/findings/metrics_file.h"
#include "eval/findings/results.h"
#include "eval/findings/tables.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::eval;
using namespace signalbox::test;

namespace {

InterventionValues values_of(const std::string& name, int64_t n_edits, const std::vector<EditCounts>& by_record) {
  InterventionValues out;
  out.name = name;
  out.entry = name.substr(0, name.find('/'));
  out.n_edits = n_edits;
  out.edits_routes = n_edits > 0;
  MetricValues& em = out.metrics["em"];
  for (size_t r = 0; r < by_record.size(); ++r) {
    em.records.push_back(static_cast<int64_t>(r));
    em.values.push_back(1);
    out.edits[static_cast<int64_t>(r)] = by_record[r];
  }
  return out;
}

// Four records of two conditions.
RunValues run_of() {
  RunValues run;
  run.metrics = {"em"};
  run.baseline = "baseline";
  run.resamples = 20;
  run.clusters = {"0", "1", "2", "3"};
  run.conditions = {"with", "with", "without", "without"};
  const EditCounts none{10, 0, 40, 0}, some{10, 4, 40, 6}, acts{10, 4, 40, 0};
  run.interventions = {values_of("baseline", 0, {none, none, none, none}),
                       values_of("off", 1, {some, some, some, some}), values_of("half", 1, {some, some, none, none}),
                       values_of("never", 2, {none, none, none, none}),
                       values_of("unused", 1, {acts, acts, acts, acts})};
  run.interventions[3].description = "misroute worst, span cot";
  InterventionValues control = values_of("off/random-0", 1, {acts, acts, acts, acts});
  control.control_of = "off";
  control.control = ControlKind::random;
  run.interventions.push_back(control);
  control = values_of("off/random-1", 1, {some, none, none, none});
  control.control_of = "off";
  control.control = ControlKind::random;
  run.interventions.push_back(control);
  return run;
}

}  // namespace

TEST_CASE("edit totals: sums over records, and those without an edited token") {
  const RunFindings findings = run_findings(run_of(), 1);
  const EditTotals& half = *findings.all.edits_of(2);
  CHECK(half.counts == EditCounts{40, 8, 160, 12});
  CHECK(half.records == 4);
  CHECK(half.untouched == 2);
  CHECK(findings.conditions[1].found.edits_of(2)->counts == EditCounts{20, 0, 80, 0});
  CHECK(findings.all.edits_of(0)->n_edits == 0);

  const json::Value metrics = metrics_json(findings);
  const json::Value& edited = *metrics.find("interventions")->find("half")->find("edited");
  CHECK(edited.find("token_share")->real() == 0.2);
  CHECK(edited.find("untouched_records")->integer() == 2);
  const RunFindings read = read_findings(json::Ref(metrics, "metrics.json"));
  CHECK(json::dump(metrics_json(read)) == json::dump(metrics));
}

TEST_CASE("edit totals: a run that did not count has none, in files and tables") {
  RunValues run = run_of();
  for (InterventionValues& one : run.interventions) one.edits.clear();
  const RunFindings findings = run_findings(run, 1);
  CHECK(findings.all.edits_of(2) == nullptr);
  CHECK(edit_cautions(findings).empty());
  CHECK(edit_table(findings).rows.empty());
  const json::Value metrics = metrics_json(findings);
  CHECK_FALSE(metrics.find("interventions")->find("half")->find("edited"));
  CHECK(read_findings(json::Ref(metrics, "metrics.json")).all.edits_of(2) == nullptr);
  TemporaryDirectory dir;
  write_tables(dir.path(), findings);
  const CsvTable csv = CsvTable::read(dir / "table.csv");
  CHECK(csv.text(0, csv.column("edited_tokens")).empty());
  CHECK(read_file(dir / "table.md").find("Caution") == std::string::npos);
}

TEST_CASE("edit totals: cautions name what acted on nothing, changed nothing, or missed records") {
  const std::vector<std::string> cautions = edit_cautions(run_findings(run_of(), 1));
  REQUIRE(cautions.size() == 4);
  CHECK(
      cautions[0].starts_with("The edits of never (misroute worst, span cot) acted on no token: what was run there "
                              "is the unedited model"));
  CHECK(cautions[0].find("fraction") != std::string::npos);
  CHECK(cautions[1].starts_with("The edits of unused acted, but changed no expert and no weight"));
  CHECK(
      cautions[2].starts_with("The edits of half acted on no token of 2 of 4 (50.0 %) records, among them all of the "
                              "condition without: "));
  CHECK(cautions[3].starts_with("Of the controls of off 1 of 2 (50.0 %) changed no expert and no weight"));
}

TEST_CASE("edit totals: tables have them") {
  TemporaryDirectory dir;
  write_tables(dir.path(), run_findings(run_of(), 1));
  const std::string markdown = read_file(dir / "table.md");
  CHECK(markdown.find("| half         | 8 of 40 (20.0 %)  | 12 of 160 (7.5 %)  | 2 of 4") != std::string::npos);
  CHECK(markdown.find("**Caution.** The edits of never") != std::string::npos);
  CHECK(read_file(dir / "table.tex").find("% Caution. The edits of never") != std::string::npos);
  const CsvTable csv = CsvTable::read(dir / "table.csv");
  size_t row = 0;
  while (csv.text(row, csv.column("intervention")) != "half") ++row;  // of the condition "with"
  CHECK(csv.text(row, csv.column("edited_tokens")) == "8");
  CHECK(csv.text(row, csv.column("run_slots")) == "80");
  CHECK(csv.text(row + 1, csv.column("untouched_records")) == "2");
  CHECK(csv.text(row + 2, csv.column("run_slots")) == "160");
}
