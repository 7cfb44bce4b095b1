// Scorers: small named functions from samples to numbers. A new one is a row in one of the tables (docs/scores.md).
#pragma once
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "eval/data/records.h"
#include "eval/routing/likeness.h"
#include "eval/score/sample.h"

namespace signalbox::eval {

// What a scorer looks at.
enum class Needs : uint8_t {
  text,        // generated text
  logprobs,    // teacher-forced log-probabilities of the target
  divergence,  // logprobs, compared with the baseline's
  options,     // log-probabilities of the record's choices
  routes,      // recorded routes of this intervention and of the baseline ("traces")
};

// All samples of one intervention, in the order of samples.jsonl (seed, record, sample), for scorers that compare some.
struct SampleGroup {
  std::span<const Record> records;
  std::span<const Sample> samples;
  std::span<const Sample> baseline;  // the baseline's, in the same order
};

// A number for one example. Its unit is a record; where a value joins several records (a pair, paraphrases), the first
// of those that lack nothing. A record may have several, one for a seed and sample: their mean is the record's.
struct ScoredUnit {
  int64_t record = 0;
  double value = 0;
};

struct Scorer {
  std::string_view name;     // in "metrics"
  std::string_view summary;  // one line: what it is, and its unit
  Needs needs = Needs::text;
  bool against_baseline = false;  // a value compares with the baseline, whose own is the best: no test of "no change"
  bool tokens_only = false;       // text: looks at tokens and at how they ended, so it works without a tokenizer
  // What a record lacks for this scorer ("answers"); empty = nothing. A run in which every record lacks something is
  // refused before the model is loaded; records that lack it are left out of the mean. Throws Error when the record has
  // what is needed in a wrong type.
  std::string (*lacks)(const Record& record) = nullptr;
  // Optional: what the records of a run lack together for there to be any value ("two wordings of one question");
  // empty = nothing. Refused like the above.
  std::string (*lacks_all)(std::span<const Record> records) = nullptr;
  // Exactly one of the three. score: one sample; nullopt = undefined for it.
  std::optional<double> (*score)(const Record& record, const Sample& sample) = nullptr;
  std::vector<ScoredUnit> (*score_group)(const SampleGroup& group) = nullptr;
  // One sample's routes, and those of the baseline's sample of the same record, seed and number.
  std::optional<double> (*score_routes)(const Routes& mine, const Routes& baseline) = nullptr;
};

std::span<const Scorer> scorers();
// By name; null when there is none.
const Scorer* find_scorer(std::string_view name);

// The versions of the rules that scores rest on, for a run's manifest: name and version, in a fixed order.
std::vector<std::pair<std::string, std::string>> score_rule_versions();

}  // namespace signalbox::eval
