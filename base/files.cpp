#include "base/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>
#include <vector>

#include "base/error.h"

namespace signalbox {

namespace fs = std::filesystem;

namespace {

constexpr size_t buffer_bytes = size_t{1} << 20;
// Before the number of the process that writes.
constexpr std::string_view temporary_mark = ".tmp-", spool_mark = ".trace-spool-";

[[noreturn]] void fail(const std::string& where, const char* what) {
  throw Error(where, what + std::string(": ") + std::strerror(errno));
}

// Closes on every way out.
struct Descriptor {
  int value = -1;
  ~Descriptor() {
    if (value >= 0) ::close(value);
  }
};

int open_file(const fs::path& file, int flags, const char* what) {
  const int descriptor = ::open(file.c_str(), flags | O_CLOEXEC, 0666);
  if (descriptor < 0) fail(file.string(), what);
  return descriptor;
}

size_t read_some(int descriptor, char* into, size_t bytes, const std::string& where) {
  while (true) {
    const ssize_t got = ::read(descriptor, into, bytes);
    if (got >= 0) return static_cast<size_t>(got);
    if (errno != EINTR) fail(where, "cannot read");
  }
}

// As many bytes as the buffer takes, unless the file ends.
size_t read_full(int descriptor, std::string& into, const std::string& where) {
  size_t filled = 0;
  while (filled < into.size()) {
    const size_t got = read_some(descriptor, into.data() + filled, into.size() - filled, where);
    if (got == 0) break;
    filled += got;
  }
  return filled;
}

}  // namespace

void write_all(int descriptor, std::string_view bytes, const std::string& where) {
  while (!bytes.empty()) {
    const ssize_t done = ::write(descriptor, bytes.data(), bytes.size());
    if (done < 0) {
      if (errno == EINTR) continue;
      fail(where, "cannot write");
    }
    bytes.remove_prefix(static_cast<size_t>(done));
  }
}

void read_at(int descriptor, uint64_t offset, void* data, size_t bytes, const std::string& where) {
  char* next = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t got = ::pread(descriptor, next, bytes, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(where, "cannot read");
    if (got == 0) throw Error(where, "expected " + std::to_string(bytes) + " more bytes, found the end");
    next += got;
    offset += static_cast<uint64_t>(got);
    bytes -= static_cast<size_t>(got);
  }
}

void write_at(int descriptor, uint64_t offset, const void* data, size_t bytes, const std::string& where) {
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t done = ::pwrite(descriptor, next, bytes, static_cast<off_t>(offset));
    if (done < 0) {
      if (errno == EINTR) continue;
      fail(where, "cannot write");
    }
    next += done;
    offset += static_cast<uint64_t>(done);
    bytes -= static_cast<size_t>(done);
  }
}

int open_unnamed(const fs::path& dir, const std::string& where) {
#ifdef O_TMPFILE
  if (int descriptor = ::open(dir.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600); descriptor >= 0) return descriptor;
#endif
  // Not every file system has files without a name.
  const fs::path name = dir / (std::string(spool_mark) + std::to_string(::getpid()));
  const int descriptor = ::open(name.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
  if (descriptor < 0) fail(where, "cannot create a file");
  ::unlink(name.c_str());
  return descriptor;
}

void sync_directory(const fs::path& dir) {
  const fs::path path = dir.empty() ? fs::path(".") : dir;
  const Descriptor opened{open_file(path, O_RDONLY | O_DIRECTORY, "cannot flush the directory")};
  if (::fsync(opened.value) != 0) fail(path.string(), "cannot flush the directory");
}

AtomicFile::AtomicFile(fs::path file) : file_(std::move(file)), temporary_(file_) {
  temporary_ += std::string(temporary_mark) + std::to_string(::getpid());
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail(file_.string(), "cannot create the file");
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!committed_) ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* data, size_t bytes) {
  const std::string_view text(static_cast<const char*>(data), bytes);
  if (buffer_.size() + bytes > buffer_bytes) flush();
  if (bytes >= buffer_bytes)
    write_all(descriptor_, text, file_.string());
  else
    buffer_.append(text);
}

void AtomicFile::write_at(uint64_t offset, const void* data, size_t bytes) {
  signalbox::write_at(descriptor_, offset, data, bytes, file_.string());
}

