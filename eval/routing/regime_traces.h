// Base records under every prompt program, as jobs with the settings of their programs.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "engine/runner.h"
#include "eval/data/programs.h"
#include "eval/store/facts.h"

namespace signalbox::eval {

inline constexpr const char* regimes_schema = "signalbox.regimes/1";  // of the manifest of `regimes trace`

// How text is generated where a program does not say otherwise.
struct RegimeSettings {
  int64_t max_tokens = 128, samples = 1;
  Sampling sampling;
  std::vector<std::string> stop;
  bool ignore_eos = false;
};

// A job for every sample of every derived record. single[i] is a job of derived[i] with its prompt and edits;
// `max_positions` > 0 bounds given and generated tokens. Throws Error naming record and program.
std::vector<Job> jobs_of_programs(const std::vector<Job>& single, const std::vector<Derived>& derived,
                                  const std::vector<Program>& programs, const RegimeSettings& settings,
                                  int64_t max_positions);

// What decides the trace's bytes, beside what ModelFacts say.
struct RegimeInputs {
  ModelFacts model;
  const std::vector<Derived>* derived = nullptr;
  const std::vector<Program>* programs = nullptr;
  RegimeSettings settings;
  json::Value edits;                // the array of an edit spec, or null
  std::filesystem::path edits_dir;  // its relative paths are relative to this
  uint64_t seed = 0;
  std::string points;  // as given
  bool compact = false;
  std::string model_name;                                  // as traces name it
  std::string special;                                     // how special tokens in texts are read (--special)
  json::Value template_variables = json::Value::object();  // with the date where one is printed
};

// Manifest::identity of `regimes trace`. Reads files of edits. Throws Error.
json::Value regimes_identity(const RegimeInputs& inputs);

}  // namespace signalbox::eval
