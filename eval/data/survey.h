// What is in a file of records, told without running anything: what `signalbox data check` says of it.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "eval/data/examples.h"
#include "eval/data/records.h"

namespace signalbox::eval {

// Something wrong, its place ("file:line"), and what mends it ("" or a sentence with a command).
struct Problem {
  std::string where, what, hint;
  bool operator==(const Problem&) const = default;
};

// The records of files that can be read, and all that is wrong with the others: several problems of one line where it
// has them. Throws Error only for a file that cannot be read at all.
struct CheckedFiles {
  std::vector<Record> records;
  std::vector<Problem> problems;
  int64_t lines = 0;  // of records, read or not
};
CheckedFiles read_all(const std::vector<std::string>& files);

using Counted = std::vector<std::pair<std::string, int64_t>>;  // values and records, in order of first appearance

struct SpanCount {
  std::string name;
  int64_t records = 0, empty = 0;
};

// The same prompt in two records that are no example of each other (line_prompt_hash).
struct SharedPrompt {
  std::string first, second;              // ids
  std::string first_split, second_split;  // equal: within one split (or there is none)
};

struct Survey {
  int64_t records = 0, prompts = 0, messages = 0, tokens = 0;  // by what they hold
  int64_t empty_prompts = 0;
  Counted conditions, domains, splits;  // records without one are not counted
  int64_t without_split = 0;
  int64_t pairs = 0, complete_pairs = 0;  // complete: under every condition that records of pairs have
  std::string first_incomplete;           // "PAIR lacks CONDITION"; empty: none is
  std::vector<SpanCount> spans;           // the target's own span left out
  int64_t targets = 0, empty_targets = 0;
  int64_t answers = 0, no_answer = 0;  // records with answers; of these with an empty list
  Counted keys;                        // of the records beyond those above: name and records
  PromptCopies copies;                 // of all records
  int64_t shared_between_splits = 0;   // records whose prompt another split has too
  std::vector<SharedPrompt> shared;    // the first of each kind
  std::vector<Problem> problems;       // of the records together: one example in two splits, a split that some lack
};
Survey survey(const std::vector<Record>& records, const std::string& file);

// Token counts of a set: the 95th percentile is the least value that at least 95 % do not exceed.
struct Lengths {
  int64_t n = 0, min = 0, max = 0, p95 = 0;
  double median = 0;
};
Lengths lengths_of(std::vector<int64_t> values);

// The records as a model's tokenizer and template take them.
struct TokenSurvey {
  Lengths prompts, targets;
  std::vector<std::pair<std::string, Lengths>> spans;  // tokens of each span, of the records that have it
  int64_t context = 0;                                 // the model's positions; 0: not known
  int64_t too_long = 0;                                // records of more tokens, their target included: problems
  Counted special;                                     // special tokens spelt out in the records' own texts: records
  std::string first_special;                           // id of the first such record
  Counted without_tokens;                              // spans that cover no token though they cover text: records
  bool has_template = false;
  int64_t rendered = 0;           // records of messages that the template renders
  std::vector<Problem> problems;  // what the tokenizer or the template refuses
};
// `setup` with a tokenizer; `context` as Model::max_positions.
TokenSurvey token_survey(const std::vector<Record>& records, const EncodeSetup& setup, int64_t context);

}  // namespace signalbox::eval
