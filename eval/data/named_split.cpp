#include "eval/data/named_split.h"

#include <algorithm>
#include <optional>
#include <set>
#include <vector>

#include "base/error.h"
#include "base/text.h"

namespace signalbox::eval {

SplitRule parse_split(const std::string& text, const std::string& where, const std::array<std::string, 3>& drawn) {
  if (text.empty()) return {"", drawn};
  const size_t colon = text.find(':');
  std::vector<std::string> names(1);
  for (const char c : colon == std::string::npos ? "" : text.substr(colon + 1)) {
    if (c == ',')
      names.emplace_back();
    else
      names.back() += c;
  }
  const std::set<std::string> different(names.begin(), names.end());
  if (colon == 0 || names.size() != 3 || different.size() != 3 || different.contains(""))
    throw Error(where, "expected KEY:A,B,C with three different values of the records' key, found " + in_quotes(text));
  return {text.substr(0, colon), {names[0], names[1], names[2]}};
}

size_t named_set(const SplitRule& rule, const Record& record) {
  const std::optional<json::Ref> found = json::Ref(record.source, record.where).find(rule.key);
  const std::string expected = rule.names[0] + ", " + rule.names[1] + " or " + rule.names[2];
  if (!found) throw Error(record.where, rule.key + ": expected " + expected + " (--split), found none");
  const auto at = std::find(rule.names.begin(), rule.names.end(), found->string());
  if (at == rule.names.end())
    throw Error(record.where, rule.key + ": expected " + expected + " (--split), found " + in_quotes(found->string()));
  return static_cast<size_t>(at - rule.names.begin());
}

}  // namespace signalbox::eval
