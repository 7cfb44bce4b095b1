// Runs every intervention over every record, and writes a line for each sample: the inner part of an experiment.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "engine/session.h"
#include "eval/data/records.h"
#include "eval/findings/intervention.h"
#include "eval/score/judge.h"
#include "eval/score/scorer.h"
#include "eval/store/journal.h"
#include "probes/edits.h"
#include "probes/trace.h"

namespace signalbox::eval {

// How text is generated from one record.
struct Generation {
  int64_t max_tokens = 0, samples = 1;  // max_tokens 0: none is
  Sampling sampling;                    // its seed is set for each seed of the run
};

// A record, encoded for everything that is run of it.
struct PreparedRecord {
  const Record* record = nullptr;
  EncodedRecord prompt;                // without the target: what is generated from, and what all its jobs begin with
  EncodedRecord scored;                // prompt and target, or the prompt where there is no target
  int64_t score_from = 1;              // first given token whose log p counts
  std::vector<EncodedRecord> options;  // prompt and one of "choices"
  Generation generation;
};

// Encodes; throws Error naming the record's place: more positions than the model has, an empty prompt, or one token
// with nothing to predict where log-probabilities are wanted.
PreparedRecord prepare_record(const Record& record, const Session& session, const std::vector<std::string>& span_names,
                              const Generation& generation, bool scores, bool options);

// An intervention, ready to run.
struct BoundIntervention : Intervention {
  std::vector<std::shared_ptr<const EditPlan>> plans;  // [seeds]; null: no edits
};

struct Evaluation {
  std::vector<uint64_t> seeds;
  std::vector<BoundIntervention> interventions;
  int64_t baseline = 0;  // index
  std::vector<PreparedRecord> records;
  std::vector<std::string> stop;
  bool ignore_eos = false;
  bool generates = false, logprobs = false, divergence = false, options = false;  // what is run
  std::vector<const Scorer*> scorers;                                             // of single samples
  std::vector<JudgeCommand> judges;
  // Traces: of these interventions (indices), into dir(intervention, seed).
  std::vector<int64_t> traced;
  PointSet points;
  std::vector<std::string> span_names;
  std::function<std::filesystem::path(int64_t intervention, int64_t seed)> trace_dir;
};

// The session's options, with how texts of this evaluation end.
RunOptions run_options(const Session& session, const Evaluation& evaluation);
// The widest route that any intervention asks for; 0: none asks for more than the model's own.
int32_t route_slots(const Evaluation& evaluation);

struct EvaluationEvents {
  std::function<void(int64_t done)> on_lines;             // lines known so far
  std::function<void(const std::string& text)> on_stage;  // "tracing off"
};

// Every edit against every record, before the first token. Throws Error.
void check_evaluation(const Evaluation& evaluation);

// Runs what `log` does not have yet: the baseline and the main interventions of all records and seeds, then controls
// and audit; records together with all their interventions of a kind, which share keys and values. Then the log is
// whole. False when interrupted; what was finished is in the log. Throws Error.
bool evaluate(const Session& session, const Evaluation& evaluation, SampleLog& log, const EvaluationEvents& events);

// Records `evaluation.records` under one intervention (index) and seed (index) into a trace directory: what would be
// generated, or the given tokens. `done` may be empty. False when interrupted.
bool trace_evaluation(const Session& session, const Evaluation& evaluation, int64_t intervention, int64_t seed,
                      const std::filesystem::path& dir,
                      const std::function<void(int64_t record, Result result, int64_t sample)>& done);

}  // namespace signalbox::eval
