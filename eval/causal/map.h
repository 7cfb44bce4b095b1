// The exhaustive map: how a metric changes when one expert's slot of one token in one layer is taken out, for every
// slot (docs/causal-map.md).
//
//   hole  the slot adds nothing: equal to the edit scale_expert by 0 at that position, layer and expert
//   ban   the expert is no candidate there, and the next best comes in: equal to deactivate, mode ban
//   mean  its output becomes the one with which it gives its mean contribution over reference records
//
// Exact: a cell equals a whole scored run with that edit, bit for bit on the CPU. Nothing before the token and nothing
// below the layer changes, so a cell begins with the unedited run's residual stream at its layer and runs the tokens
// from its own on; keys and values of earlier positions are shared.
#pragma once
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "engine/session.h"
#include "eval/causal/metric.h"
#include "eval/data/record_jobs.h"

namespace signalbox::eval {

enum class Without : uint8_t { hole, ban, mean };
Without parse_without(std::string_view name, const std::string& where);  // throws Error, listing the names
std::string_view without_name(Without without);

struct MapRequest {
  std::filesystem::path dir;
  Metric metric = Metric::logprob;
  Without without = Without::hole;
  std::vector<int32_t> layers;  // absolute, ascending, each with a router
  int64_t first_position = 0, end_position = std::numeric_limits<int64_t>::max();  // of the tokens taken
  std::string span;           // and only those of this span; empty: all
  int64_t step_tokens = 512;  // rows of one step of many cells, at most (a cell alone may have more)
  // mean: the mean contribution of an expert over the reference records' tokens that selected it.
  std::function<const std::vector<double>&(int32_t layer, int32_t expert)> mean_contribution;
  const std::atomic<bool>* interrupted = nullptr;
  std::function<void(int64_t cells)> on_progress;
};

// Cells of all jobs, for progress.
int64_t count_cells(const engine::Session& session, const RecordJobs& made, const MapRequest& request);

struct MapResult {
  bool interrupted = false;  // nothing is written then
  int64_t cells = 0;
  double layers_run = 0, layers_of_brute_force = 0;  // token-layers, attention's length left aside
};

// Writes DIR/map.safetensors: effect F32 [T, L, k] (metric of the cell - metric of the unedited run; NaN where not
// computed and for unused slots), router.ids as in a trace, tokens, sample_offsets, layers, base F64 [S]; and
// summary.json, records.jsonl. Throws Error as metric_rows and the forward do.
MapResult map_effects(const engine::Session& session, const std::vector<Record>& records, const RecordJobs& made,
                      const MapRequest& request);

}  // namespace signalbox::eval
