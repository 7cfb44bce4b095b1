// Traces of a run token by token: a record under the baseline and under an intervention side by side.
#pragma once
#include <filesystem>
#include <string>

#include "base/namespaces.h"
#include "eval/report/findings_index.h"

namespace signalbox::eval {

// Of the baseline and the first main interventions that DIR/traces holds (of several seeds the first), as many records
// as there is room for. HTML; empty where the baseline and another are not both traced with routes.
std::string tokens_section(const std::filesystem::path& dir, const FindingsIndex& findings);

}  // namespace signalbox::eval
