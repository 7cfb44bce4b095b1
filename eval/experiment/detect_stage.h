// The first stage of a run: the baseline is traced over the records that detection may see, and each contrast of the
// spec becomes a ranking of experts.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/experiment/interventions.h"
#include "eval/experiment/run_context.h"

namespace signalbox::eval {

// A trace of the baseline that detection needs.
struct BaselineTrace {
  const char* name;        // below DIR/detect
  bool tested = false;     // of the test records; else of those that detection may see
  bool generated = false;  // of what is generated; else of the given tokens
  const std::vector<int64_t>& records(const ExperimentSpec& spec, const Splits& splits) const;
};
std::vector<BaselineTrace> baseline_traces(const ExperimentSpec& spec);
// The points that they hold: routes, and what rankings go by beside these.
std::string detection_points(const ExperimentSpec& spec);

// Makes what is missing of DIR/detect: traces, NAME/rd.csv and NAME/summary.json, usage.csv; for stages with "held_out"
// also NAME/held_out.csv (layer, expert, rd, ci_lo, ci_hi: the same contrast on the records of the test split, which
// had no part in the ranking). nullopt when interrupted. Throws Error.
std::optional<Detected> run_detection(const RunContext& run);

}  // namespace signalbox::eval
