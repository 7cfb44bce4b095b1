// Columns that text takes on a terminal, and names that are cut to fit.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace signalbox {

// Columns of a text on a terminal: two for wide characters of East Asia and most emoji, none for combining marks,
// joiners and control characters (utf8proc 2.8, Unicode 15). Bytes that are not UTF-8 count as one each.
size_t display_width(std::string_view text);

// With spaces at the end, or at the beginning, up to so many columns.
std::string padded(std::string_view text, size_t columns, bool right = false);

// The longest beginning, or end, that takes at most so many columns; never half a character, nor a base without marks
// that follow it.
std::string_view beginning_of(std::string_view text, size_t columns);
std::string_view end_of(std::string_view text, size_t columns);

// At most so many columns, by "..." in the middle ("mis/poli...on=0.25"); with fewer than five, the beginning alone.
std::string cut_in_the_middle(std::string_view text, size_t columns);

// Names cut to at most `columns`, but for those that would then be the same text as another name: these keep as many
// columns as tell them apart. Names that were the same stay the same.
std::vector<std::string> cut_names(const std::vector<std::string>& names, size_t columns);

}  // namespace signalbox
