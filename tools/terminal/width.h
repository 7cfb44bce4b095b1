// How wide the place is that text goes to, and text that fits it.
#pragma once
#include <string>
#include <string_view>

#include "base/namespaces.h"

namespace signalbox::tools {

inline constexpr int usual_width = 80;

// Columns of the terminal behind a file descriptor: what it says itself, else $COLUMNS, else 80. 0 where it is no
// terminal: a file or a pipe takes lines of any length.
int terminal_width(int descriptor);

// Whether text for this descriptor may hold colours: a terminal that understands them ($TERM is not dumb), and
// $NO_COLOR is not set (no-color.org: to anything but the empty text).
bool may_colour(int descriptor);

// Breaks a text at its spaces into lines of at most `width` columns; a word that is longer stands alone. The first line
// begins behind `first` columns that are there already, later ones behind `indent` spaces.
std::string wrapped(std::string_view text, int width, int indent = 0, int first = 0);

// The same for a line of shell: breaks at spaces outside quotes, with " \" at the end of each line but the last.
std::string wrapped_command(std::string_view line, int width, int indent);

}  // namespace signalbox::tools
