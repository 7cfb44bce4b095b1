// The first stage of a run: the baseline is traced over the records that detection may see, and each contrast of the
// spec becomes a ranking of experts.
#pragma once
#include <optional>

#include "base/namespaces.h"
#include "eval/experiment/interventions.h"
#include "eval/experiment/run_context.h"

namespace signalbox::eval {

// Makes what is missing of DIR/detect: traces, NAME/rd.csv and NAME/summary.json, usage.csv; for stages with "held_out"
// also NAME/held_out.csv (layer, expert, rd, ci_lo, ci_hi: the same contrast on the records of the test split, which
// had no part in the ranking). nullopt when interrupted. Throws Error.
std::optional<Detected> run_detection(const RunContext& run);

}  // namespace signalbox::eval
