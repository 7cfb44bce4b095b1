// A number that does not exist: the mean of nothing, the interval of a single value. NaN, so that it spreads through
// sums; an empty cell in CSV and null in JSON.
#pragma once
#include <limits>

namespace signalbox {

inline constexpr double no_number = std::numeric_limits<double>::quiet_NaN();

}  // namespace signalbox
