// A finished run with other metrics: its texts and log-probabilities are scored again, nothing is generated.
#pragma once
#include <atomic>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/json.h"
#include "eval/data/records.h"
#include "eval/findings/findings.h"
#include "eval/score/judge.h"

namespace signalbox::eval {

struct RescoreOptions {
  std::filesystem::path from;        // a complete run
  std::filesystem::path out;         // the new directory, or one in which the same was begun
  std::vector<std::string> metrics;  // of the new directory, all of them
  // For "judge:NAME" among the metrics. Verdicts of a judge that the run has asked already and that is not here are
  // carried over. A file {NAME: {...}} as the key "judges" of an experiment; empty: none.
  std::filesystem::path judges;
  std::function<std::string(const Record&)> shown_text;  // what judges see of a record's prompt
  std::string signalbox_version;
  json::Value argv = json::Value::array();
  const std::atomic<bool>* interrupted = nullptr;  // may be null
  // As ConductOptions::on_findings and ConductEvents: called when all else is written, and as lines are known.
  std::function<void(const std::filesystem::path& dir, const RunFindings& findings)> on_findings;
  std::function<void(const std::string& line)> on_note;  // for people
  std::function<void(int64_t done, int64_t total)> on_progress;
};

// Writes `out` as the run would have been written had it asked for these metrics from the beginning: samples.jsonl,
// metrics.json, tables, plan.json and records.jsonl have the same bytes. Metrics of texts are made again by the rules
// of this version; those that need the model are carried over, or made of what the lines hold (nll of a run that had
// kl); traces and stages are linked, or copied where a link cannot be. The manifest is the run's, with the new metrics
// and judges, and "rescored" says what it came from; so `run` does not take the directory for its own. Continues a
// directory in which the same was begun. False when interrupted. Throws Error: a run that is not complete, what
// parse_experiment refuses of the metrics and judges, a metric that needs the model and whose numbers the run does not
// have, by name.
bool rescore_run(const RescoreOptions& options);

}  // namespace signalbox::eval
