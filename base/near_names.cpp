#include "base/near_names.h"

#include <algorithm>

#include "base/text.h"

namespace signalbox {

namespace {

constexpr size_t few = 5;     // so many are shown whole, whatever is near
constexpr size_t shown = 10;  // of more, where none is near
constexpr size_t longest = 200;

// One begins or ends with the other, which is long enough to mean something.
bool is_part(std::string_view a, std::string_view b) {
  if (a.size() > b.size()) std::swap(a, b);
  return a.size() >= 3 && (b.starts_with(a) || b.ends_with(a));
}

}  // namespace

size_t name_distance(std::string_view a, std::string_view b) {
  // Three rows of the table of distances between the beginnings of the two: of the letter, and of the two before it.
  std::vector<size_t> two(b.size() + 1), one(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    two.swap(one);
    one.swap(row);
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const auto same = [&](size_t x, size_t y) { return ascii_lower(a[x]) == ascii_lower(b[y]); };
      row[j] = std::min({one[j] + 1, row[j - 1] + 1, one[j - 1] + !same(i - 1, j - 1)});
      if (i > 1 && j > 1 && same(i - 1, j - 2) && same(i - 2, j - 1)) row[j] = std::min(row[j], two[j - 2] + 1);
    }
  }
  return row[b.size()];
}

std::vector<std::string> near_names(std::string_view name, const std::vector<std::string>& names, size_t most) {
  if (name.size() > longest) return {};  // nothing that anybody mistyped
  std::vector<std::pair<size_t, size_t>> near;
  const std::string given = ascii_lower(name);
  for (size_t i = 0; i < names.size(); ++i) {
    if (names[i].size() > longest) continue;
    const size_t distance = name_distance(name, names[i]), length = std::max(name.size(), names[i].size());
    if (distance <= std::max<size_t>(1, length / 3) && distance < length)
      near.emplace_back(distance, i);
    else if (is_part(given, ascii_lower(names[i])))
      near.emplace_back(length, i);  // behind what is only mistyped
  }
  std::sort(near.begin(), near.end());
  std::vector<std::string> out;
  for (const auto& [distance, i] : near) {
    // One slip away from some name: nothing farther was meant.
    if (out.size() == most || (near.front().first <= 1 && distance > 1)) break;
    out.push_back(names[i]);
  }
  return out;
}

std::string choices(std::string_view name, const std::vector<std::string>& names, std::string_view lists_all) {
  if (names.empty()) return "there are none";
  if (names.size() <= few) return joined(names);
  if (const std::vector<std::string> near = near_names(name, names); !near.empty()) return "nearest: " + joined(near);
  if (names.size() <= shown + 2) return joined(names);
  std::string text = joined(std::vector<std::string>(names.begin(), names.begin() + shown)) + ", ... and " +
                     std::to_string(names.size() - shown) + " more";
  if (!lists_all.empty()) text += ": " + std::string(lists_all) + " lists them";
  return text;
}

std::string wrong_name(std::string_view expected, std::string_view name, const std::vector<std::string>& names,
                       std::string_view lists_all) {
  return "expected " + std::string(expected) + " (" + choices(name, names, lists_all) + "), found " + in_quotes(name);
}

}  // namespace signalbox
