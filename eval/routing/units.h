// What tables by domain, and tables that are confirmed on fresh text, resample and split: units of records that stand
// or fall together.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/routing/trace_set.h"

namespace signalbox::eval {

// Records of one contrast pair and one domain are one unit (their texts share most tokens), any other record is one by
// itself; all samples of a record belong to its unit.
struct Units {
  std::vector<size_t> of_record;             // [records] its unit
  std::vector<std::string> domains;          // [units] empty = none
  std::vector<std::vector<size_t>> samples;  // [units] indices into TraceSet::samples()
  size_t size() const { return domains.size(); }
};
Units units_of(const TraceSet& set);

// Two halves drawn by seed: [units] 0 = explores (the larger half), 1 = confirms.
std::vector<uint8_t> halves_of(const Units& units, uint64_t seed);

}  // namespace signalbox::eval
