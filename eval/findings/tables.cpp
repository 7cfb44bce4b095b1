#include "eval/findings/tables.h"

#include "base/files.h"
#include "eval/findings/cross_fit.h"

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
      row.controls = contrast.random;
      out.push_back(std::move(row));
    }
  return out;
}

FindingsTable result_table(const std::vector<ResultRow>& rows, const std::string& title) {
  using Kind = TableColumn::Kind;
  FindingsTable table;
  table.title = title;
  table.columns = {{"", Kind::text, {"condition"}},
                   {"metric", Kind::text, {"metric"}},
                   {"intervention", Kind::text, {"intervention"}},
                   {"", Kind::text, {"control_of"}},
                   {"n", Kind::count, {"n"}},
                   {"baseline", Kind::value, {"baseline", "baseline_lo", "baseline_hi"}, true},
                   {"mean", Kind::value, {"mean", "mean_lo", "mean_hi"}, true},
                   {"difference [95 % CI]", Kind::difference, {"diff", "ci_lo", "ci_hi"}, true},
                   {"p", Kind::p, {"p"}},
                   {"q", Kind::p, {"q"}},
                   {"random controls [2.5 %, 97.5 %]", Kind::difference, {"control_mean", "control_lo", "control_hi"}},
                   {"", Kind::count, {"n_controls"}},
                   {"rank", Kind::rank, {"control_rank"}}};
  for (const ResultRow& row : rows)
    table.rows.push_back({row.metric,
                          {row.condition, row.metric, row.intervention, row.control_of, row.difference.n, row.baseline,
                           row.mean, row.difference, row.p, row.q, row.controls.differences, row.controls.differences.n,
                           RankCell{row.controls.rank, row.controls.differences.n}}});
  table.notes = {
      "Differences are paired, intervention minus baseline, with 95 % percentile bootstrap intervals; p by sign flips;",
      "q by Benjamini-Hochberg over the whole run; rank: place of |difference| among those of the random controls."};
  return table;
}

void write_tables(const std::filesystem::path& dir, const RunFindings& findings) {
  std::vector<FindingsTable> tables = {result_table(result_rows(findings, RowChoice::main))};
  for (const ConditionFindings& one : findings.conditions)
    tables.push_back(result_table(result_rows(findings, RowChoice::main, one.condition), "condition " + one.condition));
  const size_t n_spread = tables.size();  // what goes into the spreadsheet
  if (findings.cross_fit) tables.push_back(cross_fit_table(findings));
  std::string markdown, latex;
  for (const FindingsTable& table : tables) {
    markdown += table_markdown(table);
    latex += table_latex(table);
  }
  write_file_atomically(dir / "table.md", markdown);
  write_file_atomically(dir / "table.tex", latex);
  tables.resize(n_spread);  // deals have cross_fit.csv
  write_file_atomically(dir / "table.csv", table_csv(tables));
}

}  // namespace signalbox::eval
