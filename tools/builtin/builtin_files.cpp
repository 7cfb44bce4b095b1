#include "tools/builtin/builtin_files.h"

#include <cstddef>
#include <map>
#include <span>
#include <string>

#include "base/embedded_file.h"

extern "C" const signalbox::EmbeddedFile signalbox_builtin_files[];  // cmake/builtin_model.cmake

namespace signalbox::tools {

std::shared_ptr<const ModelFiles> builtin_files() {
  std::map<std::string, std::span<const std::byte>> files;
  for (const EmbeddedFile* file = signalbox_builtin_files; file->name; ++file)
    files[file->name] = std::span(file->begin, file->end);
  return open_memory("builtin", std::move(files));
}

}  // namespace signalbox::tools
