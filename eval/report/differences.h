// What the interventions of a run changed: one view of all effects, condition by condition, and for each metric the
// differences beside those of the controls.
#pragma once
#include <string>

#include "base/namespaces.h"
#include "eval/report/findings_index.h"

namespace signalbox::eval {

// Interventions x conditions for each metric, all records together in the last column; without conditions,
// interventions x metrics. Cells: difference, its interval, its place among the random controls.
std::string overview_section(const FindingsIndex& findings);

// How to read the pictures, and metric by metric a forest with a row for every condition of every intervention. Of a
// metric that no intervention moves at all one sentence is left.
std::string differences_section(const FindingsIndex& findings);

}  // namespace signalbox::eval
