// Three sets of pairs: one on which a circuit is found, one that chooses its size, one that tests it.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/causal/pairs.h"
#include "eval/data/named_split.h"
#include "eval/data/records.h"

namespace signalbox::eval {

// What sets that are drawn are called.
inline const std::array<std::string, 3> circuit_sets = {"discover", "size", "test"};

// [set] indices of pairs, ascending. Pairs that have a prompt in common are never in two sets of a draw
// (independent_examples). Throws Error: a pair whose records say different things or none of the three, a set without a
// pair; `where` is the input.
std::array<std::vector<size_t>, 3> split_pairs(const SplitRule& rule, const std::vector<Record>& records,
                                               const std::vector<CausalPair>& pairs, uint64_t seed,
                                               const std::string& where);

}  // namespace signalbox::eval
