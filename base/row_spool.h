// Rows of fixed size that arrive interleaved by sample and are read back sample by sample, kept on disk meanwhile.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace signalbox {

// Memory: buffers of at most 32 MiB, and an index of one entry for at least 64 KiB of rows or for one sample, whichever
// is less.
class RowSpool {
 public:
  enum class Lifetime : uint8_t { process, file };
  // Where rows lie in the file: `n` of them from a byte on.
  struct Extent {
    uint64_t offset = 0;
    int64_t n = 0;
    bool operator==(const Extent&) const = default;
  };

  // Rows of `row_bytes` > 0. Lifetime::process: in a file without a name in the directory `path`. Lifetime::file: in
  // the file `path`, which is made when it does not exist and stays, so that a later process can restore() what this
  // one has settled; rows that it has not are overwritten.
  RowSpool(const std::filesystem::path& path, size_t row_bytes, Lifetime lifetime = Lifetime::process);
  ~RowSpool();
  RowSpool(const RowSpool&) = delete;
  RowSpool& operator=(const RowSpool&) = delete;

  int64_t n_samples() const { return static_cast<int64_t>(samples_.size()); }  // highest sample seen, plus one
  int64_t n_rows(int64_t sample) const;
  int64_t n_rows() const { return n_rows_; }

  // Appends rows [n, row_bytes] to a sample.
  void append(int64_t sample, const std::byte* rows, int64_t n);
  // Makes room for n rows of a sample, to be filled piecewise by write(); returns where they begin.
  uint64_t reserve(int64_t sample, int64_t n);
  void write(uint64_t offset, const void* data, size_t bytes);

  // All rows of a sample are there: they go to the file. Where they lie, in their order; valid until the next call that
  // adds rows.
  std::span<const Extent> settle(int64_t sample);
  // XXH3-64 of the rows at these places; none where the file does not reach so far.
  std::optional<uint64_t> hash(std::span<const Extent> extents) const;
  // Takes up a sample without rows whose rows an earlier process has settled there.
  void restore(int64_t sample, std::span<const Extent> extents);
  // Flushes the file to disk.
  void sync();

  // Calls visit(rows, n) with all rows in order of samples, in pieces that fit `buffer` (at least one row).
  void read_all(std::span<std::byte> buffer, const std::function<void(const std::byte*, int64_t)>& visit);

 private:
  struct Sample {
    std::vector<Extent> extents;
    std::vector<std::byte> pending;  // whole rows, not yet in the file
    int64_t n_rows = 0;
  };
  Sample& at(int64_t sample);
  void add_extent(Sample& sample, uint64_t offset, int64_t n);
  void flush(Sample& sample);
  void flush_all();

  size_t row_bytes_;
  std::string where_;
  int descriptor_ = -1;
  uint64_t end_ = 0;
  int64_t n_rows_ = 0;
  size_t pending_bytes_ = 0;
  std::vector<Sample> samples_;
  std::vector<int64_t> dirty_;  // samples with pending rows
};

}  // namespace signalbox
