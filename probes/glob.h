// Names with stars, as --points has them.
#pragma once
#include <string_view>

#include "base/namespaces.h"

namespace signalbox::probes {

// Whether text is glob with every `*` replaced by some run of characters.
bool glob_matches(std::string_view glob, std::string_view text);

}  // namespace signalbox::probes
