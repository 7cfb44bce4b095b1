// Cross-fitting: the records are dealt several times into a part that chooses the experts and a part that tests them,
// and effects are averaged over the deals. One split by itself is luck, and costs half of the records.
#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "eval/experiment/conduct.h"
#include "eval/experiment/experiment.h"
#include "eval/experiment/reanalysis.h"
#include "eval/findings/findings.h"

namespace signalbox::eval {

// DIR/deals/N.
std::filesystem::path deal_directory(const std::filesystem::path& dir, int64_t deal);

// The experiment of one deal: without cross_fit, its splits those of the deal.
Experiment experiment_of_deal(const Experiment& experiment, const Deal& deal);

// conduct() for a spec with cross_fit: DIR/deals/0 ... are run directories of their own, made one after the other; then
// the findings over all of them stand in DIR. What is complete is not run again. Throws Error for a shard.
RunEnd conduct_cross_fit(const Experiment& experiment, const Session& session, const ConductOptions& options,
                         const ConductEvents& events);

// A directory whose deals are complete.
bool is_cross_fit_directory(const std::filesystem::path& dir);

// The findings over DIR/deals/*: every value of a record is the mean over the deals that tested it; controls are
// averaged in the same way, and have no rank, for a mean over sets is no set. Writes metrics.json, tables,
// cross_fit.csv, selection.csv and, where there was an audit, audit/rd.csv (mean risk differences) and audit.csv.
// Throws Error naming what is missing. Without `options` seed and replicates are those of the run.
RunFindings write_cross_fit_findings(const std::filesystem::path& dir, const std::filesystem::path& out,
                                     const std::optional<ReanalysisOptions>& options = {});

}  // namespace signalbox::eval
