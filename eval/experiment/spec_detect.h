// "detect" of an experiment's spec: stages of detection, and grids over them.
#pragma once
#include <string>
#include <vector>

#include "base/json.h"
#include "eval/experiment/grid.h"
#include "eval/experiment/spec.h"

namespace signalbox::eval {

// The stage NAME, or one for each point of its grid, named "NAME/span=question,length_match=true". Values of the grid
// stand for the stage's own keys; null is the key left out. Throws Error: unknown keys, types, a contrast of one
// condition, a key both in the stage and in its grid, two points that are the same, and without "generate" phases that
// need it.
std::vector<DetectSpec> read_detect_stage(const std::string& name, const json::Ref& stage, bool generates);

// The points of an intervention (grid_points of its own already put into the edits), each taken over the grid of the
// stage that its edits name as "detect:NAME": the choices of detection come first in names and grids. Without such a
// stage they stay as they are. Throws Error: two stages with grids in one intervention, a key that the intervention's
// own grid has too, more than max_grid_points points.
std::vector<ExpandedEdits> over_detection(std::vector<ExpandedEdits> points, const std::string& name,
                                          const json::Ref& entry, const std::vector<DetectSpec>& stages);

}  // namespace signalbox::eval
