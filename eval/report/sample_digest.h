// What a report shows of samples.jsonl: how texts ended, and some that an intervention changed.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::eval {

struct TextCounts {
  int64_t texts = 0, truncated = 0, empty = 0;  // truncated: stopped by max_tokens; empty: nothing but white space
};

struct ExamplePair {
  std::string id, question;       // question empty where the run's records are not at hand
  std::string baseline, changed;  // texts
  // Metrics whose value differs: name, under the baseline, under the intervention; NaN = undefined.
  struct Score {
    std::string metric;
    double baseline = 0, changed = 0;
  };
  std::vector<Score> scores;
};

// The first seed's first samples of an intervention: how many were compared with the baseline's, and how many differ.
struct ShownTexts {
  int64_t compared = 0, changed = 0;
};

struct SampleDigest {
  std::map<std::string, TextCounts> counts;                  // by intervention
  std::map<std::string, std::vector<ExamplePair>> examples;  // of those asked for
  std::map<std::string, ShownTexts> shown;                   // of those with examples
};

// Reads DIR/samples.jsonl twice (of a run that is not finished what there is of it), in bounded memory; questions come
// from DIR/records.jsonl where it is there. Examples: for each of `interventions` up to `n_examples` of the first
// seed's first samples among the first 2,000 records whose text differs from the baseline's, those with a changed score
// first. Throws Error for a line that is no sample.
SampleDigest digest_samples(const std::filesystem::path& dir, const std::string& baseline,
                            const std::vector<std::string>& interventions, size_t n_examples);

}  // namespace signalbox::eval
