// Which scores records can have: asked of the scorers' own tables, by experiments that name metrics or leave them out,
// and by `signalbox data check`.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/score/scorer.h"

namespace signalbox::eval {

struct Applicability {
  const Scorer* scorer = nullptr;
  int64_t records = 0;      // that lack nothing
  std::string lacking;      // what the first record that lacks something lacks; empty: none does
  std::string lacking_all;  // what the records lack together; empty: nothing
  std::string refused;      // what the scorer refuses in a record ("file:line: ..."); empty: nothing. The counts then
                            // end before that record
  bool any() const { return refused.empty() && records > 0 && lacking_all.empty(); }
};

// Of one scorer. Throws Error where a record has what is needed in a wrong type.
Applicability applicability(const Scorer& scorer, std::span<const Record> records);

// Of all scorers, in the order of their table; what would be thrown is in `refused`.
std::vector<Applicability> applicable_scores(std::span<const Record> records);

}  // namespace signalbox::eval
