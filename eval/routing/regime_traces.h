// Base records under every prompt program, as jobs with the settings of their programs.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "engine/runner.h"
#include "eval/data/programs.h"
#include "eval/routing/recording_identity.h"

namespace signalbox::eval {

inline constexpr const char* regimes_schema = "signalbox.regimes/1";  // of the manifest of `regimes trace`

// A job for every sample of every derived record. single[i] is a job of derived[i] with its prompt and edits;
// `max_positions` > 0 bounds given and generated tokens. Throws Error naming record and program.
std::vector<Job> jobs_of_programs(const std::vector<Job>& single, const std::vector<Derived>& derived,
                                  const std::vector<Program>& programs, const GenerationSettings& settings,
                                  int64_t max_positions);

}  // namespace signalbox::eval
