// A socket in the file system that nobody else can reach.
#pragma once
#include <filesystem>
#include <functional>

#include "base/namespaces.h"

namespace signalbox::tools {

// Listens at `path` with mode 0600 and hands over the descriptor; its directory is made with mode 0700 where there is
// none. Takes the place of a socket that nobody listens at. Throws Error: a directory that others can write to, a path
// that is taken. Returns the path.
std::filesystem::path listen_unix(const std::filesystem::path& path, const std::function<void(int)>& take);

}  // namespace signalbox::tools
