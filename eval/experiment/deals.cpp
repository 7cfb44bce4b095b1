#include "eval/experiment/deals.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <tuple>

#include "base/sha256.h"
#include "eval/data/examples.h"

namespace signalbox::eval {

namespace {

// An example that is dealt: its records, and what it is called.
struct Example {
  std::string id, stratum;
  std::vector<int64_t> records;
};

std::vector<Example> examples_of(const std::vector<Record>& records) {
  const std::vector<size_t> first = independent_examples(records);
  std::vector<Example> examples;
  std::map<size_t, size_t> place;
  std::vector<std::set<std::string>> conditions;
  for (size_t r = 0; r < records.size(); ++r) {
    const auto [at, fresh] = place.emplace(first[r], examples.size());
    if (fresh) {
      examples.push_back({records[r].id, "", {}});
      conditions.emplace_back();
    }
    examples[at->second].records.push_back(static_cast<int64_t>(r));
    conditions[at->second].insert(records[r].condition);
  }
  for (size_t e = 0; e < examples.size(); ++e)
    for (const std::string& condition : conditions[e]) examples[e].stratum += condition + '\n';
  return examples;
}

// The order of a round: drawn within each stratum, strata interleaved evenly.
std::vector<size_t> order_of_round(const std::vector<Example>& examples, uint64_t seed, int64_t round) {
  struct Drawn {
    std::string key;
    size_t example = 0;
    bool operator<(const Drawn& other) const { return std::tie(key, example) < std::tie(other.key, other.example); }
  };
  std::map<std::string, std::vector<Drawn>> strata;
  for (size_t e = 0; e < examples.size(); ++e)
    strata[examples[e].stratum].push_back(
        {sha256_hex(std::to_string(seed) + " " + std::to_string(round) + " " + examples[e].id), e});
  std::vector<std::pair<double, Drawn>> places;
  for (auto& [stratum, drawn] : strata) {
    std::sort(drawn.begin(), drawn.end());
    for (size_t i = 0; i < drawn.size(); ++i)
      places.emplace_back((static_cast<double>(i) + 0.5) / static_cast<double>(drawn.size()), drawn[i]);
  }
  std::sort(places.begin(), places.end());
  std::vector<size_t> order;
  for (const auto& [at, drawn] : places) order.push_back(drawn.example);
  return order;
}

}  // namespace

namespace {

// `what`: the key of the spec that asks for deals.
std::vector<Deal> deal(const CrossFitSpec& spec, const std::vector<Record>& records, uint64_t seed,
                       const std::string& where, const char* what) {
  const std::vector<Example> examples = examples_of(records);
  const int64_t n = static_cast<int64_t>(examples.size());
  if (n < 2)
    throw Error(where, std::string(what) + ": expected at least two examples to deal, found " + std::to_string(n));
  const int64_t tested = std::clamp<int64_t>(n - std::llround(spec.share * static_cast<double>(n)), 1, n - 1);
  const int64_t per_round = n / tested;
  std::vector<Deal> deals;
  std::vector<size_t> order;
  for (int64_t d = 0; d < spec.deals; ++d) {
    if (d % per_round == 0) order = order_of_round(examples, seed, d / per_round);
    const int64_t begin = d % per_round * tested;
    Deal dealt;
    for (int64_t place = 0; place < n; ++place) {
      auto& part = place >= begin && place < begin + tested ? dealt.test : dealt.detect;
      const std::vector<int64_t>& whole = examples[order[static_cast<size_t>(place)]].records;
      part.insert(part.end(), whole.begin(), whole.end());
    }
    std::sort(dealt.detect.begin(), dealt.detect.end());
    std::sort(dealt.test.begin(), dealt.test.end());
    deals.push_back(std::move(dealt));
  }
  return deals;
}

}  // namespace

std::vector<Deal> deal_records(const CrossFitSpec& spec, const std::vector<Record>& records, uint64_t seed,
                               const std::string& where) {
  return deal(spec, records, seed, where, "cross_fit");
}

void deal_splits(const SplitSpec& split, std::vector<Record>& records, const std::string& where) {
  for (const Record& record : records)
    if (json::Ref(record.source, record.where).find(split.key))
      throw Error(record.where, split.key + ": expected none, for the run deals the records out (" +
                                    "\"share\", --split), found one");
  const Deal dealt = deal({1, split.share}, records, split.seed, where, "split").front();
  const auto give = [&](const std::vector<int64_t>& part, const std::string& value) {
    for (const int64_t r : part) {
      Record& record = records[static_cast<size_t>(r)];
      record.source.set(split.key, value);
      if (split.key == "split") record.split = value;
    }
  };
  give(dealt.detect, split.detect);
  give(dealt.test, split.test);
}

}  // namespace signalbox::eval
