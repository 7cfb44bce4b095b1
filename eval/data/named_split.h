// Three sets of examples, dealt by a key of their records or drawn: one that finds something, one that chooses among
// what was found, one that tests it.
#pragma once
#include <array>
#include <string>

#include "base/namespaces.h"
#include "eval/data/records.h"

namespace signalbox::eval {

// "KEY:A,B,C", the value of --split: the records' key that says where one belongs, and what it says of each set.
struct SplitRule {
  std::string key;                   // empty: drawn by seed, a half, a quarter and a quarter
  std::array<std::string, 3> names;  // of the sets; where they are drawn, what messages call them
};
// "" is drawn, and `drawn` its names. Throws Error that begins with `where`.
SplitRule parse_split(const std::string& text, const std::string& where, const std::array<std::string, 3>& drawn);

// Which set a record belongs to. Throws Error at the record: no such key, or another value.
size_t named_set(const SplitRule& rule, const Record& record);

}  // namespace signalbox::eval
