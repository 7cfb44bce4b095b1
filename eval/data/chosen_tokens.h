// Which tokens of records a command looks at: those at certain positions, and those of a span.
#pragma once
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/data/records.h"

namespace signalbox::eval {

// All that is given must hold.
struct TokenChoice {
  int64_t begin = 0, end = std::numeric_limits<int64_t>::max();  // positions, half-open; the begin token has 0
  bool last = false;                                             // only the last token of each record (of the span)
  std::string span;                                              // empty: none asked for

  bool all() const { return begin == 0 && end == std::numeric_limits<int64_t>::max() && !last && span.empty(); }
};

class ChosenTokens {
 public:
  // Throws Error: a span that no record has, or no token that is chosen.
  ChosenTokens(const TokenChoice& choice, const std::vector<EncodedRecord>& records,
               const std::vector<std::string>& span_names);

  bool has(int64_t record, int64_t position) const {
    return chosen_[static_cast<size_t>(record)][static_cast<size_t>(position)] != 0;
  }
  // The last one of a record; -1: it has none.
  int64_t last_of(int64_t record) const;
  int64_t n_tokens() const { return n_tokens_; }
  int64_t n_records() const { return static_cast<int64_t>(chosen_.size()); }
  int64_t n_records_without() const { return n_without_; }

 private:
  std::vector<std::vector<uint8_t>> chosen_;  // [record][position]
  int64_t n_tokens_ = 0, n_without_ = 0;
};

}  // namespace signalbox::eval
