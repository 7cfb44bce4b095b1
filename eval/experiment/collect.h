// From the samples of a run directory to the values that findings are made of.
#pragma once
#include <filesystem>

#include "base/namespaces.h"
#include "eval/experiment/schedule.h"
#include "eval/findings/values.h"
#include "eval/store/finished_lines.h"

namespace signalbox::eval {

// A value for every metric, intervention and record. Throws Error naming the file that is missing or wrong.
RunValues collect_values(const std::filesystem::path& dir, const RunSchedule& schedule);

// The same of the samples that are finished. A record counts for an intervention under a seed where all samples of it
// are finished, the baseline's too. Throws Error too where there is no such record of any other intervention.
RunValues collect_partial(const std::filesystem::path& dir, const RunSchedule& schedule, const FinishedLines& finished);

}  // namespace signalbox::eval