void AtomicFile::flush() {
  write_all(descriptor_, buffer_, file_.string());
  buffer_.clear();
}

void AtomicFile::sync() {
  flush();
  if (::fsync(descriptor_) != 0) fail(file_.string(), "cannot write");
  if (::close(std::exchange(descriptor_, -1)) != 0) fail(file_.string(), "cannot write");
}

void AtomicFile::commit() {
  if (descriptor_ >= 0) sync();
  if (std::rename(temporary_.c_str(), file_.c_str()) != 0) fail(file_.string(), "cannot rename the finished file");
  committed_ = true;
  sync_directory(file_.parent_path());
}

void write_file_atomically(const fs::path& file, std::string_view text) {
  AtomicFile written(file);
  written.write(text);
  written.commit();
}

bool is_temporary_name(std::string_view name) {
  for (const std::string_view mark : {temporary_mark, spool_mark}) {
    const size_t at = name.rfind(mark);
    if (at == std::string_view::npos) continue;
    const std::string_view digits = name.substr(at + mark.size());
    if (!digits.empty() && digits.find_first_not_of("0123456789") == std::string_view::npos) return true;
  }
  return false;
}

bool same_bytes(const fs::path& a, const fs::path& b) {
  const Descriptor one{open_file(a, O_RDONLY, "cannot open the file")};
  const Descriptor two{open_file(b, O_RDONLY, "cannot open the file")};
  std::string left(buffer_bytes, '\0'), right(buffer_bytes, '\0');
  while (true) {
    const size_t n = read_full(one.value, left, a.string());
    if (read_full(two.value, right, b.string()) != n || std::memcmp(left.data(), right.data(), n) != 0) return false;
    if (n < left.size()) return true;
  }
}

void copy_file_durably(const fs::path& from, const fs::path& to) {
  const Descriptor in{open_file(from, O_RDONLY, "cannot open the file")};
  AtomicFile out(to);
  std::string buffer(buffer_bytes, '\0');
  while (const size_t n = read_full(in.value, buffer, from.string())) out.write(buffer.data(), n);
  out.commit();
}

void remove_temporaries(const fs::path& dir) {
  std::error_code failed;
  std::vector<fs::path> found;
  fs::recursive_directory_iterator entry(dir, failed), end;
  for (; !failed && entry != end; entry.increment(failed)) {
    std::error_code unknown;
    if (!entry->is_regular_file(unknown) || entry->is_symlink(unknown)) continue;
    if (is_temporary_name(entry->path().filename().string())) found.push_back(entry->path());
  }
  if (failed) throw Error(dir.string(), "cannot read the directory: " + failed.message());
  for (const fs::path& file : found)
    if (::unlink(file.c_str()) != 0) fail(file.string(), "cannot remove the file");
}

LineReader::LineReader(const fs::path& file)
    : path_(file), descriptor_(open_file(file, O_RDONLY, "cannot open the file")) {}

LineReader::~LineReader() { ::close(descriptor_); }

std::string LineReader::where() const { return path_.string() + ":" + std::to_string(number_); }

// Reads on behind what the buffer has; false at the end of the file.
bool LineReader::fill() {
  if (ended_) return false;
  buffer_.erase(0, begin_);
  begin_ = 0;
  const size_t kept = buffer_.size();
  buffer_.resize(kept + buffer_bytes);
  const size_t got = read_some(descriptor_, buffer_.data() + kept, buffer_bytes, path_.string());
  buffer_.resize(kept + got);
  ended_ = got == 0;
  return !ended_;
}

bool LineReader::at_end() { return begin_ == buffer_.size() && !fill(); }

bool LineReader::next(std::string_view& line) {
  size_t searched = 0;  // behind begin_, known to have no newline
  while (true) {
    const size_t newline = buffer_.find('\n', begin_ + searched);
    if (newline == std::string::npos) {
      searched = buffer_.size() - begin_;
      if (fill()) continue;
      if (begin_ == buffer_.size()) return false;
    }
    terminated_ = newline != std::string::npos;
    line = std::string_view(buffer_).substr(begin_, (terminated_ ? newline : buffer_.size()) - begin_);
    begin_ += line.size() + (terminated_ ? 1 : 0);
    offset_ = next_offset_;
    next_offset_ += line.size() + (terminated_ ? 1 : 0);
    ++number_;
    return true;
  }
}

}  // namespace signalbox
