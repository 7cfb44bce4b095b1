// How far two models send the same tokens to the same experts.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/namespaces.h"
#include "engine/runner.h"
#include "eval/statistics/paired.h"
#include "eval/statistics/resampling.h"
#include "probes/shape.h"
#include "probes/sink.h"

namespace signalbox::eval {

// A sink for a run of the original and then for runs of others on the same jobs, beside a QualityMeasure. Keeps two
// bytes a token, layer and slot of the original.
class RouteAgreement final : public ProbeSink {
 public:
  // Jobs of given tokens, indices from 0 on in their order; `examples` [jobs]: records of one label are drawn together.
  RouteAgreement(const ModelShape& shape, const std::vector<Job>& jobs, std::vector<int64_t> examples);

  // What follows is compared with what came before.
  void compare();

  // Mean over given tokens and layers with a router of the share of the original's experts that the other selects too;
  // its 95 % percentile bootstrap interval over examples. No value for a model without routers, or before a comparison.
  std::optional<MeanEstimate> estimate(uint64_t seed, int threads) const;

  bool wants(Point point, int32_t layer) const override;
  void begin(const StepRows& rows) override;
  void take(Point, int32_t, const float*, int64_t) override {}
  void take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) override;
  void end() override {}

 private:
  int64_t place(int32_t layer) const;  // among the layers with a router
  std::vector<int32_t> layers_;
  int64_t n_slots_ = 0;
  std::vector<int64_t> examples_, starts_, lengths_;  // [jobs]
  std::vector<uint16_t> ids_;                         // [tokens, layers, n_slots], the last value: unused
  std::vector<double> shares_;                        // [tokens, layers]
  bool comparing_ = false;
  std::vector<RowRange> ranges_;
};

}  // namespace signalbox::eval
