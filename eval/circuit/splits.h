// Three sets of pairs: one on which a circuit is found, one that chooses its size, one that tests it.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/causal/pairs.h"
#include "eval/data/records.h"

namespace signalbox::eval {

// "KEY:A,B,C", the value of --split: the records' key that says where a pair belongs, and what it says of each set.
struct SplitRule {
  std::string key;  // empty: drawn by seed, a half, a quarter and a quarter
  std::array<std::string, 3> names = {"discover", "size", "test"};
};
SplitRule parse_split(const std::string& text, const std::string& where);  // "": drawn

// [set] indices of pairs, ascending. Pairs that have a prompt in common are never in two sets of a draw
// (independent_examples). Throws Error: a pair whose records say different things or none of the three, a set without a
// pair; `where` is the input.
std::array<std::vector<size_t>, 3> split_pairs(const SplitRule& rule, const std::vector<Record>& records,
                                               const std::vector<CausalPair>& pairs, uint64_t seed,
                                               const std::string& where);

}  // namespace signalbox::eval
