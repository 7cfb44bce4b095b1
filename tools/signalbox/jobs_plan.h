// --dry-run of commands that generate and trace: what their jobs would take.
#pragma once
#include <functional>
#include <string>

#include "base/namespaces.h"
#include "engine/runner.h"
#include "tools/signalbox/prepare.h"

namespace signalbox::tools {

// Jobs by what they belong to, in order of appearance.
struct JobGroups {
  std::string name;    // of a group, for the table: "domain"
  std::string plural;  // for JSON: "domains"
  std::string what;    // would do it: "the study"
  std::string rest;    // what comes on top of the texts' time; empty: nothing
  std::function<std::string(const Job& job)> group_of;
};

// `kept`: samples that an earlier process has finished. Measures the speed with some of the jobs, and prints prompts
// and tokens of each group, time and room on disk; writes nothing else.
void print_jobs_plan(const CommonOptions& options, const Session& session, PreparedRun& run, const RunOptions& running,
                     const JobGroups& groups, int64_t kept);

}  // namespace signalbox::tools
