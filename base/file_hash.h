// SHA-256 of large files: read ahead of the hashing, and remembered between runs while the file stays as it was.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

namespace signalbox {

// What tells that a file is still the one that was hashed. ctime cannot be set, so that a file which was written again
// differs even where its size and mtime were restored.
struct FileState {
  std::filesystem::path path;  // absolute, without links
  uint64_t device = 0, inode = 0, bytes = 0;
  int64_t mtime_ns = 0, ctime_ns = 0;
  bool operator==(const FileState&) const = default;
};

// Hashes by FileState: a small file for each path in a directory. Whatever fails (no directory, no right to write, a
// damaged entry) means that nothing is remembered, never an Error.
class HashCache {
 public:
  // $XDG_CACHE_HOME/signalbox/hashes, else ~/.cache/signalbox/hashes; empty where neither is known.
  static std::filesystem::path default_directory();

  // Which files are worth an entry.
  struct Keep {
    uint64_t least_bytes = uint64_t{16} << 20;
    // Not those that changed less than so long ago: another change within the same tick of the file system's clock
    // would leave all of FileState as it is.
    int64_t settle_ns = 2'000'000'000;
  };
  // Nothing is kept where `directory` is empty.
  explicit HashCache(std::filesystem::path directory, Keep keep);
  explicit HashCache(std::filesystem::path directory) : HashCache(std::move(directory), Keep()) {}

  std::optional<std::string> find(const FileState& file) const;
  void keep(const FileState& file, const std::string& hash) const;

 private:
  std::filesystem::path entry(const FileState& file) const;
  std::filesystem::path directory_;
  Keep keep_;
};

// The hash of a regular file, from the cache or from all of its bytes. on_read(n) is called for each n bytes that are
// done. Throws Error naming the file: when it cannot be read, or changes meanwhile.
std::string hash_file(const std::filesystem::path& file, const HashCache& cache,
                      const std::function<void(uint64_t)>& on_read = {});

}  // namespace signalbox
