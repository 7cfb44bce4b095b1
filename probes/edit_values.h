// The values that point edits write: zeros, tensors of files, means over traces. Used while a plan is made.
#pragma once
#include <map>
#include <memory>
#include <string>

#include "base/safetensors.h"
#include "probes/edit_plan.h"

namespace signalbox {

// Reads each file once and keeps traces open for the plan.
class ValueSource {
 public:
  explicit ValueSource(PlanData& plan) : plan_(plan) {}

  // The trace at a path, with the key that names it for messages.
  std::shared_ptr<const TraceReader> trace(const std::filesystem::path& path);

  // Fills in values, n_values, width and how rows are found. `experts` are those the edit names (empty: all).
  void zero(PointEdit& edit, int64_t width);
  void tensor(PointEdit& edit, const json::Ref& key, const TensorSource& source, int64_t width, int32_t n_experts,
              bool slots);
  void mean(PointEdit& edit, const json::Ref& key, const std::filesystem::path& path, Point point, int32_t layer,
            int64_t width, const std::vector<int32_t>& experts);

  // Checks that the trace holds the point with this width, and returns its tensor's name.
  static std::string require_point(const TraceReader& trace, const json::Ref& key, Point point, int32_t layer,
                                   int64_t width);
  // Checks that a trace's routes are those of such a router, recorded at this layer.
  static void require_routes(const TraceReader& trace, const json::Ref& key, int32_t layer, const LayerShape& shape);

 private:
  PlanData& plan_;
  std::map<std::string, std::shared_ptr<const TraceReader>> traces_;
  std::map<std::string, std::shared_ptr<const safetensors::File>> files_;
  std::map<std::string, const std::vector<float>*> tensors_;  // "FILE:tensor" -> checked f32 values
  std::map<int64_t, const std::vector<float>*> zeros_;
};

}  // namespace signalbox
