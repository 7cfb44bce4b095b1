// The value of --positions.
#pragma once
#include <cstdint>
#include <string>

namespace signalbox::tools {

// "8:32" into first and end, half-open; empty text leaves them. Throws UsageError.
void read_positions(const std::string& text, int64_t& first, int64_t& end);

}  // namespace signalbox::tools
