// Which records are one example: what splits deal out, and what resampling draws, whole.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "eval/data/records.h"

namespace signalbox::eval {

// Sets of things, joined one by one (union-find).
class Groups {
 public:
  explicit Groups(size_t n);
  size_t root(size_t i);  // the first of its set
  void join(size_t i, size_t j);
  std::vector<size_t> roots();  // [i] root(i)

 private:
  std::vector<size_t> parent_;
};

// [record] the first record of its example: the records of one pair are one, and records with what they rephrase
// ("paraphrase_of", also where that record is not among these).
std::vector<size_t> named_examples(const std::vector<Record>& records);

// Those, joined where two examples have the same prompt (line_prompt_hash): copies under other ids, and pairs that
// share a side. Transitive: A and B share a prompt, B and C another one: all three are one.
std::vector<size_t> independent_examples(const std::vector<Record>& records);

// How many records say something new.
struct PromptCopies {
  int64_t records = 0;
  int64_t named = 0, examples = 0;  // named_examples, independent_examples
  int64_t copies = 0;               // records of examples whose every prompt stands in an earlier example
  int64_t shared = 0;               // records of other examples whose prompt another example has
  std::string first;                // id of the first that is counted in one of the two; empty: none is
  bool any() const { return copies > 0 || shared > 0; }
};
PromptCopies count_copies(const std::vector<Record>& records);

// For people: how many of the `records`, whether that harms, and what to do; empty where there is none.
std::string copies_sentence(const PromptCopies& copies, const std::string& records = "tested records");

}  // namespace signalbox::eval
