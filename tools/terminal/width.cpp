#include "tools/terminal/width.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "base/display_width.h"

namespace signalbox::tools {

namespace {

// The value of a variable of the environment; empty when it is not set.
std::string_view environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

// Puts words into lines; a line that goes on ends with `end`.
std::string filled(const std::vector<std::string>& words, int width, int indent, int first, std::string_view end) {
  std::string out;
  int at = first;
  bool fresh = true;
  for (size_t i = 0; i < words.size(); ++i) {
    const int size = static_cast<int>(display_width(words[i]));
    const int behind = i + 1 < words.size() ? static_cast<int>(end.size()) : 0;
    if (!fresh && at + 1 + size + behind > width) {
      out += std::string(end) + "\n" + std::string(static_cast<size_t>(indent), ' ');
      at = indent;
      fresh = true;
    }
    if (!fresh) {
      out += ' ';
      ++at;
    }
    out += words[i];
    at += size;
    fresh = false;
  }
  return out;
}

}  // namespace

int terminal_width(int descriptor) {
  if (isatty(descriptor) == 0) return 0;
  struct winsize size = {};
  if (::ioctl(descriptor, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  const std::string_view columns = environment("COLUMNS");
  int value = 0;
  const auto [end, failed] = std::from_chars(columns.data(), columns.data() + columns.size(), value);
  const bool whole = failed == std::errc() && end == columns.data() + columns.size();
  return whole && value > 0 ? value : usual_width;
}

bool may_colour(int descriptor) {
  return isatty(descriptor) != 0 && environment("NO_COLOR").empty() && environment("TERM") != "dumb";
}

std::string wrapped(std::string_view text, int width, int indent, int first) {
  std::vector<std::string> words;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(' ', at), text.size());
    if (end > at) words.emplace_back(text.substr(at, end - at));
    at = end + 1;
  }
  return filled(words, width, indent, first, "");
}

std::string wrapped_command(std::string_view line, int width, int indent) {
  std::vector<std::string> words(1);
  char quote = 0;
  for (const char c : line) {
    if (quote ? c == quote : c == '"' || c == '\'') quote = quote ? 0 : c;
    if (c != ' ' || quote)
      words.back() += c;
    else if (!words.back().empty())
      words.emplace_back();
  }
  if (words.back().empty()) words.pop_back();
  return filled(words, width, indent, 0, " \\");
}

}  // namespace signalbox::tools
