// Gradients of a metric at every wanted point, for each record, as a trace whose tensors are named "grad." and the
// point (docs/gradients.md).
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "engine/session.h"
#include "eval/causal/metric.h"
#include "eval/causal/weight_gradients.h"
#include "eval/data/record_jobs.h"
#include "eval/store/kept_work.h"

namespace signalbox::eval {

struct GradientRequest {
  engine::TraceRequest trace;  // its directory, span names and edits; `points` are those whose gradient is recorded
  Metric metric = Metric::logprob;
  // Weights whose gradients are added up over the records, into weights.safetensors (weight_gradients.h); `mean`:
  // divided by the number of records.
  std::vector<WantedWeight> weights = {};
  bool mean_of_weights = false;
  int64_t batch = 8;            // sequences of one step at most
  int64_t batch_tokens = 1024;  // and tokens, but for a sequence that is longer
  // Finished records: their rows stay in the trace's spools. With weights, their sums stand in STEM.sums every
  // `sums_seconds` and when interrupted; records behind them are run again.
  Kept kept = {};
  double sums_seconds = 60;
  const std::atomic<bool>* interrupted = nullptr;
  std::function<void(int64_t tokens)> on_progress;  // tokens that are done, of all jobs' tokens; may be empty
};

// The points that `globs` name, for their gradients. Throws Error, listing those that have one, where a point that is
// named in full has none; a glob takes those that have one.
probes::PointSet gradient_points(std::string_view globs, const probes::ModelShape& shape);

struct GradientResult {
  bool interrupted = false;     // then there is no trace, but what is kept
  std::vector<double> metrics;  // [jobs]
  size_t most_bytes = 0;        // of activations at once
  size_t weight_bytes = 0;      // of the sums for weights
};

inline constexpr const char* gradient_schema = "signalbox.gradient/1";  // of the manifest and the summary
// What a directory holds in the end.
std::vector<std::string> gradient_files(bool with_weights);
// What stands in it until then, beside what kept_work_names() has.
std::vector<std::string> gradient_spools();
// The metrics of records that are all kept, where the trace is there. Throws Error where one is missing.
std::vector<double> kept_metrics(const Kept& kept, const std::vector<engine::Job>& jobs);

// jobs: one of each record, of which nothing is generated; record(i) is the line of records.jsonl of jobs[i]. Bits
// depend neither on batch nor on threads. Throws Error as metric_rows does, for every record before the first forward,
// and as Gradient::run does.
GradientResult trace_gradients(const engine::Session& session, const std::vector<Record>& records,
                               const RecordJobs& made, const GradientRequest& request,
                               const std::function<json::Value(int64_t)>& record);

}  // namespace signalbox::eval
