#include "eval/circuit/positions.h"

#include <algorithm>
#include <optional>
#include <string>

#include "base/error.h"

namespace signalbox::eval {

namespace {

constexpr const char* align_key = "align";

std::optional<std::vector<int32_t>> aligned_tokens(const Record& record, int64_t n_tokens) {
  const std::optional<json::Ref> list = json::Ref(record.source, record.where).find(align_key);
  if (!list) return std::nullopt;
  std::vector<int32_t> tokens;
  for (const json::Ref& item : list->items()) {
    const auto token = static_cast<int32_t>(item.integer(0, n_tokens - 1));
    if (!tokens.empty() && token <= tokens.back())
      item.fail("expected positions in ascending order, found " + std::to_string(token) + " after " +
                std::to_string(tokens.back()));
    tokens.push_back(token);
  }
  if (tokens.empty()) list->fail("expected the positions of tokens, found none");
  return tokens;
}

}  // namespace

CircuitPositions circuit_positions(const std::vector<CausalPair>& pairs, const std::vector<Record>& records,
                                   const RecordJobs& made) {
  CircuitPositions positions;
  const Record* first = nullptr;
  bool listed = false;
  for (const CausalPair& pair : pairs) {
    const Record& clean = records[pair.clean];
    const int64_t n_tokens = made.jobs[pair.clean].n_given();
    const std::optional<std::vector<int32_t>> tokens = aligned_tokens(clean, n_tokens);
    const std::optional<std::vector<int32_t>> other =
        aligned_tokens(records[pair.corrupt], made.jobs[pair.corrupt].n_given());
    if (tokens && other) {
      // Positions are of the clean record; what stands for them in the corrupt one is what the map says.
      std::vector<int32_t> expected;
      for (const auto& [from, to] : pair.map)
        if (std::binary_search(tokens->begin(), tokens->end(), from)) expected.push_back(to);
      if (expected != *other)
        throw Error(records[pair.corrupt].where,
                    "align: expected the positions that stand for those of the clean record (" + clean.where +
                        "), or none, found others");
    } else if (other) {
      throw Error(records[pair.corrupt].where,
                  "align: expected none where the clean record (" + clean.where + ") has none, found one");
    }
    const int64_t n = tokens ? static_cast<int64_t>(tokens->size()) : n_tokens;
    if (!first) {
      first = &clean;
      listed = tokens.has_value();
      positions.n = n;
    }
    if (listed != tokens.has_value())
      throw Error(clean.where, std::string("align: expected ") + (listed ? "a list" : "none") +
                                   " as in the record of " + first->where + ", found " + (listed ? "none" : "one"));
    if (n != positions.n)
      throw Error(clean.where,
                  listed ? "align: expected " + std::to_string(positions.n) + " positions, as in the record of " +
                               first->where + ", found " + std::to_string(n)
                         : "expected " + std::to_string(positions.n) + " tokens, as in the record of " + first->where +
                               ", or a list \"align\" of the positions that stand for one another, found " +
                               std::to_string(n) + " tokens");
    std::vector<int32_t>& of = positions.of[pair.clean];
    of.assign(static_cast<size_t>(n_tokens), -1);
    for (int64_t i = 0; i < n; ++i)
      of[static_cast<size_t>(tokens ? (*tokens)[static_cast<size_t>(i)] : i)] = static_cast<int32_t>(i);
    positions.others = positions.others || n < n_tokens;
  }
  return positions;
}

}  // namespace signalbox::eval
