// safetensors: a validated, memory-mapped reader, and a crash-safe writer.
//
// A file is: 8 bytes little-endian N; N bytes of JSON {name: {"dtype","shape","data_offsets":[begin,end]}, ...,
// "__metadata__": {string: string}}; then the data, which the tensors cover without a hole, an overlap or a rest.
// The reader checks all of it before it hands out a pointer, so that what follows can index without checks.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/dtype.h"
#include "base/files.h"

namespace signalbox::safetensors {

struct TensorInfo {
  std::string name;
  std::string dtype;              // as in the header: "BF16"
  DType type = DType::other;      // `other` for dtypes that the engine has no name for (F8_E4M3, C64, ...)
  std::vector<int64_t> shape;     // empty: a scalar
  uint64_t begin = 0, bytes = 0;  // within the data section
  int64_t elements() const;
};

// "[2, 3]", for messages.
std::string shape_text(std::span<const int64_t> shape);

// Bits of one element of a dtype as headers name it; 0 for a name the format does not know.
int dtype_bits(std::string_view dtype);

// One file, mapped read-only. All pointers live as long as the File.
class File {
 public:
  // Follows symlinks to a regular file and checks everything but the values: length prefix, JSON without duplicate
  // keys, dtypes, shapes (rank <= 8, whole numbers), offsets that tile the data exactly, size of the file after
  // mapping. Throws Error naming the file and, where one is at fault, the tensor.
  static std::shared_ptr<const File> open(const std::filesystem::path& path);

  // The same checks on bytes that somebody else keeps alive; `name` starts the messages.
  static std::shared_ptr<const File> from_memory(std::string name, std::span<const std::byte> bytes);

  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  const std::string& name() const { return name_; }
  const std::vector<TensorInfo>& tensors() const { return tensors_; }  // in order of their data
  const TensorInfo* find(std::string_view tensor) const;               // or nullptr
  const TensorInfo& at(std::string_view tensor) const;                 // Error naming file and tensor
  // First byte of a tensor of this file. Not aligned for its dtype if the writer did not care: see aligned().
  const std::byte* data(const TensorInfo& tensor) const { return data_ + tensor.begin; }
  bool aligned(const TensorInfo& tensor) const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  uint64_t file_bytes() const { return bytes_.size(); }
  std::span<const std::byte> bytes() const { return bytes_; }  // the whole file
  uint64_t data_bytes() const { return bytes_.size() - (data_ - bytes_.data()); }

  // Throws Error if the file on disk has shrunk since it was opened: reading a mapping past the end kills the process.
  void check_unchanged() const;

 private:
  File() = default;
  void parse();
  std::string name_;
  std::span<const std::byte> bytes_;
  const std::byte* data_ = nullptr;
  int descriptor_ = -1;  // of a mapped file
  std::vector<TensorInfo> tensors_;
  std::unordered_map<std::string_view, size_t> index_;  // views into tensors_
  std::map<std::string, std::string> metadata_;
};

// What a writer must know of a tensor before its data.
struct TensorHeader {
  std::string name;
  std::string dtype;  // "F32"
  std::vector<int64_t> shape;
  uint64_t bytes() const;  // Error for an unknown dtype, a negative size, an overflow or a part of a byte
};

// The start of a file: length prefix and JSON, padded with spaces so that the data starts at a multiple of 64. Tensors
// lie in the order given, without gaps. Throws Error for duplicate or reserved names and for sizes that overflow.
std::string make_header(std::span<const TensorHeader> tensors, const std::map<std::string, std::string>& metadata = {});

// Writes a whole file, as an AtomicFile: headers up front, then the data of all tensors in their order, in pieces of
// any size. finish() puts it in its place; a Writer destroyed unfinished leaves nothing.
class Writer {
 public:
  Writer(const std::filesystem::path& path, std::span<const TensorHeader> tensors,
         const std::map<std::string, std::string>& metadata = {});

  void write(const void* data, size_t bytes);  // Error when more than the headers promised, or the disk fails
  void finish();                               // Error when less
  uint64_t bytes_left() const { return expected_ - written_; }

 private:
  std::string name_;
  AtomicFile file_;
  uint64_t expected_ = 0, written_ = 0;
};

}  // namespace signalbox::safetensors
