#include "eval/experiment/limit.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "eval/data/examples.h"

namespace signalbox::eval {

std::vector<size_t> first_records(const std::optional<SplitSpec>& split, const std::vector<Record>& records,
                                  int64_t n) {
  // Which of a split and condition a record is; a record of a split that is not used belongs nowhere.
  const auto part_of = [&](const Record& record) -> std::optional<std::pair<std::string, std::string>> {
    if (!split) return std::pair(std::string(), record.condition);
    const json::Value* value = record.source.find(split->key);
    if (!value || !value->is_string()) return std::nullopt;
    for (const std::string* used : {&split->detect, &split->tune, &split->test})
      if (!used->empty() && value->string() == *used) return std::pair(*used, record.condition);
    return std::nullopt;
  };
  const std::vector<size_t> example = named_examples(records);
  std::vector<std::vector<size_t>> members(records.size());  // [first record of an example]
  for (size_t r = 0; r < records.size(); ++r) members[example[r]].push_back(r);
  std::map<std::pair<std::string, std::string>, int64_t> taken;
  std::vector<size_t> chosen;
  for (const std::vector<size_t>& one : members) {
    const bool wanted = std::any_of(one.begin(), one.end(), [&](size_t r) {
      const auto part = part_of(records[r]);
      return part && taken[*part] < n;
    });
    if (!wanted) continue;
    for (const size_t r : one) {
      chosen.push_back(r);
      if (const auto part = part_of(records[r])) ++taken[*part];
    }
  }
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

}  // namespace signalbox::eval
