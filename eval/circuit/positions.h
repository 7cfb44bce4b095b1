// Positions of a circuit whose parts are told apart by them: which tokens of the pairs' clean records stand at the same
// one. Those of the same index, where all clean records have as many tokens; or those that each record's list "align"
// names, in order: its i-th entry stands at position i. Tokens in no entry stand at none, and are told apart from those
// at a position, but not from one another.
#pragma once
#include <cstdint>
#include <map>
#include <vector>

#include "base/namespaces.h"
#include "eval/causal/pairs.h"
#include "eval/data/records.h"

namespace signalbox::eval {

struct CircuitPositions {
  int64_t n = 0;
  bool others = false;                        // some token of a pair stands at none
  std::map<size_t, std::vector<int32_t>> of;  // [clean record][token] its position; -1: none
};

// Throws Error at a record: clean records of unequal length of which one has no "align", lists of unequal length, one
// that is empty, not ascending or beyond the record's tokens, or one that the corrupt record contradicts.
CircuitPositions circuit_positions(const std::vector<CausalPair>& pairs, const std::vector<Record>& records,
                                   const RecordJobs& made);

}  // namespace signalbox::eval
