// Names with stars.
#pragma once
#include <string_view>

namespace signalbox {

// `*` matches any run of characters, dots included; everything else stands for itself. Linear in the text for each
// star, so that no glob is slow.
bool glob_matches(std::string_view glob, std::string_view text);

}  // namespace signalbox
