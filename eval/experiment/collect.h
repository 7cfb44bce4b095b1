// From the samples of a run directory to the values that findings are made of.
#pragma once
#include <filesystem>

#include "base/namespaces.h"
#include "eval/experiment/schedule.h"
#include "eval/findings/values.h"

namespace signalbox::eval {

// A value for every metric, intervention and record. Throws Error naming the file that is missing or wrong.
RunValues collect_values(const std::filesystem::path& dir, const RunSchedule& schedule);

}  // namespace signalbox::eval
