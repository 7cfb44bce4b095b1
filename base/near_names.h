// What to say of a name that is none of those there are.
#pragma once
#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace signalbox {

// How many letters must be put in, taken out, changed or exchanged with their neighbour to make one name of the other;
// the case of ASCII letters does not count.
size_t name_distance(std::string_view a, std::string_view b);

// Up to `most` names that may have been meant, the nearest first, ties in the order of `names`. One may have been meant
// when it is at most a third of its length away, or when one of the two begins or ends with the other; where one is a
// single slip away, only those that are too.
std::vector<std::string> near_names(std::string_view name, const std::vector<std::string>& names, size_t most = 3);

// For brackets behind "expected a span": all names where there are few ("question, document"), else the near ones
// ("nearest: question"), else the first of them and how many more there are ("a, b, ... and 40 more"), with what lists
// them all where `lists_all` says it ("signalbox inspect builtin --points"). "there are none" of an empty list.
std::string choices(std::string_view name, const std::vector<std::string>& names, std::string_view lists_all = "");

// "expected a span (nearest: question), found "qestion"".
std::string wrong_name(std::string_view expected, std::string_view name, const std::vector<std::string>& names,
                       std::string_view lists_all = "");

// The texts of a list of anything: `text_of` makes the text of an item, or is the member that holds it.
template <class List, class TextOf>
std::vector<std::string> names_of(List&& list, TextOf text_of) {
  std::vector<std::string> out;
  for (const auto& item : list) out.emplace_back(std::invoke(text_of, item));
  return out;
}
template <class List>
std::vector<std::string> names_of(const List& list) {
  return {list.begin(), list.end()};
}

}  // namespace signalbox
