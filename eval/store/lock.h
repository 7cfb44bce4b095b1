// One process per run directory.
#pragma once
#include <filesystem>

#include "base/namespaces.h"

namespace signalbox::eval {

// Holds DIR/lock by flock(2): it ends with the process, however that ends. The file names the holder; it is removed on
// release.
class DirectoryLock {
 public:
  // Throws Error: `DIR: expected a directory that no other run uses, found it in use by process N on HOST`.
  explicit DirectoryLock(const std::filesystem::path& dir);
  ~DirectoryLock();
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

  // The directory was renamed by its holder.
  void moved(const std::filesystem::path& dir) { file_ = dir / file_name; }

  static constexpr const char* file_name = "lock";

 private:
  std::filesystem::path file_;
  int descriptor_ = -1;
};

// `dir`, made where it does not exist. Throws Error.
std::filesystem::path made_directory(std::filesystem::path dir);

}  // namespace signalbox::eval
