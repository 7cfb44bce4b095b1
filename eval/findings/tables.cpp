#include "eval/findings/tables.h"

#include <algorithm>
#include <cstdint>
#include <iterator>

#include "base/files.h"
#include "base/text.h"
#include "eval/findings/cross_fit.h"
#include "eval/findings/edit_totals.h"
#include "eval/findings/scope.h"

namespace signalbox::eval {

std::vector<ResultRow> result_rows(const RunFindings& findings, RowChoice choice, const std::string& condition) {
  const RecordFindings& found = findings.of_condition(condition);
  const size_t baseline = findings.baseline_index();
  const bool alone = findings.interventions.size() == 1;
  std::vector<ResultRow> out;
  for (size_t m = 0; m < findings.metrics.size(); ++m)
    for (size_t i = 0; i < findings.interventions.size(); ++i) {
      const Intervention& intervention = findings.interventions[i];
      if (i == baseline && !alone) continue;
      if (choice == RowChoice::main && !intervention.is_main()) continue;
      const Contrast& contrast = found.contrasts[i][m];
      ResultRow row;
      row.intervention = intervention.name;
      row.metric = findings.metrics[m];
      row.control_of = intervention.control_of;
      row.condition = condition;
      row.baseline = found.means[baseline][m];
      row.mean = found.means[i][m];
      row.difference = contrast.difference;
      if (alone) row.difference.n = row.mean.n;
      row.p = contrast.p;
      row.q = contrast.q;
      row.units = contrast.units;
      row.detectable = contrast.detectable;
      row.controls = contrast.random;
      row.vs_controls = contrast.vs_controls;
      row.equivalence = contrast.equivalence;
      if (const EditTotals* edits = found.edits_of(i)) row.edits = *edits;
      out.push_back(std::move(row));
    }
  return out;
}

std::vector<ResultRow> rows_by_condition(const RunFindings& findings, RowChoice choice) {
  std::vector<std::vector<ResultRow>> parts;  // all have the same metrics and interventions
  for (const ConditionFindings& one : findings.conditions)
    parts.push_back(result_rows(findings, choice, one.condition));
  parts.push_back(result_rows(findings, choice));
  std::vector<ResultRow> out;
  for (size_t i = 0; i < parts.back().size(); ++i)
    for (std::vector<ResultRow>& part : parts) out.push_back(std::move(part[i]));
  return out;
}

namespace {

// Under a condition whose records have nothing that the metric looks at there is nothing to show.
bool has_values(const ResultRow& row) { return row.baseline.n > 0 || row.mean.n > 0 || row.condition.empty(); }

// Of which records a row is: told where some rows are of one condition.
TableColumn records_column(bool told) {
  return {told ? "records" : "", TableColumn::Kind::text, {"condition"}, false, "all"};
}

Estimate estimate_of(const Versus& versus) { return {versus.difference, versus.lo, versus.hi, 0}; }

}  // namespace

FindingsTable result_table(const std::vector<ResultRow>& rows, const std::string& title) {
  using Kind = TableColumn::Kind;
  FindingsTable table;
  table.title = title;
  const bool controls =
      std::any_of(rows.begin(), rows.end(), [](const ResultRow& row) { return row.controls.differences.n > 0; });
  const auto of_controls = [&](const char* heading) { return controls ? std::string(heading) : std::string(); };
  const bool apart = std::any_of(rows.begin(), rows.end(), [](const ResultRow& row) { return !row.condition.empty(); });
  table.columns = {
      records_column(apart),
      {"metric", Kind::text, {"metric"}},
      {"intervention", Kind::text, {"intervention"}},
      {"", Kind::text, {"control_of"}},
      {"n", Kind::count, {"n"}},
      {"baseline", Kind::value, {"baseline", "baseline_lo", "baseline_hi"}, true},
      {"mean", Kind::value, {"mean", "mean_lo", "mean_hi"}, true},
      {"difference [95 % CI]", Kind::difference, {"diff", "ci_lo", "ci_hi"}, true},
      {"p", Kind::p, {"p"}},
      {"q", Kind::p, {"q"}},
      {"MDE", Kind::number, {"mde"}},
      {of_controls("random controls [2.5 %, 97.5 %]"), Kind::difference, {"control_mean", "control_lo", "control_hi"}},
      {"", Kind::count, {"n_controls"}},
      {of_controls("minus controls [95 % CI]"), Kind::difference, {"vs_controls", "vs_controls_lo", "vs_controls_hi"}},
      {of_controls("p of that"), Kind::p, {"vs_controls_p"}},
      {of_controls("rank by size"), Kind::rank, {"control_rank"}},
      {"", Kind::count, {"n_units"}},
      {"", Kind::p, {"equivalence_margin"}},
      {"", Kind::p, {"equivalence_p"}},
      {"", Kind::number, {"run_tokens"}},
      {"", Kind::number, {"edited_tokens"}},
      {"", Kind::number, {"run_slots"}},
      {"", Kind::number, {"edited_slots"}},
      {"", Kind::number, {"untouched_records"}}};
  for (const ResultRow& row : rows) {
    const Versus versus = row.vs_controls.value_or(Versus());
    const Equivalence equivalence = row.equivalence.value_or(Equivalence{no_number, no_number});
    const auto counted = [&](int64_t value) { return row.edits ? static_cast<double>(value) : no_number; };
    const EditTotals edits = row.edits.value_or(EditTotals());
    table.rows.push_back({row.metric,
                          {row.condition,
                           row.metric,
                           row.intervention,
                           row.control_of,
                           row.difference.n,
                           row.baseline,
                           row.mean,
                           row.difference,
                           row.p,
                           row.q,
                           row.detectable,
                           row.controls.differences,
                           row.controls.differences.n,
                           estimate_of(versus),
                           versus.p,
                           RankCell{row.controls.rank, row.controls.differences.n},
                           row.units,
                           equivalence.margin,
                           equivalence.p,
                           counted(edits.counts.tokens),
                           counted(edits.counts.edited_tokens),
                           counted(edits.counts.slots),
                           counted(edits.counts.edited_slots),
                           counted(edits.untouched)}});
  }
  table.notes = {
      "Differences are paired, intervention minus baseline; p by sign flips over pairs or records. Intervals: exact "
      "for",
      "0/1 metrics, else BCa bootstrap; none excludes 0 where its test does not reject. q: Benjamini-Hochberg over the",
      "primary contrasts. MDE: smallest effect found with 80 % power. Rank by size: place of |difference| among those",
      "of the random controls; (few): fewer than 19 sets."};
  return table;
}

FindingsTable comparison_table(const RunFindings& findings, const std::string& condition, size_t most_pairs,
                               const std::string& title) {
  using Kind = TableColumn::Kind;
  FindingsTable table;
  table.title = title;
  table.columns = {records_column(!condition.empty()),
                   {"metric", Kind::text, {"metric"}},
                   {"comparison", Kind::text, {}},
                   {"", Kind::text, {"intervention"}},
                   {"", Kind::text, {"kind"}},
                   {"", Kind::text, {"with"}},
                   {"difference [95 % CI]", Kind::difference, {"diff", "ci_lo", "ci_hi"}, true},
                   {"p", Kind::p, {"p"}}};
  const RecordFindings& found = findings.of_condition(condition);
  size_t compared = 0;  // main interventions that are compared with each other
  for (const auto& contrasts : found.contrasts) compared += !contrasts.empty() && !contrasts.front().versus.empty();
  const bool pairs = compared * (compared - std::min<size_t>(1, compared)) / 2 <= most_pairs;
  for (size_t m = 0; m < findings.metrics.size(); ++m)
    for (size_t i = 0; i < findings.interventions.size(); ++i) {
      const Intervention& one = findings.interventions[i];
      const Contrast& contrast = found.contrasts[i][m];
      const auto add = [&](const std::string& text, const char* kind, const std::string& with,
                           const Estimate& difference, double p) {
        table.rows.push_back(
            {findings.metrics[m],
             {condition, findings.metrics[m], text, one.name, std::string(kind), with, difference, p}});
      };
      for (const auto& [other, versus] : contrast.versus)
        if (pairs && i < findings.intervention_index(other))
          add(one.name + " minus " + other, "intervention", other, estimate_of(versus), versus.p);
      for (const auto& [conditions, versus] : contrast.by_condition)
        add(one.name + ": " + conditions, "conditions", conditions, estimate_of(versus), versus.p);
      if (contrast.equivalence) {
        const std::string margin = short_number(contrast.equivalence->margin);
        add(one.name + " within " + margin + " of " + findings.baseline, "margin", margin, contrast.difference,
            contrast.equivalence->p);
      }
    }
  table.notes = {
      "\"A minus B\": two interventions over the same records. \"X: A - B\": the effect of X under one condition",
      "minus that under another. \"Within\": two one-sided tests; p below 0.05 shows a difference that small."};
  return table;
}

FindingsTable comparisons_by_condition(const RunFindings& findings, size_t most_pairs, const std::string& title) {
  FindingsTable out = comparison_table(findings, "", most_pairs, title);
  if (findings.conditions.empty()) return out;
  std::vector<std::vector<TableRow>> parts;
  for (const ConditionFindings& one : findings.conditions)
    parts.push_back(comparison_table(findings, one.condition, most_pairs).rows);
  parts.push_back(std::move(out.rows));
  out.rows.clear();
  out.columns.front() = records_column(true);
  for (const std::string& metric : findings.metrics)
    for (const std::vector<TableRow>& part : parts)
      std::copy_if(part.begin(), part.end(), std::back_inserter(out.rows),
                   [&](const TableRow& row) { return row.group == metric; });
  return out;
}

FindingsTable shown_results(const RunFindings& findings, RowChoice choice) {
  std::vector<ResultRow> rows = rows_by_condition(findings, choice);
  std::erase_if(rows, [](const ResultRow& row) { return !has_values(row); });
  return result_table(rows);
}

void write_tables(const std::filesystem::path& dir, const RunFindings& findings) {
  FindingsTable results = result_table(rows_by_condition(findings, RowChoice::main));
  FindingsTable comparisons = comparisons_by_condition(findings, SIZE_MAX);
  std::vector<FindingsTable> shown = {shown_results(findings, RowChoice::main),
                                      comparisons_by_condition(findings, few_pairs, "comparisons of effects")};
  if (shown.back().rows.empty()) shown.pop_back();
  if (findings.cross_fit) shown.push_back(cross_fit_table(findings));  // in spreadsheets it has cross_fit.csv
  if (FindingsTable edits = edit_table(findings); !edits.rows.empty()) shown.push_back(std::move(edits));
  for (FindingsTable* table : {&results, &comparisons}) mark_scope(*table, findings);
  for (FindingsTable& table : shown) mark_scope(table, findings);
  std::string markdown = scope_markdown(findings), latex;
  for (const FindingsTable& table : shown) {
    markdown += table_markdown(table);
    latex += table_latex(table);
  }
  for (const std::string& caution : edit_cautions(findings)) {
    markdown += "\n**Caution.** " + caution + "\n";
    latex += "% Caution. " + caution + "\n";
  }
  write_file_atomically(dir / "table.md", markdown);
  write_file_atomically(dir / "table.tex", latex);
  write_file_atomically(dir / "table.csv", table_csv({results}));
  if (!comparisons.rows.empty()) write_file_atomically(dir / "comparisons.csv", table_csv({comparisons}));
}

}  // namespace signalbox::eval
