#include "tools/signalbox/expert_list.h"

#include <algorithm>
#include <charconv>
#include <string_view>

#include "base/error.h"
#include "base/near_names.h"
#include "base/text.h"
#include "tools/signalbox/arguments.h"

namespace signalbox::tools {

std::vector<std::string> items_of_list(const std::string& list) {
  std::vector<std::string> items;
  for (size_t begin = 0; begin <= list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    items.emplace_back(trimmed(std::string_view(list).substr(begin, end - begin)));
    begin = end + 1;
  }
  return items;
}

void add_expert(ExpertSet& experts, const Model& model, const std::string& where, int64_t layer, int64_t expert) {
  if (layer < 0 || layer >= model.n_layers() || !model.layers[static_cast<size_t>(layer)].moe())
    throw Error(where, "expected a layer with experts, found " + std::to_string(layer));
  const int32_t n = model.layers[static_cast<size_t>(layer)].moe()->router.n_experts;
  if (expert < 0 || expert >= n)
    throw Error(where, "expected experts 0 to " + std::to_string(n - 1) + " of layer " + std::to_string(layer) +
                           ", found " + std::to_string(expert));
  experts.emplace(static_cast<int32_t>(layer), static_cast<int32_t>(expert));
}

ExpertSet parse_expert_list(const std::string& flag, const std::string& list, const Model& model) {
  ExpertSet experts;
  for (const std::string& item : items_of_list(list)) {
    int64_t numbers[3] = {0, 0, 0};
    const char *at = item.data(), *end = at + item.size();
    const auto number = [&](int64_t& to, std::string_view before) {
      if (!before.empty() && (at == end || before.find(*at++) == before.npos)) return false;
      const auto [rest, error] = std::from_chars(at, end, to);
      at = rest;
      return error == std::errc();
    };
    bool good = number(numbers[0], "") && number(numbers[1], ":.");
    numbers[2] = numbers[1];
    if (good && at != end) good = number(numbers[2], "-") && at == end && numbers[2] >= numbers[1];
    if (!good)
      throw UsageError(flag, "expected LAYER:EXPERT or LAYER:FIRST-LAST with commas, found " + in_quotes(item));
    for (int64_t e = numbers[1]; e <= numbers[2]; ++e) {
      const size_t before = experts.size();
      add_expert(experts, model, flag, numbers[0], e);
      if (experts.size() == before)
        throw UsageError(flag, "expected each expert once, found " + std::to_string(numbers[0]) + ":" +
                                   std::to_string(e) + " twice");
    }
  }
  return experts;
}

}  // namespace signalbox::tools
