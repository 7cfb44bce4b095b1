// What a user should know of a result: --quiet, which is about progress, does not hide it.
#pragma once
#include <string>

namespace signalbox::tools {

// A line "warning: TEXT" on standard error; nothing where the text is empty.
void tell_warning(const std::string& text);

}  // namespace signalbox::tools
