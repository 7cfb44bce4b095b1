// Runs a list of jobs whose tokens are not the sampling's alone.
#pragma once
#include <vector>

#include "base/namespaces.h"
#include "engine/choice_rules.h"
#include "engine/runner.h"

namespace signalbox::engine {

// run_jobs (runner.h), in which jobs that generate choose by these rules.
bool run_jobs_choosing(Forward& forward, const std::vector<Job>& jobs, const RunOptions& options,
                       const ChoiceRules& rules, const RunEvents& events, ProbeSink* sink);

}  // namespace signalbox::engine
