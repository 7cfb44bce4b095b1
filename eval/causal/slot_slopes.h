// First-order estimates of what taking a slot out does (attribution patching): the change of the slot's contribution
// times how the metric changes with it, for every slot from one forward and one way back.
//
//   hole   -c . dM/dc                 c = weight x output, what the slot adds
//   mean   (mean - c) . dM/dc
//
// c . dM/dc is weight x dM/d weight. What a change does to later routes is not in it (engine/gradient.h).
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "base/namespaces.h"
#include "engine/gradient.h"
#include "engine/session.h"
#include "eval/causal/metric.h"

namespace signalbox::eval {

class SlotSlopes {
 public:
  // `layers`: absolute, ascending, each with a router. `mean_contribution`: empty for holes.
  using MeanContribution = std::function<const std::vector<double>&(int32_t layer, int32_t expert)>;
  SlotSlopes(const engine::Session& session, std::vector<int32_t> layers, MeanContribution mean_contribution);

  struct Found {
    double base = 0;               // the metric
    std::vector<int32_t> experts;  // [T, L, k] -1: unused slot
    std::vector<float> estimates;  // NaN: not asked for, unused slot, or of a mean that weighs nothing
  };
  // Of one record's given tokens, unedited; `asked` [T]: which of them. Throws Error as Gradient::run and as
  // mean_contribution do.
  Found of(const engine::Job& job, const MetricRows& rows, const std::vector<uint8_t>& asked);

 private:
  const engine::Session& session_;
  std::vector<int32_t> layers_;
  MeanContribution mean_contribution_;
  engine::Gradient gradient_;
};

}  // namespace signalbox::eval
