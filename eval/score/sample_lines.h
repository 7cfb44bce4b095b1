// The lines of samples.jsonl: what is known of each sample, written and read back.
#pragma once
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "eval/data/records.h"
#include "eval/score/sample.h"
#include "eval/store/finished_lines.h"

namespace signalbox::eval {

struct SampleLine {
  std::string intervention;
  Sample sample;  // `record` is not in the file
  // Scores of this sample alone, by the name of the scorer; nullopt = undefined.
  std::vector<std::pair<std::string, std::optional<double>>> scores;
};

// run_tokens, edited_tokens, run_slots and edited_slots.
void put_edit_counts(json::Value& line, const EditCounts& counts);

// Keys of the record that are not its input are carried along. Log-probabilities of single tokens are written for
// records with a target; for others their sum.
json::Value sample_line_json(const Record& record, const SampleLine& line);

// Throws Error naming the key.
SampleLine read_sample_line(const json::Ref& line);

// Calls take(line, its JSON for messages) for every line of a samples.jsonl, in order, in memory for one line. Throws
// Error naming file and line.
void for_each_sample_line(const std::filesystem::path& file,
                          const std::function<void(SampleLine line, const json::Ref& source)>& take);

// The same for the finished samples of a run that goes on, in the order of the run. `place` is where each stands.
void for_each_finished_line(
    const FinishedLines& lines,
    const std::function<void(SampleLine line, const Place& place, const json::Ref& source)>& take);

}  // namespace signalbox::eval
