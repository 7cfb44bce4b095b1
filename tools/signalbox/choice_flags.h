// --logit-bias and --force-token: other tokens than the sampling's.
#pragma once
#include <vector>

#include "base/namespaces.h"
#include "engine/choice_rules.h"
#include "engine/jobs.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/record.h"

namespace CLI {
class App;
}

namespace signalbox::tools {

void add_choice_options(CLI::App& app, ChoiceRules& rules);
// Throws Error for ids that the vocabulary has not, and for a --force-token at a place where one of the jobs generates
// none.
void check_choice(const ChoiceRules& rules, int64_t n_vocab, const std::vector<Job>& jobs);
// run_jobs_of_command (tools/signalbox/record.h) by these rules, without a trace.
RecordingEnd run_choosing(const CommonOptions& options, const Session& session, PreparedRun& run,
                          const JobsOfCommand& jobs, const ChoiceRules& rules);

}  // namespace signalbox::tools
