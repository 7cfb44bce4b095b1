#include <cstring>
#include <unordered_set>

#include "base/json.h"
#include "base/safetensors.h"

namespace signalbox::safetensors {

namespace {

constexpr size_t data_alignment = 64;

}  // namespace

uint64_t TensorHeader::bytes() const {
  const std::string where = "tensor \"" + name + "\"";
  uint64_t bits = static_cast<uint64_t>(dtype_bits(dtype));
  if (bits == 0) throw Error(where, "expected a dtype of the safetensors format, found \"" + dtype + "\"");
  for (int64_t size : shape) {
    if (size < 0) throw Error(where, "expected sizes of at least 0, found " + shape_text(shape));
    if (__builtin_mul_overflow(bits, static_cast<uint64_t>(size), &bits) || bits > INT64_MAX)
      throw Error(where, "expected a size of 63 bits, found " + shape_text(shape));
  }
  if (bits % 8 != 0) throw Error(where, "expected whole bytes, found " + std::to_string(bits) + " bits");
  return bits / 8;
}

std::string make_header(std::span<const TensorHeader> tensors, const std::map<std::string, std::string>& metadata) {
  json::Value root = json::Value::object();
  if (!metadata.empty()) {
    json::Value strings = json::Value::object();
    for (const auto& [key, value] : metadata) strings.append_member(key, json::Value(value));
    root.append_member("__metadata__", std::move(strings));
  }
  std::unordered_set<std::string_view> names;
  uint64_t position = 0;
  for (const TensorHeader& tensor : tensors) {
    if (tensor.name == "__metadata__" || !names.insert(tensor.name).second)
      throw Error("tensor \"" + tensor.name + "\"", "expected a name that is free, found it taken");
    json::Value shape = json::Value::array();
    for (int64_t size : tensor.shape) shape.push_back(json::Value(size));
    uint64_t end = 0;
    if (__builtin_add_overflow(position, tensor.bytes(), &end) || end > INT64_MAX)
      throw Error("tensor \"" + tensor.name + "\"", "expected a file of less than 2^63 bytes, found more");
    json::Value offsets = json::Value::array();
    offsets.push_back(json::Value(position)).push_back(json::Value(end));
    json::Value entry = json::Value::object();
    entry.append_member("dtype", json::Value(tensor.dtype));
    entry.append_member("shape", std::move(shape));
    entry.append_member("data_offsets", std::move(offsets));
    root.append_member(tensor.name, std::move(entry));
    position = end;
  }
  std::string text = json::dump(root);
  while ((8 + text.size()) % data_alignment != 0) text += ' ';
  uint64_t length = text.size();
  std::string header(8, '\0');
  std::memcpy(header.data(), &length, 8);
  return header + text;
}

Writer::Writer(const std::filesystem::path& path, std::span<const TensorHeader> tensors,
               const std::map<std::string, std::string>& metadata)
    : name_(path.string()), file_(path) {
  const std::string header = make_header(tensors, metadata);
  expected_ = header.size();
  for (const TensorHeader& tensor : tensors) expected_ += tensor.bytes();
  write(header.data(), header.size());
}

void Writer::write(const void* data, size_t bytes) {
  if (bytes > bytes_left())
    throw Error(name_,
                "expected at most " + std::to_string(bytes_left()) + " more bytes, found " + std::to_string(bytes));
  written_ += bytes;
  file_.write(data, bytes);
}

void Writer::finish() {
  if (bytes_left() != 0)
    throw Error(name_, "expected " + std::to_string(bytes_left()) + " more bytes of data, found the end");
  file_.commit();
}

}  // namespace signalbox::safetensors
