// A directory for a trace that nobody reads.
#pragma once
#include <stdlib.h>

#include <filesystem>
#include <string>

#include "base/error.h"
#include "base/namespaces.h"

namespace signalbox::tools {

// Made under the system's directory for temporary files, removed with everything in it.
class TemporaryTrace {
 public:
  TemporaryTrace() {
    std::string name = (std::filesystem::temp_directory_path() / "signalbox-bench-XXXXXX").string();
    if (!mkdtemp(name.data())) throw Error(name, "cannot make a temporary directory");
    path = name;
  }
  ~TemporaryTrace() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  TemporaryTrace(const TemporaryTrace&) = delete;
  TemporaryTrace& operator=(const TemporaryTrace&) = delete;
  std::filesystem::path path;
};

}  // namespace signalbox::tools
