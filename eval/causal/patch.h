// Activation patching: a run with the values that another run has at one place (docs/causal-patch.md).
//
//   noising    the clean run with values of the corrupt one    effect = M(patched) - M(clean)
//   denoising  the corrupt run with values of the clean one    effect = M(patched) - M(corrupt)
//   normalised = (M(clean) - M(patched)) / (M(clean) - M(corrupt)), (M(patched) - M(corrupt)) / (the same)
//
// Exact: a cell equals one run with that edit. Nothing before the first patched token and nothing below the layer
// changes, so a cell begins with the unedited run's residual stream there and shares its keys and values; many cells
// run in one step. A cell in which no bit is exchanged for another is not run: its effect is 0.
#pragma once
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "engine/session.h"
#include "eval/causal/pairs.h"
#include "eval/causal/patch_points.h"

namespace signalbox::eval {

struct PatchRequest {
  Metric metric = Metric::logit_diff;
  bool denoising = false;
  std::vector<PointAt> points;  // patch_points
  PatchBy by = PatchBy::natural;
  std::vector<int32_t> units;    // heads or expert ids, ascending; empty: all
  std::vector<int32_t> neurons;  // of expert.hidden, ascending: each apart; empty: an expert's neurons together
  int64_t first_position = 0, end_position = std::numeric_limits<int64_t>::max();  // of the clean record's tokens
  // Exchanged already in the run that cells change: effects are against that run. Points that do not come after all of
  // these are refused.
  std::vector<NamedExchange> with;
  std::string span;           // and only those of this span of the clean record; empty: all
  int64_t step_tokens = 512;  // rows of one step of many cells, at most (a cell alone may have more)
  int64_t step_cells = 64;    // and cells
  const std::atomic<bool>* interrupted = nullptr;
  std::function<void(int64_t points)> on_progress;  // of pairs x points
};

// Throws Error before anything is run: a pair of which no position is taken; for attn.pattern a token of the source run
// that looks at one that the map leaves out; units or neurons that a point does not have.
void check_patch(const PatchRequest& request, const std::vector<Record>& records, const std::vector<CausalPair>& pairs,
                 const RecordJobs& made, const ModelShape& shape);

struct PatchRow {
  size_t point = 0;  // of request.points
  std::string unit;  // position, head, expert, expert:neuron, unit@position; empty: everything everywhere
  double effect = 0;
  // Of the (token, layer) routes from the first patched token and layer on: how many there are, and in how many the set
  // of experts became another. The exchanged route itself does not count.
  int64_t routes = 0, flipped = 0;
  bool operator==(const PatchRow&) const = default;
};

struct PatchedPair {
  std::vector<PatchRow> rows;
  int64_t cells = 0, unchanged = 0;  // cells in all, and those in which nothing is exchanged for another value
  int64_t undefined = 0;             // (token, expert) places of expert.out and expert.hidden without a counterpart
  double layers_run = 0, layers_of_brute_force = 0;  // token-layers
  bool interrupted = false;                          // the rest is not whole then
};
// `done`: of on_progress, points of pairs before.
PatchedPair patch_pair(const engine::Session& session, const RecordJobs& made, const CausalPair& pair,
                       const PatchRequest& request, int64_t done);

}  // namespace signalbox::eval
