// Numbers and names as people read them in tables and pictures.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"

namespace signalbox::eval {

// Decimals that show about three figures of numbers around `scale` (its absolute value): 3 for shares, fewer for large
// numbers, up to 6 for small ones; -1 means scientific.
int decimals_for(double scale);
// With that many decimals, a true minus never "-0.000"; "-" for NaN.
std::string format_value(double value, int decimals);
// "+" before what is positive.
std::string format_difference(double value, int decimals);
// Four decimals; below 0.00005 "<0.0001"; "-" for NaN.
std::string format_p(double p);
// "[0.120, 0.340]"; "-" when undefined.
std::string format_interval(double lo, double hi, int decimals, bool is_signed = false);

// A setting as people read it: a text as it stands, other values as JSON.
std::string plain_text(const json::Value& value);

// The first names of a list, "and 3 more".
std::string abridged(const std::vector<std::string>& names, size_t most = 5);

std::string html_escape(std::string_view text);      // also safe inside quoted attributes; line ends stay
std::string markdown_escape(std::string_view text);  // for a cell of a table: line ends become spaces
std::string latex_escape(std::string_view text);

}  // namespace signalbox::eval
