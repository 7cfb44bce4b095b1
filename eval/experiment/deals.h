// Dealing records into a part that chooses experts and a part that tests them, several times.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "eval/data/records.h"
#include "eval/experiment/spec.h"

namespace signalbox::eval {

// One deal: indices into the records, ascending.
struct Deal {
  std::vector<int64_t> detect, test;
};

// The deals of a spec, the same for the same seed and ids. Examples (independent_examples) are dealt whole. Of n
// examples T = n - round(share * n) are tested in each deal, at least one and not all. Deals come in rounds of floor(n
// / T), in which no example is tested twice: with share 1/2 the second deal tests what the first one chose by. In each
// round examples are put in an order by SHA-256 of "SEED ROUND ID" (id of the example's first record) within those that
// have the same set of conditions, and these are interleaved evenly; deal b of a round tests places b*T ... (b+1)*T
// - 1. Throws Error for fewer than two examples.
std::vector<Deal> deal_records(const CrossFitSpec& spec, const std::vector<Record>& records, uint64_t seed,
                               const std::string& where);

// Gives every record the split that a spec with "share" deals to it: one deal of the above, written to the record's key
// as if the file had held it. Throws Error for a record that has the key, and for fewer than two examples.
void deal_splits(const SplitSpec& split, std::vector<Record>& records, const std::string& where);

}  // namespace signalbox::eval
