// Runs the router kernel on a few tokens and keeps what it wrote.
#pragma once
#include <algorithm>
#include <memory>
#include <vector>

#include "tests/ops/op_data.h"

namespace signalbox::test {

struct RouterRun {
  RouterRun(int64_t n_tokens, const Router& router, int32_t n_slots)
      : n_slots(n_slots),
        ids(static_cast<size_t>(n_tokens * n_slots), -7),
        original_ids(ids),
        weights(ids.size(), std::nanf("")),
        margin(static_cast<size_t>(n_tokens)),
        group_margin(margin),
        scores(static_cast<size_t>(n_tokens * router.n_experts)),
        shared_scale(margin),
        banned(scores.size(), 9),
        edits(static_cast<size_t>(n_tokens), TokenEdits{5, 70, 3}) {}  // what layers before have added
  Route view() {
    Route route;
    route.n_slots = n_slots;
    route.ids = ids.data();
    route.weights = weights.data();
    route.original_ids = original_ids.data();
    route.margin = margin.data();
    route.group_margin = group_margin.data();
    route.scores = scores.data();
    route.shared_scale = shared_scale.data();
    route.banned = banned.data();
    route.faults = packed_faults.data();
    route.edits = edits.data();
    return route;
  }
  std::vector<int32_t> route_ids(int64_t t = 0) const {
    return {ids.begin() + t * n_slots, ids.begin() + (t + 1) * n_slots};
  }
  std::vector<float> route_weights(int64_t t = 0) const {
    return {weights.begin() + t * n_slots, weights.begin() + (t + 1) * n_slots};
  }

  int32_t n_slots;
  std::vector<int32_t> ids, original_ids;
  std::vector<float> weights, margin, group_margin, scores, shared_scale;
  std::vector<uint8_t> banned;
  std::vector<TokenEdits> edits;
  std::vector<uint64_t> packed_faults =
      std::vector<uint64_t>(3, no_fault);  // [sequences], of which tests have 3 at most
  RouteFault fault;                        // the first of all sequences, unpacked by finish()
  void finish() { fault = unpack_fault(*std::min_element(packed_faults.begin(), packed_faults.end())); }
};

// One token, one program, every edit's condition holding.
inline RouterRun route_one(const std::vector<float>& logits, const Router& router, const std::vector<RouterStep>& steps,
                           int32_t n_slots = 0, int32_t position = 0, const float* selection_bias = nullptr,
                           uint64_t record_hash = 0, uint32_t sample = 0, int32_t layer = 0) {
  static const std::unique_ptr<Backend> backend = cpu("auto", 1);
  RouterRun run(1, router, n_slots ? n_slots : router.n_active);
  std::vector<float> row = logits;
  const int32_t sequence = 0;
  const std::vector<uint8_t> active(16, 1);
  const RouterProgram program{steps.data(), static_cast<int32_t>(steps.size())};
  RouteBatch batch;
  batch.n_tokens = 1;
  batch.positions = &position;
  batch.sequences = &sequence;
  batch.programs = steps.empty() ? nullptr : &program;
  batch.active = active.data();
  batch.n_edits = 16;
  batch.record_hash = &record_hash;
  batch.samples = &sample;
  batch.layer = layer;
  backend->route(run.view(), Tensor(row.data(), 1, router.n_experts), {}, {}, nullptr, router, selection_bias, batch);
  run.finish();
  return run;
}

inline Router softmax_router(int32_t n_experts, int32_t n_active) {
  Router router;
  router.n_experts = n_experts;
  router.n_active = n_active;
  return router;
}

inline RouterStep make_step(EditOp op, const std::vector<int32_t>& experts = {}, float value = 0,
                            WeightPolicy weights = WeightPolicy::model) {
  RouterStep step;
  step.op = op;
  step.experts = experts.data();  // the caller keeps the list
  step.n_listed = static_cast<int32_t>(experts.size());
  step.value = value;
  step.weights = weights;
  return step;
}

}  // namespace signalbox::test
