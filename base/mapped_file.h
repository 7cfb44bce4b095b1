// A regular file, mapped read-only.
#pragma once
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

namespace signalbox {

class MappedFile {
 public:
  // Follows symlinks. Throws Error naming the file: no regular file, fewer than `least` bytes, the system's reason.
  explicit MappedFile(const std::filesystem::path& path, size_t least = 1);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& name() const { return name_; }
  std::span<const std::byte> bytes() const { return bytes_; }
  // Throws Error if the file has shrunk since: reading a mapping past the end kills the process.
  void check_unchanged() const;

 private:
  std::string name_;
  std::span<const std::byte> bytes_;
  int descriptor_ = -1;
};

}  // namespace signalbox
