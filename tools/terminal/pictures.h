// Pictures made of characters: heat maps and bars that fit a terminal.
#pragma once
#include <string>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::tools {

struct PictureStyle {
  int width = 80;       // columns, at least 40
  bool colour = false;  // may_colour(): cells on coloured ground too
};

struct CharacterMap {
  std::vector<std::string> rows;            // names
  std::vector<std::vector<double>> values;  // [rows][columns], all of one length; NaN: no value
};
// A line for each row: its name, cut to 12 columns, and a character for each column, in five steps between 0 and the
// largest absolute value; below 0 other characters. Where columns are too many, neighbours share a character, that of
// the one farthest from 0. Above, column numbers; below, what the characters mean, in the numbers of `unit` ("" or
// "%").
std::string character_map(const CharacterMap& map, const std::string& unit, const PictureStyle& style);

struct CharacterBar {
  std::string name;
  double value = 0;  // at least 0; NaN: no bar
};
// A line for each: name, bar and number. `full`: the value whose bar fills the width.
std::string character_bars(const std::vector<CharacterBar>& bars, double full, const PictureStyle& style);

}  // namespace signalbox::tools
