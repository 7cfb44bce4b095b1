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
  const std::atomic<bool>* interrupted = nullptr;
  std::function<void(int64_t tokens)> on_progress;  // tokens that are done, of all jobs' tokens; may be empty
};

// The points that `globs` name, for their gradients. Throws Error, listing those that have one, where a point that is
// named in full has none; a glob takes those that have one.
probes::PointSet gradient_points(std::string_view globs, const probes::ModelShape& shape);

struct GradientResult {
  bool interrupted = false;     // then no trace is left
  std::vector<double> metrics;  // [jobs]
  size_t most_bytes = 0;        // of activations at once
  size_t weight_bytes = 0;      // of the sums for weights
};

// jobs: one of each record, of which nothing is generated; record(i) is the line of records.jsonl of jobs[i]. Bits
// depend neither on batch nor on threads. Throws Error as metric_rows does, for every record before the first forward,
// and as Gradient::run does.
GradientResult trace_gradients(const engine::Session& session, const std::vector<Record>& records,
                               const RecordJobs& made, const GradientRequest& request,
                               const std::function<json::Value(int64_t)>& record);

}  // namespace signalbox::eval
