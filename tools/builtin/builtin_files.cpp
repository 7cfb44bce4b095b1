// builtin.S and builtin_table.inc are made by CMakeLists.txt.
#include "tools/builtin/builtin_files.h"

#include <cstddef>
#include <map>
#include <span>
#include <string>

#define BUILTIN_FILE(id, name)                         \
  extern "C" const std::byte signalbox_builtin_##id[]; \
  extern "C" const std::byte signalbox_builtin_##id##_end[];
#include "builtin_table.inc"
#undef BUILTIN_FILE

namespace signalbox::tools {

std::shared_ptr<const ModelFiles> builtin_files() {
  std::map<std::string, std::span<const std::byte>> files;
#define BUILTIN_FILE(id, name) \
  files[name] =                \
      std::span(signalbox_builtin_##id, static_cast<size_t>(signalbox_builtin_##id##_end - signalbox_builtin_##id));
#include "builtin_table.inc"
#undef BUILTIN_FILE
  return open_memory("builtin", std::move(files));
}

}  // namespace signalbox::tools
