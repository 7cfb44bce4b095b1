// What the stages of a run share: the experiment, its encoded records and the directory they work in; and how records,
// metrics and interventions become an Evaluation.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/experiment/conduct.h"
#include "eval/experiment/evaluate.h"
#include "eval/experiment/interventions.h"

namespace signalbox::eval {

// Every record of a split, encoded for all that the spec's metrics look at. [records of the experiment]; none: of no
// split. Throws Error naming the record's place.
std::vector<std::optional<PreparedRecord>> prepare_records(const Experiment& experiment, const Session& session,
                                                           const std::vector<std::string>& span_names);

// prompt_hashes of each; empty where a record is of no split.
std::vector<std::vector<std::string>> prompt_hashes_of(const std::vector<Record>& records,
                                                       const std::vector<std::optional<PreparedRecord>>& prepared,
                                                       const Session& session);

// What evaluations are made of.
struct RunInputs {
  const Experiment& experiment;
  const Session& session;
  const std::vector<std::string>& span_names;
  const std::vector<std::optional<PreparedRecord>>& records;

  const ExperimentSpec& spec() const { return experiment.spec; }
};

struct RunContext : RunInputs {
  const ConductOptions& options;
  const ConductEvents& events;
  RunDirectory& directory;

  void note(const std::string& line) const;  // for people and the log
  // Of `total` samples, of which earlier processes have finished `kept`, or of another unit.
  void begin_stage(const std::string& what, int64_t total, int64_t kept = 0, const std::string& unit = "samples") const;
  void progress(int64_t done) const;
  bool interrupted() const;
  EvaluationEvents evaluation_events() const;
};

// What these metrics look at of these records (indices), and no more; without interventions. A judge runs where its
// metric is among them.
Evaluation evaluation_of(const RunInputs& run, const std::vector<int64_t>& records,
                         const std::vector<std::string>& metrics);

// Adds planned interventions, bound to the model with each seed. Throws Error for edits that cannot act on the records.
void add_interventions(const RunInputs& run, const std::vector<PlannedIntervention>& planned, Evaluation& evaluation);

// Which line of samples.jsonl belongs to which sample of an evaluation.
Layout layout_of(const Evaluation& evaluation);

// The records of an evaluation, as DIR/records.jsonl.
void write_records(const std::filesystem::path& dir, const Evaluation& evaluation);

}  // namespace signalbox::eval
