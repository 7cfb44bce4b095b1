#include "tools/terminal/warning.h"

#include <cstdio>

namespace signalbox::tools {

void tell_warning(const std::string& text) {
  if (!text.empty()) std::fprintf(stderr, "warning: %s\n", text.c_str());
}

}  // namespace signalbox::tools
