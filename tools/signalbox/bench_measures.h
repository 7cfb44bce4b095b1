// What `signalbox bench` measures of a model, one figure after the other.
#pragma once
#include <cstdint>
#include <string>

#include "base/namespaces.h"
#include "engine/session.h"
#include "tools/bench/figures.h"
#include "tools/bench/model_bench.h"
#include "tools/signalbox/flags.h"

namespace signalbox::tools {

struct BenchOptions : CommonOptions {
  std::string shape;
  bool kernels = false;
  int64_t layers = 0, context = 0, n_prompt = 0, n_new = 0, trace_tokens = 0;
  bool batch_given = false, quick = false, gradient = false, turns = false, profile = false;
  int repeats = 3;
  double budget = 0;  // seconds; 0: as long as it takes
};

// Prefill, decoding, profile, agreement, the routed block, recording, memory, a gradient: what the options ask for.
// Until a signal comes: what was measured by then is told all the same. False when interrupted.
bool measure_until_interrupted(Figures& out, Session& session, ModelBench& bench, const BenchOptions& options,
                               const ModelBenchOptions& sizes, const Budget& budget);

}  // namespace signalbox::tools
