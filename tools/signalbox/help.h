// What --help prints.
#pragma once
#include <string>

#include "base/namespaces.h"

namespace CLI {
class App;
}

namespace signalbox::tools {

// Usage, what the command is for, its options by group, its footer, in lines of at most `width` columns (40 at least).
// Lines of a footer that begin with two spaces stay lines: below "Example:" of shell, which go on with a backslash,
// else as they are, wrapped behind their indentation. Other lines flow together.
std::string help_text(const CLI::App& app, int width);

}  // namespace signalbox::tools
