// The findings of a cross-fitted run: an effect averaged over several deals of the records into detection and test, and
// how much the deals agree.
#pragma once
#include <filesystem>
#include <string>

#include "base/json.h"
#include "eval/findings/findings.h"
#include "eval/findings/table.h"

namespace signalbox::eval {

// deal (from 0, or "all"), intervention, metric, diff, ci_lo, ci_hi, p, n: main interventions, deal by deal, then the
// mean over deals.
std::string cross_fit_csv(const RunFindings& findings);

// intervention, layer, expert, deals, frequency = deals / all deals, rd.
std::string selection_csv(const RunFindings& findings);

// metric, intervention, deals that tested it, the effect over all, its least, median and greatest over the deals, and
// how many deals have its sign.
FindingsTable cross_fit_table(const RunFindings& findings);

// "cross_fit" of metrics.json: {deals, share, effects: {NAME: {METRIC: [{diff, ci_lo, ci_hi, p, n}, ...]}}, selection:
// {NAME: [{layer, expert, deals, rd}, ...]}}; experts that no deal took stand in selection.csv alone.
json::Value cross_fit_json(const RunFindings& findings);
// Back again: names of interventions and metrics are those of `run`.
CrossFitFindings read_cross_fit(const json::Ref& value, const RunFindings& run);

// DIR/cross_fit.csv and DIR/selection.csv.
void write_cross_fit_tables(const std::filesystem::path& dir, const RunFindings& findings);

}  // namespace signalbox::eval
