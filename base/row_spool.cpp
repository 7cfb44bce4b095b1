#include "base/row_spool.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace signalbox {

namespace {

constexpr size_t block_bytes = size_t{64} << 10;        // a sample's rows go to disk in blocks of at least this
constexpr size_t max_pending_bytes = size_t{32} << 20;  // over all samples

}  // namespace

int open_unnamed(const std::filesystem::path& dir, const std::string& where) {
#ifdef O_TMPFILE
  if (int descriptor = ::open(dir.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600); descriptor >= 0) return descriptor;
#endif
  // Not every file system has files without a name.
  const std::filesystem::path name = dir / (".trace-spool-" + std::to_string(::getpid()));
  const int descriptor = ::open(name.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
  if (descriptor < 0) throw Error(where, std::string("cannot create a file: ") + std::strerror(errno));
  ::unlink(name.c_str());
  return descriptor;
}

void read_at(int descriptor, void* data, size_t bytes, uint64_t offset, const std::string& where) {
  char* next = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t got = ::pread(descriptor, next, bytes, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0)
      throw Error(where, got < 0 ? std::string("cannot read: ") + std::strerror(errno)
                                 : std::string("expected more bytes, found the end"));
    next += got;
    offset += static_cast<uint64_t>(got);
    bytes -= static_cast<size_t>(got);
  }
}

void write_at(int descriptor, const void* data, size_t bytes, uint64_t offset, const std::string& where) {
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t done = ::pwrite(descriptor, next, bytes, static_cast<off_t>(offset));
    if (done < 0) {
      if (errno == EINTR) continue;
      throw Error(where, std::string("cannot write: ") + std::strerror(errno));
    }
    next += done;
    offset += static_cast<uint64_t>(done);
    bytes -= static_cast<size_t>(done);
  }
}

RowSpool::RowSpool(const std::filesystem::path& dir, size_t row_bytes)
    : row_bytes_(row_bytes), where_((dir / "(spool of the trace)").string()) {
  descriptor_ = open_unnamed(dir, where_);
}

RowSpool::~RowSpool() { ::close(descriptor_); }

int64_t RowSpool::n_rows(int64_t sample) const {
  return sample < n_samples() ? samples_[static_cast<size_t>(sample)].n_rows : 0;
}

RowSpool::Sample& RowSpool::at(int64_t sample) {
  if (sample >= n_samples()) samples_.resize(static_cast<size_t>(sample) + 1);
  return samples_[static_cast<size_t>(sample)];
}

void RowSpool::add_extent(Sample& sample, uint64_t offset, int64_t n) {
  if (!sample.extents.empty()) {
    Extent& last = sample.extents.back();
    if (last.offset + static_cast<uint64_t>(last.n) * row_bytes_ == offset) {
      last.n += n;
      return;
    }
  }
  sample.extents.push_back({offset, n});
}

void RowSpool::flush(Sample& sample) {
  if (sample.pending.empty()) return;
  const size_t bytes = sample.pending.size();
  write(end_, sample.pending.data(), bytes);
  add_extent(sample, end_, static_cast<int64_t>(bytes / row_bytes_));
  end_ += bytes;
  pending_bytes_ -= bytes;
  // A block that filled up will fill again soon; the memory of others goes back.
  if (bytes < block_bytes)
    std::vector<std::byte>().swap(sample.pending);
  else
    sample.pending.clear();
}

void RowSpool::flush_all() {
  for (int64_t sample : dirty_) {
    Sample& state = samples_[static_cast<size_t>(sample)];
    flush(state);
    std::vector<std::byte>().swap(state.pending);
  }
  dirty_.clear();
}

void RowSpool::append(int64_t sample, const std::byte* rows, int64_t n) {
  Sample& state = at(sample);
  const size_t bytes = static_cast<size_t>(n) * row_bytes_;
  if (bytes >= block_bytes) {
    const uint64_t offset = reserve(sample, n);
    write(offset, rows, bytes);
    return;
  }
  if (state.pending.capacity() == 0) dirty_.push_back(sample);
  state.pending.insert(state.pending.end(), rows, rows + bytes);
  pending_bytes_ += bytes;
  state.n_rows += n;
  n_rows_ += n;
  if (state.pending.size() >= block_bytes) flush(state);
  if (pending_bytes_ > max_pending_bytes) flush_all();
}

uint64_t RowSpool::reserve(int64_t sample, int64_t n) {
  Sample& state = at(sample);
  flush(state);
  const uint64_t offset = end_;
  add_extent(state, offset, n);
  end_ += static_cast<uint64_t>(n) * row_bytes_;
  state.n_rows += n;
  n_rows_ += n;
  return offset;
}

void RowSpool::write(uint64_t offset, const void* data, size_t bytes) {
  write_at(descriptor_, data, bytes, offset, where_);
}

void RowSpool::read_all(std::span<std::byte> buffer, const std::function<void(const std::byte*, int64_t)>& visit) {
  flush_all();
  const int64_t capacity = static_cast<int64_t>(buffer.size() / row_bytes_);
  int64_t filled = 0;
  for (const Sample& sample : samples_) {
    for (const Extent& extent : sample.extents) {
      for (int64_t done = 0; done < extent.n;) {
        const int64_t n = std::min(extent.n - done, capacity - filled);
        std::byte* into = buffer.data() + static_cast<size_t>(filled) * row_bytes_;
        read_at(descriptor_, into, static_cast<size_t>(n) * row_bytes_,
                extent.offset + static_cast<uint64_t>(done) * row_bytes_, where_);
        done += n;
        filled += n;
        if (filled < capacity) continue;
        visit(buffer.data(), filled);
        filled = 0;
      }
    }
  }
  if (filled > 0) visit(buffer.data(), filled);
}

}  // namespace signalbox
