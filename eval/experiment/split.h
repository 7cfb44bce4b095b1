// Which records detection, tuning and testing may see, and what can be refused once the data is read.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/data/records.h"
#include "eval/experiment/deals.h"
#include "eval/experiment/spec.h"
#include "eval/findings/data_facts.h"

namespace signalbox::eval {

// Indices into the data, ascending.
struct Splits {
  std::vector<int64_t> detect, tune, test;
  int64_t unused = 0;  // records of other values of the key
};

// Without a split: all records are tested, and all are traced for detection. Throws Error: a record without the key, or
// with one that is no string; a value that no record has; one example in two splits. An example is the records of one
// pair (or a record with those that are its paraphrases, or one record alone: named_examples). It is the same as one of
// another split when they share a pair, or when each of its prompts (line_prompt_hash) stands in that split, whatever
// the ids.
Splits split_records(const ExperimentSpec& spec, const std::vector<Record>& records);

// What else the data can refuse, before a model is opened: conditions and spans of detection that no record has, spans
// of edits that no record has, experts from an analysis of the records to be tested, metrics for which every record
// lacks something, files of edits that are not there. `records` are those to be run, after prompt programs.
struct CheckedData {
  DataFacts facts;
  std::vector<std::string> notes;  // for stderr and the log: cautions_of(facts), records of no split that is used
};
CheckedData check_against_records(const ExperimentSpec& spec, const std::vector<Record>& records);

// What one deal of a cross-fitted spec can refuse: conditions and spans that its part for detection does not have,
// metrics for which every record of its test part lacks something. Throws Error.
void check_deal(const ExperimentSpec& spec, const std::vector<Record>& records, const Deal& deal);

// The same guards once a model has encoded the records: rankings and splits by what the model sees. `hashes` are each
// record's prompt_hashes; empty for those of no split. Throws Error.
void check_encoded_prompts(const ExperimentSpec& spec, const std::vector<Record>& records, const Splits& splits,
                           const std::vector<std::vector<std::string>>& hashes);

// Throws Error for an edit of targets (the span "target") where no metric has them run: spec.metrics are known.
void check_edited_targets(const ExperimentSpec& spec);

// Of this the metrics alone: those of the spec for which every tested record lacks something. Throws Error.
void check_metrics(const ExperimentSpec& spec, const std::vector<Record>& tested);

// What of the spec needs text, of a model that has no tokenizer. Throws Error naming the key.
void refuse_without_tokenizer(const ExperimentSpec& spec);

// The metrics of a spec that names none: em, f1, grounded, abstained, refused, ppl, kl, repetition, as far as there is
// text where they need it and some of `records` (those to be tested) lacks nothing. Throws Error when none is left.
std::vector<std::string> default_metrics(const ExperimentSpec& spec, const std::vector<Record>& records);

}  // namespace signalbox::eval
