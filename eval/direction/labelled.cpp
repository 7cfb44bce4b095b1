#include "eval/direction/labelled.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/error.h"
#include "base/text.h"
#include "eval/data/dice.h"
#include "eval/data/examples.h"

namespace signalbox::eval {

namespace {

std::vector<std::string> parts_of(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == separator)
      parts.emplace_back();
    else
      parts.back() += c;
  }
  return parts;
}

}  // namespace

ConditionPair parse_contrast(const std::string& text, const std::string& where) {
  const std::vector<std::string> parts = parts_of(text, ':');
  if (parts.size() != 2 || parts[0].empty() || parts[1].empty() || parts[0] == parts[1])
    throw Error(where, "expected two conditions A:B, found " + in_quotes(text));
  return {parts[0], parts[1]};
}

std::vector<size_t> Labelled::of_set(int set) const {
  std::vector<size_t> found;
  for (size_t i = 0; i < sets.size(); ++i)
    if (sets[i] == set) found.push_back(i);
  return found;
}

Labelled label_records(const std::vector<Record>& records, const ConditionPair& contrast, const std::string& where) {
  Labelled data;
  for (const Record& record : records) {
    if (record.condition != contrast.one && record.condition != contrast.other) {
      ++data.others;
      continue;
    }
    data.records.push_back(record);
    data.labels.push_back(record.condition == contrast.one ? 1 : -1);
  }
  for (const auto& [condition, label] : {std::pair(&contrast.one, 1), std::pair(&contrast.other, -1)})
    if (std::count(data.labels.begin(), data.labels.end(), label) == 0)
      throw Error(where, "expected records with the condition " + in_quotes(*condition) + ", found none among " +
                             std::to_string(records.size()));
  for (const size_t example : independent_examples(data.records))
    data.examples.push_back(static_cast<int64_t>(example));
  data.sets.assign(data.records.size(), 2);
  return data;
}

void split_labelled(Labelled& data, const ConditionPair& contrast, const SplitRule& split, uint64_t seed,
                    const std::string& where) {
  if (!split.key.empty()) {
    std::map<int64_t, size_t> first;
    for (size_t i = 0; i < data.records.size(); ++i) {
      data.sets[i] = static_cast<int>(named_set(split, data.records[i]));
      const auto [place, added] = first.emplace(data.examples[i], i);
      if (!added && data.sets[place->second] != data.sets[i])
        throw Error(data.records[i].where,
                    split.key + ": expected " + split.names[static_cast<size_t>(data.sets[place->second])] +
                        ", which the record of the same pair or prompt has (" + data.records[place->second].where +
                        "), found " + split.names[static_cast<size_t>(data.sets[i])]);
    }
  } else {
    // Examples with both conditions and those with one or the other, each kind dealt out by itself.
    std::map<int64_t, int> kinds;
    for (size_t i = 0; i < data.records.size(); ++i) kinds[data.examples[i]] |= data.labels[i] > 0 ? 1 : 2;
    std::map<int64_t, int> set_of;
    for (const int kind : {1, 2, 3}) {
      std::vector<int64_t> order;
      for (const auto& [example, its_kind] : kinds)
        if (its_kind == kind) order.push_back(example);
      Dice dice(seed, "direction split " + std::to_string(kind));
      dice.shuffle(order);
      const size_t quarter = std::max<size_t>(1, (order.size() + 2) / 4);
      for (size_t i = 0; i < order.size(); ++i) set_of[order[i]] = i < quarter ? 2 : i < 2 * quarter ? 1 : 0;
    }
    for (size_t i = 0; i < data.records.size(); ++i) data.sets[i] = set_of[data.examples[i]];
  }
  for (int s = 0; s < 3; ++s)
    for (const auto& [condition, label] : {std::pair(&contrast.one, 1), std::pair(&contrast.other, -1)}) {
      int64_t n = 0;
      for (size_t i = 0; i < data.sets.size(); ++i) n += data.sets[i] == s && data.labels[i] == label;
      if (n == 0)
        throw Error(where, "expected records of both conditions in each of the sets " + split.names[0] + ", " +
                               split.names[1] + " and " + split.names[2] + ", found none of " + in_quotes(*condition) +
                               " in " + split.names[static_cast<size_t>(s)]);
    }
}

}  // namespace signalbox::eval
