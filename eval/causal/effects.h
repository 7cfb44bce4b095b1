// What edits do to a metric, split into what goes through later routes and what does not (docs/causal-effects.md).
//
//   total        the edited run - the unedited one
//   direct       the same with the routes of later layers held at those of the unedited run
//   routes       no edit, but the later layers' routes of the edited run
//   interaction  total - direct - routes
//
// Later layers are those above the highest at which an edit acts. Where there are none, direct, routes and interaction
// are undefined. And how the change travels: per later layer, how far stream and routes are from those of the unedited
// run.
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
#include "eval/causal/metric.h"
#include "eval/data/record_jobs.h"
#include "eval/store/kept_work.h"
#include "probes/edit_memory.h"

namespace signalbox::eval {

struct EffectsRequest {
  Metric metric = Metric::logprob;
  std::filesystem::path edits_dir = ".";  // relative paths in the jobs' edits are relative to it
  uint64_t seed = 0;                      // of edits that name none
  bool holds_weights = false;             // the weights of held routes too; else ids, with the model's own weights
  // What the jobs' edits name memory:NAME; null: nothing.
  std::function<const probes::EditMemory*(size_t record)> memory;
  Kept kept;  // finished records
  const std::atomic<bool>* interrupted = nullptr;
  std::function<void(int64_t tokens)> on_progress;  // of effects_tokens()
};

inline constexpr double undefined_number = std::numeric_limits<double>::quiet_NaN();

struct EffectsRow {
  std::string id;
  double base = 0, total = 0;
  double direct = undefined_number, routes = undefined_number, interaction = undefined_number;
  int64_t edited_tokens = 0;  // from the first edited one on; 0: no edit acts
};

// One record's sums behind a layer's PropagationRow.
struct Travel {
  int64_t tokens = 0, slots = 0, left = 0, crossed = 0, logits = 0;
  double jaccard = 0, squares = 0, relative = 0, cosine = 0, kl = 0;
};

// Means over the tokens of all records, from each record's first edited token on. NaN where there is none, and the
// route columns for layers without a router.
struct PropagationRow {
  int32_t layer = 0;
  int64_t tokens = 0;
  double ids_changed = undefined_number;     // share of slots whose expert of the unedited run has left
  double jaccard = undefined_number;         // of the two sets of experts
  double dlogit_rms = undefined_number;      // root of the mean square change of the router's logits
  double margin_crossed = undefined_number;  // share of tokens with another set of experts
  double dresid_rel = undefined_number;      // size of the change of the stream behind the layer / size of the stream
  double dresid_cos = undefined_number;      // cosine of the two streams
  double lens_kl = undefined_number;         // KL(unedited || edited) of what final norm and head read there, in nats
};

struct Effects {
  bool interrupted = false;
  int32_t highest_layer = -1;  // at which an edit acts
  std::vector<EffectsRow> rows;
  std::vector<PropagationRow> propagation;
};

// Jobs carry the plan. Throws Error as metric_rows and the forward do; where a token before the first edited one is not
// what it was, bit for bit on devices of invariant results.
Effects measure_effects(const engine::Session& session, const std::vector<Record>& records, const RecordJobs& made,
                        const EffectsRequest& request);
// Tokens that this runs, for progress.
int64_t effects_tokens(const RecordJobs& made);

// DIR/effects.csv, propagation.csv and summary.json.
void write_effects(const std::filesystem::path& dir, const Effects& effects, const EffectsRequest& request,
                   const engine::Session& session, const json::Value& edits, uint64_t seed = 0);

}  // namespace signalbox::eval
