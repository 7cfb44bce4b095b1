#include "eval/direction/places.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/text.h"

namespace signalbox::eval {

Places parse_places(const std::string& text, const std::string& where) {
  if (text != "last" && text != "all" && !(text.starts_with("span:") && text.size() > 5))
    throw Error(where, "expected last, all or span:NAME, found " + in_quotes(text));
  return {text};
}

std::vector<int64_t> positions_at(const Places& places, const Record& record, const EncodedRecord& encoded) {
  const auto n = encoded.target_start.value_or(static_cast<int64_t>(encoded.prompt->tokens.size()));
  std::vector<int64_t> positions;
  if (places.text == "last") {
    if (n > 0) positions.push_back(n - 1);
  } else if (places.text == "all") {
    positions.resize(static_cast<size_t>(n));
    std::iota(positions.begin(), positions.end(), int64_t{0});
  } else {
    const std::string name = places.text.substr(5);
    for (const auto& span : encoded.spans)
      if (span.name == name)
        for (int64_t t = span.begin; t < span.end; ++t) positions.push_back(t);
    std::sort(positions.begin(), positions.end());
    positions.erase(std::unique(positions.begin(), positions.end()), positions.end());
  }
  if (positions.empty()) throw Error(record.where, "expected tokens at " + places.text + " (--at), found none");
  return positions;
}

std::vector<std::pair<int64_t, int64_t>> runs_of(const std::vector<int64_t>& positions) {
  std::vector<std::pair<int64_t, int64_t>> runs;
  for (const int64_t t : positions) {
    if (!runs.empty() && runs.back().second == t)
      ++runs.back().second;
    else
      runs.emplace_back(t, t + 1);
  }
  return runs;
}

}  // namespace signalbox::eval
