// What a run knows of one sample of a record under one intervention: what scorers look at.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "engine/edit_counts.h"

namespace signalbox::eval {

struct OptionScore {
  double sum_logprob = 0;  // of the option's tokens after the prompt
  int64_t n_tokens = 0;
  int64_t n_bytes = 0;  // of its text, for length normalisation
};

struct Sample {
  std::string id;      // of the record
  int64_t record = 0;  // index into the records that are scored
  uint64_t seed = 0;
  int64_t sample = 0;
  // generated
  bool has_text = false;
  bool decoded = true;  // false: the model has no tokenizer, and `text` is empty
  std::string text;
  std::vector<int32_t> tokens;  // generated, end token included
  std::string finish_reason;    // "eos", "stop" or "length"
  // teacher-forced, over the target (or all predicted tokens of a record without one): sum and count always, single
  // tokens also when a sample is read back from samples.jsonl only for records with a target
  double sum_logprob = 0;
  int64_t n_logprobs = 0;
  std::vector<double> logprobs;
  std::vector<double> divergence;    // KL(baseline || this) of each; the baseline's own is 0
  std::vector<uint8_t> same_top;     // most probable token as the baseline's
  std::vector<OptionScore> options;  // of the record's "choices", in order
  // What the intervention's edits did to the sample's tokens, those of the prompt counted once however many texts begin
  // with it; none: of a run before that was counted.
  std::optional<EditCounts> edits;
  // judge commands by name: what they printed, as a number
  std::vector<std::pair<std::string, double>> judged;

  void set_logprobs(std::vector<double> values) {
    logprobs = std::move(values);
    n_logprobs = static_cast<int64_t>(logprobs.size());
    sum_logprob = 0;
    for (const double value : logprobs) sum_logprob += value;
  }
};

}  // namespace signalbox::eval
