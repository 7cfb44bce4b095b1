#include "tools/terminal/pictures.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

namespace signalbox::tools {

namespace {

constexpr size_t name_columns = 12;
constexpr int steps = 4;
constexpr std::array<const char*, steps + 1> above = {"\xC2\xB7", "\xE2\x96\x91", "\xE2\x96\x92", "\xE2\x96\x93",
                                                      "\xE2\x96\x88"};  // a dot, then shades
constexpr std::array<const char*, steps + 1> below = {"\xC2\xB7", "-", "=", "%", "#"};
// Of xterm's 256 colours: pale to full blue, pale to full orange.
constexpr std::array<int, steps + 1> blues = {0, 153, 111, 68, 25}, oranges = {0, 223, 216, 209, 166};

std::string padded(std::string text, size_t columns) {
  size_t shown = 0, at = 0;
  for (; at < text.size() && shown < columns; ++shown) {
    ++at;
    while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) ++at;
  }
  text.resize(at);
  return text + std::string(columns - shown, ' ');
}

std::string shown(double value, const std::string& unit) {
  char text[32];
  if (unit == "%")
    std::snprintf(text, sizeof text, "%.3g %%", 100 * value);
  else
    std::snprintf(text, sizeof text, "%.3g", value);
  return text;
}

// -steps to steps.
int step_of(double value, double largest) {
  if (std::isnan(value) || largest <= 0) return 0;
  const double part = std::fabs(value) / largest * steps;
  const int step = part < 0.125 ? 0 : std::clamp(static_cast<int>(std::ceil(part)), 1, steps);
  return value < 0 ? -step : step;
}

std::string cell(int step, bool colour) {
  const auto size = static_cast<size_t>(std::abs(step));
  const std::string character = (step < 0 ? below : above)[size];
  if (!colour || step == 0) return character;
  return "\033[38;5;" + std::to_string((step < 0 ? oranges : blues)[size]) + "m" + character + "\033[0m";
}

}  // namespace

std::string character_map(const CharacterMap& map, const std::string& unit, const PictureStyle& style) {
  const size_t n = map.values.empty() ? 0 : map.values[0].size();
  const size_t room = static_cast<size_t>(std::max(style.width, 40)) - name_columns - 1;
  const size_t shared = std::max<size_t>(1, (n + room - 1) / room), n_cells = (n + shared - 1) / shared;
  double largest = 0;
  bool negative = false;
  for (const auto& row : map.values)
    for (const double x : row) {
      if (std::isnan(x)) continue;
      largest = std::max(largest, std::fabs(x));
      negative = negative || x < 0;
    }
  // Numbers of columns, each where it begins.
  std::string numbers(name_columns + 1, ' ');
  const size_t apart = n_cells > 60 ? 16 : 8;
  for (size_t c = 0; c < n_cells; c += apart) {
    const std::string number = std::to_string(c * shared);
    if (name_columns + 1 + c + number.size() > static_cast<size_t>(style.width)) break;
    numbers.resize(name_columns + 1 + c, ' ');
    numbers += number;
  }
  std::string out = numbers + "\n";
  for (size_t r = 0; r < map.rows.size(); ++r) {
    out += padded(map.rows[r], name_columns) + " ";
    for (size_t c = 0; c < n_cells; ++c) {
      double value = 0;
      for (size_t i = c * shared; i < std::min(n, (c + 1) * shared); ++i)
        if (std::fabs(map.values[r][i]) > std::fabs(value)) value = map.values[r][i];
      out += cell(step_of(value, largest), style.colour);
    }
    out += "\n";
  }
  out += std::string(name_columns + 1, ' ') + cell(0, false) + " about 0";
  for (int step = 1; step <= steps; ++step)
    out += "  " + cell(step, style.colour) + (step == steps ? " up to " : " ") + shown(largest * step / steps, unit);
  if (negative) {
    out += "\n" + std::string(name_columns + 1, ' ') + "below 0:";
    for (int step = 1; step <= steps; ++step)
      out += "  " + cell(-step, style.colour) + " " + shown(-largest * step / steps, unit);
  }
  if (shared > 1)
    out += "\n" + std::string(name_columns + 1, ' ') + std::to_string(shared) +
           " neighbours share a character, that of the largest";
  return out + "\n";
}

std::string character_bars(const std::vector<CharacterBar>& bars, double full, const PictureStyle& style) {
  const size_t room = static_cast<size_t>(std::max(style.width, 40)) - name_columns - 1 - 8;
  // Eighths of a column.
  constexpr std::array<const char*, 8> parts = {"",
                                                "\xE2\x96\x8F",
                                                "\xE2\x96\x8E",
                                                "\xE2\x96\x8D",
                                                "\xE2\x96\x8C",
                                                "\xE2\x96\x8B",
                                                "\xE2\x96\x8A",
                                                "\xE2\x96\x89"};
  std::string out;
  for (const CharacterBar& bar : bars) {
    out += padded(bar.name, name_columns) + " ";
    if (std::isnan(bar.value)) {
      out += "-\n";
      continue;
    }
    const double share = full > 0 ? std::clamp(bar.value / full, 0.0, 1.0) : 0;
    const auto eighths = static_cast<size_t>(std::lround(share * static_cast<double>(8 * room)));
    std::string line;
    for (size_t i = 0; i < eighths / 8; ++i) line += above[steps];
    line += parts[eighths % 8];
    if (style.colour && !line.empty()) line = "\033[38;5;" + std::to_string(blues[3]) + "m" + line + "\033[0m";
    char number[32];
    std::snprintf(number, sizeof number, "%.3f", bar.value);
    out += line + (line.empty() ? "" : " ") + number + "\n";
  }
  return out;
}

}  // namespace signalbox::tools
