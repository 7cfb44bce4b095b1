// metrics.json: the findings of a run as a file, written and read in this one place.
#pragma once
#include <filesystem>

#include "base/json.h"
#include "base/namespaces.h"
#include "eval/findings/findings.h"

namespace signalbox::eval {

// Undefined numbers are null. A key for which a run has nothing to say is absent. Keys, beyond "schema", "baseline",
// "resamples", "seed" and "metrics":
//   partial, limit: where the findings are of less than the whole run (scope.h)
//   about.NAME = {description, control_of, control, grid}: what an intervention is; where it applies also use, shared
//     and first_seed_only (Intervention)
//   interventions.NAME.METRIC = {mean, ci_lo, ci_hi, n}
//   interventions.NAME.edited: what its edits did (edit_totals_json), where the samples say it
//   primary = {interventions, metrics}: the contrasts that are one family of q
//   contrasts.NAME.METRIC = {diff, ci_lo, ci_hi, p, q, control_mean, control_lo, control_hi, control_rank, n_controls,
//     n, mcnemar_p, n_units, mde}, the baseline left out; control_* are of the random controls, with few_controls true
//     where their number is not enough_controls. Of main interventions
//     also vs_controls, versus.OTHER and by_condition["A - B"] = {diff, ci_lo, ci_hi, p} and equivalence = {margin, p,
//     equivalent}, where there are random controls, others, conditions and a margin; with other kinds of controls
//     frequency_matched = {mean, lo, hi, rank, n} and bottom_diff
//   conditions.CONDITION = {interventions, contrasts}, where there are conditions
//   data = {records, examples, copies, rankings, ...}: data_facts_json
//   specification_curves.ENTRY.METRIC = {points, negative, positive, zero, negative_p_below_05, positive_p_below_05,
//   median,
//     min, max}, where there are any
//   cross_fit = {deals, share, effects, selection}, of a cross-fitted run: cross_fit_json
//   audit.METRIC = {spearman, spearman_signed, n}, where there is an audit
json::Value metrics_json(const RunFindings& findings);

// null where undefined.
json::Value json_number(double value);

// DIR/metrics.json. Equal findings give equal bytes.
void write_metrics(const std::filesystem::path& dir, const RunFindings& findings);

// Back again; what the file does not say follows from the names (Intervention::entry, audited). Throws Error naming the
// key.
RunFindings read_findings(const json::Ref& metrics);
RunFindings read_findings(const std::filesystem::path& dir);

}  // namespace signalbox::eval
