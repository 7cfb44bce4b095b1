// Records of two conditions, which of them are one example, and who may see them: one set gives directions, one chooses
// the layer, what is left tests.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/data/named_split.h"
#include "eval/data/records.h"

namespace signalbox::eval {

// "A:B", the value of --contrast.
struct ConditionPair {
  std::string one, other;
};
ConditionPair parse_contrast(const std::string& text, const std::string& where);

// What sets that are drawn are called.
inline const std::array<std::string, 3> direction_sets = {"extract", "choose", "test"};

// Records of the contrast, in the order of the file.
struct Labelled {
  std::vector<Record> records;
  std::vector<int> labels;        // +1: the first condition, -1: the other
  std::vector<int64_t> examples;  // records with the same number are one example: a pair, copies (independent_examples)
  std::vector<int> sets;          // 0 extract, 1 choose, 2 test
  int64_t others = 0;             // records of other conditions, left out
  std::vector<size_t> of_set(int set) const;
};

// Throws Error that begins with `where`: a condition without records. Sets are all 2.
Labelled label_records(const std::vector<Record>& records, const ConditionPair& contrast, const std::string& where);

// Fills `sets`. Examples are whole. Throws Error: a set without records of either condition, a record without the key
// or with another value, an example in two sets.
void split_labelled(Labelled& data, const ConditionPair& contrast, const SplitRule& split, uint64_t seed,
                    const std::string& where);

}  // namespace signalbox::eval
