// What experts answer to given inputs, whoever was sent to them.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "base/namespaces.h"
#include "engine/model.h"
#include "engine/weights.h"
#include "kernels/backend.h"

namespace signalbox::eval {

class ExpertOutputs {
 public:
  // `weights`: of one layer, in host memory; `backend`: a CPU. All outlive it.
  ExpertOutputs(Backend& backend, const Model& model, const MoeWeights& weights)
      : backend_(backend), model_(model), weights_(weights) {}

  // x [n, d_model]: what the experts read. The rows of one token stand together: [n, experts.size(), d_model], valid
  // until the next call, and the caller's to change.
  std::vector<float>& of(const float* x, int64_t n, std::span<const int32_t> experts);

 private:
  Backend& backend_;
  const Model& model_;
  const MoeWeights& weights_;
  std::vector<int32_t> ids_;
  std::vector<float> hidden_, out_;
};

}  // namespace signalbox::eval
