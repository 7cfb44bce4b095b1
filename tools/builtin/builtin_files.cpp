// The files of the built-in model, embedded by the build (builtin.S and builtin_table.inc, made by CMakeLists.txt).
#include <cstddef>
#include <map>
#include <span>
#include <string>

#include "loaders/model/files.h"
#include "tools/signalbox/common.h"

#define BUILTIN_FILE(id, name)                         \
  extern "C" const std::byte signalbox_builtin_##id[]; \
  extern "C" const std::byte signalbox_builtin_##id##_end[];
#include "builtin_table.inc"
#undef BUILTIN_FILE

namespace signalbox {

void register_builtin_model() {
  std::map<std::string, std::span<const std::byte>> files;
#define BUILTIN_FILE(id, name) \
  files[name] =                \
      std::span(signalbox_builtin_##id, static_cast<size_t>(signalbox_builtin_##id##_end - signalbox_builtin_##id));
#include "builtin_table.inc"
#undef BUILTIN_FILE
  register_builtin(std::move(files));
}

}  // namespace signalbox
