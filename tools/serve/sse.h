// Server-sent events: one line of JSON each.
#pragma once
#include <string>
#include <string_view>

#include "base/namespaces.h"

namespace signalbox::tools {

// "data: JSON\n\n". Line ends of Unicode inside strings become escapes, for clients that split lines at them.
std::string event_frame(std::string_view json);
inline constexpr std::string_view done_frame = "data: [DONE]\n\n", ping_frame = ": ping\n\n";

}  // namespace signalbox::tools
