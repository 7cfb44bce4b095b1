// The values that point edits write: zeros, tensors, means over recordings; of files or from memory. Used while a plan
// is made.
#pragma once
#include <map>
#include <memory>
#include <string>

#include "base/namespaces.h"
#include "base/safetensors.h"
#include "probes/edit_memory.h"
#include "probes/edit_plan.h"

namespace signalbox::probes {

// Reads each file once and keeps traces open for the plan.
class ValueSource {
 public:
  // `memory` may be null.
  ValueSource(PlanData& plan, const EditMemory* memory) : plan_(plan), memory_(memory) {}

  // The recording that an edit names under `key`.
  std::shared_ptr<const Recording> recording(const EditSpec& spec, const json::Ref& key);

  // Fills in values, n_values, width and how rows are found. `experts` are those the edit names (empty: all).
  void zero(PointEdit& edit, int64_t width);
  void tensor(PointEdit& edit, const json::Ref& key, const EditSpec& spec, int32_t layer);
  void mean(PointEdit& edit, const json::Ref& key, const EditSpec& spec, int32_t layer, int64_t width,
            const std::vector<int32_t>& experts);

  // Checks that the recording holds the point as such a model has it, and returns its tensor's name.
  static std::string require_point(const Recording& trace, const json::Ref& key, Point point, int32_t layer,
                                   const ModelShape& model);
  // Checks that its routes are those of such a router, recorded at this layer.
  static void require_routes(const Recording& trace, const json::Ref& key, int32_t layer, const LayerShape& shape);

 private:
  PlanData& plan_;
  const EditMemory* memory_;
  std::map<std::string, std::shared_ptr<const Recording>> traces_;
  std::map<std::string, std::shared_ptr<const safetensors::File>> files_;
  std::map<std::string, const std::vector<float>*> tensors_;  // "FILE:tensor", "memory:NAME" -> checked f32 values
  std::map<int64_t, const std::vector<float>*> zeros_;
};

}  // namespace signalbox::probes
