// From the values of a run to its findings: the statistics.
#pragma once
#include "base/namespaces.h"
#include "eval/findings/findings.h"
#include "eval/findings/values.h"

namespace signalbox::eval {

// Deterministic to the bit, whatever n_threads (0: as many as the machine has). Means are over records, with 95 %
// percentile bootstrap over clusters. Differences are paired: over the records that have a value on both sides, the
// interval by bootstrap and p by sign flips over clusters; q is over all contrasts of the run, controls included, and
// for the conditions over the contrasts of all of them. McNemar's exact test is over records, where every value is 0 or
// 1 (not clustered). The audit's correlations are not made here. Throws Error when the values do not fit together (no
// such baseline, a name twice, a record out of range or order).
RunFindings run_findings(const RunValues& run, int n_threads = 0);

}  // namespace signalbox::eval
