// What a report shows of samples.jsonl: how texts ended, and the texts themselves, as many records as there is room
// for.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::eval {

struct TextCounts {
  int64_t texts = 0, truncated = 0, empty = 0;  // truncated: stopped by max_tokens; empty: nothing but white space
};

// The first seed's first sample of a record under one intervention.
struct ShownText {
  bool has = false;
  std::string text;
  std::string finish_reason;
  std::vector<double> scores;  // [metric of SampleDigest], NaN = undefined
};

struct ShownRecord {
  std::string id, condition;
  std::string question, prompt;  // empty where the run's records are not at hand; prompt: messages as "role: content"
  std::vector<ShownText> texts;  // [intervention of SampleDigest], the baseline's first
};

struct SampleDigest {
  std::map<std::string, TextCounts> counts;  // by intervention, controls and audit included; of all samples
  std::vector<std::string> interventions;    // the baseline, then those asked for
  std::vector<std::string> metrics;          // with a score for each sample, as the file has them
  std::vector<ShownRecord> records;          // in the order of the run
  int64_t n_records = 0;                     // with a text of the baseline, shown or not
  int64_t n_cut = 0;                         // texts of which the beginning alone is shown
};

// The room for texts in a report, in bytes, and for one of them.
inline constexpr size_t most_text_bytes = 2'500'000, most_bytes_of_text = 2000;

// Reads DIR/samples.jsonl twice (of a run that is not finished what there is of it), in memory for what it returns and
// the names of records. Questions and conditions come from DIR/records.jsonl where it is there. Where the texts of all
// records would take more than `most_bytes`, examples (pairs whole) are drawn, the same ones each time. Throws Error
// for a line that is no sample.
SampleDigest digest_samples(const std::filesystem::path& dir, const std::string& baseline,
                            const std::vector<std::string>& interventions, size_t most_bytes = most_text_bytes);

// Whether a text, or some score, is another than the baseline's.
bool text_changed(const ShownRecord& record, size_t intervention);
bool score_changed(const ShownRecord& record, size_t intervention);

}  // namespace signalbox::eval
