#include "base/row_spool.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "base/error.h"
#include "base/files.h"

namespace signalbox {

namespace {

constexpr size_t block_bytes = size_t{64} << 10;        // a sample's rows go to disk in blocks of at least this
constexpr size_t max_pending_bytes = size_t{32} << 20;  // over all samples
constexpr size_t hash_bytes = size_t{1} << 20;          // read at once
constexpr size_t max_stale = 4096;                      // samples that are listed as pending and are not

}  // namespace

RowSpool::RowSpool(const std::filesystem::path& path, size_t row_bytes, Lifetime lifetime)
    : row_bytes_(row_bytes), where_((lifetime == Lifetime::file ? path : path / "(spool of the trace)").string()) {
  if (lifetime == Lifetime::process) {
    descriptor_ = open_unnamed(path, where_);
    return;
  }
  descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor_ < 0) throw Error(where_, std::string("cannot open the file: ") + std::strerror(errno));
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

std::span<const RowSpool::Extent> RowSpool::settle(int64_t sample) {
  Sample& state = at(sample);
  flush(state);
  std::vector<std::byte>().swap(state.pending);
  if (dirty_.size() > max_stale)
    std::erase_if(dirty_, [&](int64_t one) { return samples_[static_cast<size_t>(one)].pending.capacity() == 0; });
  return state.extents;
}

std::optional<uint64_t> RowSpool::hash(std::span<const Extent> extents) const {
  struct stat now = {};
  if (::fstat(descriptor_, &now) != 0) throw Error(where_, std::string("cannot read: ") + std::strerror(errno));
  const uint64_t size = static_cast<uint64_t>(now.st_size);
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state(XXH3_createState(), XXH3_freeState);
  XXH3_64bits_reset(state.get());
  std::vector<std::byte> buffer;
  for (const Extent& extent : extents) {
    if (extent.n < 1 || extent.offset > size || static_cast<uint64_t>(extent.n) > (size - extent.offset) / row_bytes_)
      return std::nullopt;
    const uint64_t end = extent.offset + static_cast<uint64_t>(extent.n) * row_bytes_;
    for (uint64_t at = extent.offset; at < end; at += buffer.size()) {
      buffer.resize(std::min<uint64_t>(hash_bytes, end - at));
      read_at(descriptor_, at, buffer.data(), buffer.size(), where_);
      XXH3_64bits_update(state.get(), buffer.data(), buffer.size());
    }
  }
  return XXH3_64bits_digest(state.get());
}

void RowSpool::restore(int64_t sample, std::span<const Extent> extents) {
  Sample& state = at(sample);
  for (const Extent& extent : extents) {
    state.extents.push_back(extent);
    state.n_rows += extent.n;
    n_rows_ += extent.n;
    end_ = std::max(end_, extent.offset + static_cast<uint64_t>(extent.n) * row_bytes_);
  }
}

void RowSpool::sync() {
  flush_all();
  if (::fsync(descriptor_) != 0) throw Error(where_, std::string("cannot write: ") + std::strerror(errno));
}

void RowSpool::write(uint64_t offset, const void* data, size_t bytes) {
  write_at(descriptor_, offset, data, bytes, where_);
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
        read_at(descriptor_, extent.offset + static_cast<uint64_t>(done) * row_bytes_, into,
                static_cast<size_t>(n) * row_bytes_, where_);
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
