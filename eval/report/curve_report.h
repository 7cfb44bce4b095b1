// The report's parts on how experts were chosen: specification curves, and deals of a cross-fitted run.
#pragma once
#include <string>

#include "eval/findings/findings.h"

namespace signalbox::eval {

// HTML; both are empty where the run has none.
std::string specification_section(const RunFindings& run);
std::string cross_fit_section(const RunFindings& run);

}  // namespace signalbox::eval
