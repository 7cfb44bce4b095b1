// The first records of an experiment's data, for a look at it before all of them are run.
#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "base/namespaces.h"
#include "eval/data/records.h"
#include "eval/experiment/spec.h"

namespace signalbox::eval {

// Indices of the records that a run of the first `n` takes, ascending. Examples (named_examples: pairs, and records
// with what they rephrase) are taken whole, in the order of their first records: each that has a record of a split and
// condition of which fewer than `n` are taken. So there are at least `n` of every split (a value of its key; one where
// there is no split) and condition, or all, and of the records of pairs with one record a condition exactly `n`.
std::vector<size_t> first_records(const std::optional<SplitSpec>& split, const std::vector<Record>& records, int64_t n);

}  // namespace signalbox::eval
