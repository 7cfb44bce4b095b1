// What analyze shows of its tables in a terminal: maps and bars.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/routing/usage.h"
#include "tools/terminal/pictures.h"

namespace signalbox::tools {

// How often each expert is used, by layer; and, where there are several domains and `analysis` holds domains.csv, how
// much their use differs by layer, and how in the layer where it differs most. Empty without rows.
std::string usage_pictures(const std::vector<eval::Usage>& usage, const std::filesystem::path& analysis,
                           const PictureStyle& style);

}  // namespace signalbox::tools
