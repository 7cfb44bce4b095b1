#include "eval/circuit/splits.h"

#include <algorithm>
#include <map>

#include "base/error.h"
#include "eval/data/dice.h"
#include "eval/data/examples.h"

namespace signalbox::eval {

std::array<std::vector<size_t>, 3> split_pairs(const SplitRule& rule, const std::vector<Record>& records,
                                               const std::vector<CausalPair>& pairs, uint64_t seed,
                                               const std::string& where) {
  std::array<std::vector<size_t>, 3> sets;
  if (!rule.key.empty()) {
    for (size_t i = 0; i < pairs.size(); ++i) {
      const Record &clean = records[pairs[i].clean], &corrupt = records[pairs[i].corrupt];
      const size_t set = named_set(rule, clean);
      if (named_set(rule, corrupt) != set)
        throw Error(corrupt.where, rule.key + ": expected " + rule.names[set] +
                                       ", which the pair's clean record has (" + clean.where + "), found another");
      sets[set].push_back(i);
    }
  } else {
    const std::vector<size_t> examples = independent_examples(records);
    std::map<size_t, std::vector<size_t>> groups;
    for (size_t i = 0; i < pairs.size(); ++i) groups[examples[pairs[i].clean]].push_back(i);
    std::vector<std::vector<size_t>> order;
    for (auto& [first, members] : groups) order.push_back(std::move(members));
    Dice dice(seed, "circuit split");
    dice.shuffle(order);
    // A quarter each to the last two, rounded, but one where there are three at all.
    const size_t n = order.size(), quarter = std::max<size_t>(1, (n + 2) / 4);
    for (size_t g = 0; g < n; ++g) {
      const size_t set = g < quarter ? 2 : g < 2 * quarter ? 1 : 0;
      sets[set].insert(sets[set].end(), order[g].begin(), order[g].end());
    }
    for (std::vector<size_t>& set : sets) std::sort(set.begin(), set.end());
  }
  for (size_t s = 0; s < 3; ++s)
    if (sets[s].empty())
      throw Error(where, "expected pairs for each of " + rule.names[0] + ", " + rule.names[1] + " and " +
                             rule.names[2] + ", found none for " + rule.names[s] + " among " +
                             std::to_string(pairs.size()) + " pairs");
  return sets;
}

}  // namespace signalbox::eval
