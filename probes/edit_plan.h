// What is inside an EditPlan: edits resolved against a model, and the tables that their steps point into.
#pragma once
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "probes/edit_spec.h"
#include "probes/edits.h"
#include "probes/recording.h"

namespace signalbox::probes {

using LayerExperts = std::vector<std::pair<int32_t, std::vector<int32_t>>>;

// Where an edit acts: layers ascending (-1 for a point that is not of a layer), each with the experts named for it, in
// the order named. `by_expert` tells a layer for which no expert is named from an edit that names none.
struct Targets {
  LayerExperts layers;
  bool by_expert = false;
};

// Throws Error for layers and experts that the model does not have or on which the edit cannot act.
Targets resolve_targets(const EditSpec& spec, const ModelShape& shape);

struct PlannedEdit {
  std::string path;  // "edits[3]", for messages at run time
  TokenSelector tokens;
  uint64_t seed = 0;
  bool acts = false;  // false: a no-op by value
  LayerExperts experts;
  // replay and patch
  std::shared_ptr<const Recording> trace;
  std::optional<std::string> sample;
  bool replay = false, patch = false, leave_past = false, recorded_weights = false;
};

struct PlanData {
  std::string where;  // the file, for messages
  json::Value source;
  ModelShape shape;
  std::vector<PlannedEdit> edits;
  std::vector<std::vector<RouterStep>> steps;  // [layer]; replay's tables are filled in by bind
  std::vector<PointEdit> points;               // ordered by point_slot(), then as listed; bind fills in patch's values
  std::vector<int32_t> points_begin;           // [point_slot()] .. [point_slot() + 1]: a point's part of `points`
  std::deque<std::vector<int32_t>> ints;       // owners of what steps and points point to
  std::deque<std::vector<float>> floats;
  int32_t max_slots = 0;
  bool has_router_edits = false, has_point_edits = false, needs_margin = false;

  size_t point_slot(Point point, int32_t layer) const {
    return static_cast<size_t>(point) * (shape.layers.size() + 1) + static_cast<size_t>(layer + 1);
  }
};

// Throws Error for edits that cannot hold together at some layer: too few candidates, too many forced, bans that meet
// forced or fixed experts, policies that need more experts than there are.
void check_conflicts(const PlanData& plan, const std::vector<EditSpec>& specs);

}  // namespace signalbox::probes
