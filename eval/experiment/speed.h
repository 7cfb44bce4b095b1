// How fast a model runs on this machine, measured with jobs of the run it is wanted for.
#pragma once
#include <cstdint>
#include <vector>

#include "base/namespaces.h"
#include "engine/runner.h"

namespace signalbox::eval {

struct EngineSpeed {
  double given = 0, generated = 0;                 // tokens a second; of one kind alone both are the same
  double length = 1;                               // tokens of the texts that ended, of the most that they could have
  int64_t given_tokens = 0, generated_tokens = 0;  // that were run
  int64_t texts = 0;                               // that ended
  double seconds = 0;
  std::vector<Result> results;  // of the jobs that ended
};

// Runs the prompts of the jobs by themselves, then the jobs, as far as each comes in about `seconds`; at least one
// step. Throws Error as run_jobs does.
EngineSpeed measure_speed(Forward& forward, const std::vector<Job>& jobs, const RunOptions& options, double seconds);

}  // namespace signalbox::eval
