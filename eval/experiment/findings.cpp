#include "eval/experiment/findings.h"

#include "eval/experiment/collect.h"
#include "eval/findings/audit.h"
#include "eval/findings/cross_fit.h"
#include "eval/findings/edit_totals.h"
#include "eval/findings/metrics_file.h"
#include "eval/findings/results.h"
#include "eval/findings/scope.h"
#include "eval/findings/specification_curve.h"
#include "eval/findings/tables.h"

namespace signalbox::eval {

RunFindings write_findings(const std::filesystem::path& dir) {
  RunFindings findings = run_findings(collect_values(dir, read_schedule(dir)));
  write_audit(dir, dir, findings);
  write_specification_curves(dir, dir, findings);
  write_metrics(dir, findings);
  write_tables(dir, findings);
  return findings;
}

std::string findings_text(const std::filesystem::path& dir, const RunFindings& findings, int width) {
  std::string text = scope_text(findings) + table_text(shown_results(findings, RowChoice::main), width);
  std::string about;
  for (const Intervention& one : findings.interventions)
    if (one.is_main() && !one.experts.empty()) about += one.name + ": " + intervention_text(one) + "\n";
  if (!about.empty()) text += "\n" + about;
  if (findings.cross_fit) text += "\ndeal by deal\n" + table_text(cross_fit_table(findings), width);
  const FindingsTable comparisons = comparisons_by_condition(findings, few_pairs);
  if (!comparisons.rows.empty()) text += "\n" + table_text(comparisons, width);
  if (!findings.audit.empty()) text += "\n" + audit_text(dir, findings);
  if (const FindingsTable edits = edit_table(findings); !edits.rows.empty()) text += "\n" + table_text(edits, width);
  for (const std::string& caution : edit_cautions(findings)) text += "\ncaution: " + caution + "\n";
  return text;
}

}  // namespace signalbox::eval
