#include "eval/routing/regime_traces.h"

#include "engine/session.h"

namespace signalbox::eval {

std::vector<Job> jobs_of_programs(const std::vector<Job>& single, const std::vector<Derived>& derived,
                                  const std::vector<Program>& programs, const GenerationSettings& settings,
                                  int64_t max_positions) {
  std::vector<Job> jobs;
  for (size_t r = 0; r < derived.size(); ++r) {
    const Program& program = programs[derived[r].program];
    Job job = single[r];
    const int64_t max_tokens = program.max_tokens.value_or(settings.max_tokens);
    job.task = Generate{max_tokens, program.sampling_over(settings.sampling)};
    check_length(derived[r].record.where + ": program \"" + program.name + "\"", job.n_given(), job.max_new(),
                 max_positions);
    for (int64_t s = 0; s < program.samples.value_or(settings.samples); ++s) {
      job.index = static_cast<int64_t>(jobs.size());
      job.sample = static_cast<uint32_t>(s);
      jobs.push_back(job);
    }
  }
  return jobs;
}

}  // namespace signalbox::eval
