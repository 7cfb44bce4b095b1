#include "base/display_width.h"

#include <utf8proc.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/utf8.h"

namespace signalbox {

namespace {

// A character with the marks that follow it: where it begins, where the next begins, its columns.
struct Cluster {
  size_t begin, end, width;
};

size_t width_of(char32_t c) {
  if (c < 0x80) return c >= 0x20 && c != 0x7F;
  return static_cast<size_t>(std::max(0, utf8proc_charwidth(static_cast<utf8proc_int32_t>(c))));
}

std::vector<Cluster> clusters(std::string_view text) {
  std::vector<Cluster> out;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    size_t width = 1;
    const size_t length = utf8_length(static_cast<unsigned char>(text[at]));
    if (begin + length <= text.size() && first_invalid_utf8(text.substr(begin, length)) == std::string_view::npos)
      width = width_of(next_code_point(text, at));
    else
      ++at;
    if (width == 0 && !out.empty())
      out.back().end = at;
    else
      out.push_back({begin, at, width});
  }
  return out;
}

}  // namespace

size_t display_width(std::string_view text) {
  size_t width = 0;
  for (const Cluster& one : clusters(text)) width += one.width;
  return width;
}

std::string padded(std::string_view text, size_t columns, bool right) {
  const size_t have = display_width(text);
  const std::string space(columns > have ? columns - have : 0, ' ');
  return right ? space + std::string(text) : std::string(text) + space;
}

std::string_view beginning_of(std::string_view text, size_t columns) {
  size_t width = 0, end = 0;
  for (const Cluster& one : clusters(text)) {
    if (width + one.width > columns) break;
    width += one.width;
    end = one.end;
  }
  return text.substr(0, end);
}

std::string_view end_of(std::string_view text, size_t columns) {
  const std::vector<Cluster> all = clusters(text);
  size_t width = 0, begin = text.size();
  for (auto one = all.rbegin(); one != all.rend() && width + one->width <= columns; ++one) {
    width += one->width;
    begin = one->begin;
  }
  return text.substr(begin);
}

std::string cut_in_the_middle(std::string_view text, size_t columns) {
  if (display_width(text) <= columns) return std::string(text);
  if (columns < 5) return std::string(beginning_of(text, columns));
  const size_t kept = columns - 3;
  return std::string(beginning_of(text, kept - kept / 2)) + "..." + std::string(end_of(text, kept / 2));
}

std::vector<std::string> cut_names(const std::vector<std::string>& names, size_t columns) {
  const std::set<std::string> different(names.begin(), names.end());
  std::map<std::string, std::string> shown;
  size_t longest = 0;
  for (const std::string& name : different) {
    shown[name] = cut_in_the_middle(name, columns);
    longest = std::max(longest, display_width(name));
  }
  // Those that collide get more columns, all of them alike, until none do.
  for (size_t wide = columns + 1; wide <= longest; ++wide) {
    std::map<std::string, int> taken;
    for (const auto& [name, text] : shown) ++taken[text];
    bool collide = false;
    for (auto& [name, text] : shown)
      if (taken[text] > 1) {
        text = cut_in_the_middle(name, wide);
        collide = true;
      }
    if (!collide) break;
  }
  std::vector<std::string> out;
  for (const std::string& name : names) out.push_back(shown[name]);
  return out;
}

}  // namespace signalbox
