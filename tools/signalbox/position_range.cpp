#include "tools/signalbox/position_range.h"

#include <optional>

#include "base/error.h"

namespace signalbox::tools {

void read_positions(const std::string& text, int64_t& first_position, int64_t& end_position) {
  if (text.empty()) return;
  const size_t colon = text.find(':');
  const auto number = [&](const std::string& part) -> std::optional<int64_t> {
    if (part.empty() || part.size() > 9 || part.find_first_not_of("0123456789") != std::string::npos)
      return std::nullopt;
    return std::stoll(part);
  };
  const auto first = number(text.substr(0, colon)),
             end = colon == std::string::npos ? std::nullopt : number(text.substr(colon + 1));
  if (!first || !end || *first >= *end)
    throw UsageError("--positions", "expected two positions such as 8:32, the second larger, found \"" + text + "\"");
  first_position = *first;
  end_position = *end;
}

}  // namespace signalbox::tools
