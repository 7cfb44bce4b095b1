#include "base/row_spool.h"

#include <unistd.h>

#include <algorithm>

#include "base/files.h"

namespace signalbox {

namespace {

constexpr size_t block_bytes = size_t{64} << 10;        // a sample's rows go to disk in blocks of at least this
constexpr size_t max_pending_bytes = size_t{32} << 20;  // over all samples

}  // namespace

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
