// The map of slots: how a metric changes when one expert's slot of one token in one layer is taken out, for every slot
// or for a sample of them (docs/causal-map.md).
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
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "engine/session.h"
#include "eval/causal/map_table.h"
#include "eval/causal/metric.h"
#include "eval/data/record_jobs.h"
#include "eval/store/manifest.h"

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
  int64_t step_cells = 64;    // and cells
  // mean: the mean contribution of an expert over the reference records' tokens that selected it.
  std::function<const std::vector<double>&(int32_t layer, int32_t expert)> mean_contribution;
  std::string reference;            // mean: whose means these are, for the summary
  std::optional<MapSample> sample;  // none: every cell
  // Of the work: its schema is map_schema; identity and info are the caller's, the layout is made here.
  Manifest manifest;
  const std::atomic<bool>* interrupted = nullptr;
  std::function<void(const std::string& doing, const char* unit, int64_t total)> on_stage;
  std::function<void(int64_t done)> on_progress;         // of the stage
  std::function<void(const std::string& what)> on_kept;  // found on disk
};

// Tokens that are asked for times slots: cells but for slots that no route uses.
int64_t count_cells(const engine::Session& session, const RecordJobs& made, const MapRequest& request);

struct MapResult {
  bool interrupted = false;  // the same request goes on
  bool was_complete = false;
  MapCounts counts;
};

// Works in DIR (eval/store/work_directory.h) until map.safetensors, experts.csv, summary.json, records.jsonl and
// texts.jsonl are there (map_table.h); cells that a killed process had finished are not run again, and the files have
// the same bytes. `made` are the jobs of the manifest's shard. With a sample, first a forward and a way back of each
// record give the first-order estimate of every cell (slot_slopes.h); the chosen cells are then run. Throws Error as
// metric_rows, WorkDirectory and the forward do.
MapResult map_effects(const engine::Session& session, const std::vector<Record>& records, const RecordJobs& made,
                      const MapRequest& request);

}  // namespace signalbox::eval
