// GGUF, the model files of llama.cpp and its kin: a validated, memory-mapped reader.
//
// A file of version 2 or 3 is: "GGUF", u32 version, u64 tensors, u64 keys; each key a string, a u32 type and a value;
// each tensor its name, u32 dimensions, u64 sizes (fastest first), u32 type and u64 offset into the data, which begin
// at the next multiple of general.alignment (32). Little-endian. All of it is checked before a pointer is handed out.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/mapped_file.h"
#include "base/namespaces.h"

namespace signalbox::loaders::gguf {

// A value of the header. Whole numbers of every width are int64_t, but for u64 beyond it; floats are double.
struct Value {
  std::variant<int64_t, uint64_t, double, bool, std::string, std::vector<Value>> of;
};

// A stored tensor. Types that cannot be dequantised here are known by number alone and have no size to check.
struct TensorInfo {
  std::string name;
  std::vector<int64_t> shape;  // as PyTorch has it: slowest first, [out, in] of a matrix
  uint32_t type = 0;           // ggml's number
  uint64_t begin = 0;          // within the data
  uint64_t bytes = 0;          // 0 where the type is not known
  int64_t elements() const;    // checked for overflow when the file was opened
};

// "Q4_1"; "type 99" for one that dequantise() does not know.
std::string type_text(uint32_t type);
bool known_type(uint32_t type);

class File {
 public:
  // Throws Error naming the file and, where one is at fault, the key or the tensor: another magic or version, counts
  // that the bytes cannot hold, texts that are no UTF-8, keys or names that come twice, sizes that overflow, rows that
  // are no whole blocks, tensors that overlap or lie beyond the end.
  static std::shared_ptr<const File> open(const std::filesystem::path& path);
  // The same on bytes that somebody else keeps alive.
  static std::shared_ptr<const File> from_memory(std::string name, std::span<const std::byte> bytes);

  const std::string& name() const { return name_; }
  uint32_t version() const { return version_; }
  const std::map<std::string, Value, std::less<>>& metadata() const { return metadata_; }
  const std::vector<TensorInfo>& tensors() const { return tensors_; }  // in the file's order
  const TensorInfo* find(std::string_view tensor) const;               // or nullptr

  // Keys, checked: Error naming file and key where it is missing or of another kind.
  bool has(std::string_view key) const { return metadata_.contains(key); }
  int64_t integer(std::string_view key, int64_t low, int64_t high) const;
  int64_t integer(std::string_view key, int64_t low, int64_t high, int64_t fallback) const;
  double number(std::string_view key) const;  // finite
  double number(std::string_view key, double fallback) const;
  bool boolean(std::string_view key, bool fallback) const;
  const std::string& string(std::string_view key) const;
  std::vector<std::string_view> strings(std::string_view key) const;
  std::vector<int64_t> integers(std::string_view key) const;
  [[noreturn]] void fail(std::string_view key, const std::string& reason) const;

  // Elements first .. first + n of a tensor as f32; both multiples of the type's block (32 of the quantised ones).
  // Throws Error naming the tensor where the type is not known: F32, F16, BF16, Q4_0, Q4_1, Q8_0 are.
  void dequantise(const TensorInfo& tensor, int64_t first, int64_t n, float* out) const;
  std::vector<float> dequantise(const TensorInfo& tensor) const;

 private:
  File() = default;
  void parse();
  const Value& at(std::string_view key) const;
  std::string name_;
  std::unique_ptr<const MappedFile> mapped_;  // null: in memory
  std::span<const std::byte> bytes_;
  const std::byte* data_ = nullptr;
  uint32_t version_ = 0;
  std::map<std::string, Value, std::less<>> metadata_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string_view, size_t> index_;  // views into tensors_
};

}  // namespace signalbox::loaders::gguf
