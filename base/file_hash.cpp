#include "base/file_hash.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "base/files.h"
#include "base/json.h"
#include "base/sha256.h"

namespace signalbox {

namespace fs = std::filesystem;

namespace {

constexpr uint64_t block_bytes = uint64_t{8} << 20;
constexpr const char* schema = "signalbox.hash/1";

int64_t nanoseconds(const struct timespec& time) { return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec; }

class OpenFile {
 public:
  explicit OpenFile(const fs::path& file) : where_(file.string()) {
    // O_NONBLOCK: a FIFO in the place of a file is refused below instead of waiting for a writer.
    descriptor_ = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor_ < 0) throw Error(where_, std::string("cannot open the file: ") + std::strerror(errno));
    std::error_code failed;
    path_ = fs::canonical(file, failed);
    if (failed) path_ = fs::absolute(file);
  }
  ~OpenFile() { ::close(descriptor_); }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;

  int descriptor() const { return descriptor_; }
  const std::string& where() const { return where_; }
  FileState state() const {
    struct stat found {};
    if (::fstat(descriptor_, &found) != 0)
      throw Error(where_, std::string("cannot read the size: ") + std::strerror(errno));
    if (!S_ISREG(found.st_mode)) throw Error(where_, "expected a regular file, found something else");
    FileState state;
    state.path = path_;
    state.device = found.st_dev;
    state.inode = found.st_ino;
    state.bytes = static_cast<uint64_t>(found.st_size);
    state.mtime_ns = nanoseconds(found.st_mtim);
    state.ctime_ns = nanoseconds(found.st_ctim);
    return state;
  }

 private:
  std::string where_;
  fs::path path_;
  int descriptor_ = -1;
};

json::Value to_json(const FileState& file) {
  json::Value value = json::Value::object();
  value.set("schema", schema).set("path", file.path.string()).set("device", file.device).set("inode", file.inode);
  return value.set("bytes", file.bytes).set("mtime_ns", file.mtime_ns).set("ctime_ns", file.ctime_ns);
}

bool is_hash(const std::string& text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

}  // namespace

fs::path HashCache::default_directory() {
  // A relative path is to be ignored, as the XDG specification says.
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache && *cache == '/')
    return fs::path(cache) / "signalbox" / "hashes";
  if (const char* home = std::getenv("HOME"); home && *home == '/')
    return fs::path(home) / ".cache" / "signalbox" / "hashes";
  return {};
}

HashCache::HashCache(fs::path directory, Keep keep) : directory_(std::move(directory)), keep_(keep) {}

fs::path HashCache::entry(const FileState& file) const {
  return directory_ / (sha256_hex(file.path.string()).substr(0, 32) + ".json");
}

std::optional<std::string> HashCache::find(const FileState& file) const {
  if (directory_.empty() || file.bytes < keep_.least_bytes) return std::nullopt;
  try {
    const fs::path path = entry(file);
    std::error_code failed;
    if (!fs::is_regular_file(path, failed)) return std::nullopt;
    const json::Value found = json::parse_file(path, 65536);
    const std::string hash = json::Ref(found, path.string()).at("sha256").string();
    json::Value expected = to_json(file);
    expected.set("sha256", hash);
    if (found == expected && is_hash(hash)) return hash;
  } catch (const Error&) {
    // A damaged entry is as none: keep() replaces it.
  }
  return std::nullopt;
}

void HashCache::keep(const FileState& file, const std::string& hash) const {
  if (directory_.empty() || file.bytes < keep_.least_bytes) return;
  const int64_t now =
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  if (now - std::max(file.ctime_ns, file.mtime_ns) < keep_.settle_ns) return;
  try {
    std::error_code failed;
    fs::create_directories(directory_, failed);
    if (failed) return;
    json::Value value = to_json(file);
    value.set("sha256", hash);
    write_file_atomically(entry(file), json::dump(value, 2) + "\n");
  } catch (const Error&) {
    // A full disk or a directory of somebody else: the next run hashes again.
  }
}

std::string hash_file(const fs::path& file, const HashCache& cache, const std::function<void(uint64_t)>& on_read) {
  const OpenFile opened(file);
  const FileState before = opened.state();
  if (const auto known = cache.find(before)) {
    if (on_read) on_read(before.bytes);
    return *known;
  }
  Sha256 hash;
  std::vector<char> block(static_cast<size_t>(std::min(block_bytes, before.bytes)));
  for (uint64_t at = 0; at < before.bytes;) {
    const size_t n = static_cast<size_t>(std::min<uint64_t>(block.size(), before.bytes - at));
    read_at(opened.descriptor(), at, block.data(), n, opened.where());
    at += n;
    // The disk reads the next two blocks while this one is hashed.
    (void)::posix_fadvise(opened.descriptor(), static_cast<off_t>(at), 2 * block_bytes, POSIX_FADV_WILLNEED);
    hash.update(block.data(), n);
    if (on_read) on_read(n);
  }
  if (opened.state() != before) throw Error(opened.where(), "expected a file that stays as it is, found it changed");
  const std::string hex = hash.hex();
  cache.keep(before, hex);
  return hex;
}

}  // namespace signalbox
