#include "loaders/gguf/gguf_file.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "base/safetensors.h"
#include "base/text.h"
#include "base/utf8.h"

namespace signalbox::loaders::gguf {

static_assert(std::endian::native == std::endian::little, "GGUF is little-endian");

namespace {

constexpr uint64_t max_string = uint64_t{1} << 26, max_name = 1024;
constexpr uint64_t max_items = uint64_t{1} << 24;  // of all arrays: a value takes far more memory than its bytes
constexpr uint64_t max_tensors = uint64_t{1} << 20, max_keys = uint64_t{1} << 16;
constexpr uint32_t max_rank = 4, max_depth = 4;

enum Kind : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

// Bytes that a value of a type takes at least; 0: there is no such type.
uint64_t least_bytes(uint32_t kind) {
  constexpr uint64_t of[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};
  return kind < std::size(of) ? of[kind] : 0;
}

std::string printable(std::string_view text) {
  std::string out;
  for (char c : text.substr(0, 200)) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  return text.size() > 200 ? out + "..." : out;
}

// The header's bytes, from front to back.
class Cursor {
 public:
  Cursor(const std::string& name, std::span<const std::byte> bytes) : name_(name), bytes_(bytes) {}

  uint64_t left() const { return bytes_.size() - at_; }
  uint64_t position() const { return at_; }
  // What is being read, for messages.
  void set_place(std::string place) { place_ = std::move(place); }
  [[noreturn]] void fail(const std::string& reason) const {
    throw Error(place_.empty() ? name_ : name_ + ": " + place_, reason);
  }

  template <class T>
  T number() {
    if (left() < sizeof(T))
      fail("expected " + std::to_string(sizeof(T)) + " bytes more, found the end of the file after " +
           std::to_string(left()));
    T value;
    std::memcpy(&value, bytes_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }

  std::string text(uint64_t longest) {
    const auto size = number<uint64_t>();
    if (size > longest || size > left())
      fail("expected a text of at most " + std::to_string(std::min(longest, left())) + " bytes, found a length of " +
           std::to_string(size));
    std::string out(reinterpret_cast<const char*>(bytes_.data()) + at_, size);
    if (first_invalid_utf8(out) != std::string::npos) fail("expected a text in UTF-8, found other bytes");
    at_ += size;
    return out;
  }

  Value value(uint32_t kind, uint32_t depth = 0) {
    switch (kind) {
      case u8: return {static_cast<int64_t>(number<uint8_t>())};
      case i8: return {static_cast<int64_t>(number<int8_t>())};
      case u16: return {static_cast<int64_t>(number<uint16_t>())};
      case i16: return {static_cast<int64_t>(number<int16_t>())};
      case u32: return {static_cast<int64_t>(number<uint32_t>())};
      case i32: return {static_cast<int64_t>(number<int32_t>())};
      case i64: return {number<int64_t>()};
      case f32: return {static_cast<double>(number<float>())};
      case f64: return {number<double>()};
      case string: return {text(max_string)};
      case u64: {
        const auto value = number<uint64_t>();
        if (value <= uint64_t{std::numeric_limits<int64_t>::max()}) return {static_cast<int64_t>(value)};
        return {value};
      }
      case boolean: {
        const auto value = number<uint8_t>();
        if (value > 1) fail("expected a boolean of 0 or 1, found " + std::to_string(value));
        return {value == 1};
      }
      case array: break;
      default: fail("expected a type of value from 0 to 12, found " + std::to_string(kind));
    }
    if (depth >= max_depth)
      fail("expected arrays in arrays to a depth of " + std::to_string(max_depth) + ", found more");
    const auto inner = number<uint32_t>();
    const auto n = number<uint64_t>();
    const uint64_t least = least_bytes(inner);
    if (least == 0) fail("expected a type of items from 0 to 12, found " + std::to_string(inner));
    if (n > left() / least || n > max_items - items_)
      fail("expected at most " + std::to_string(std::min(left() / least, max_items - items_)) +
           " items, found a count of " + std::to_string(n));
    items_ += n;
    std::vector<Value> items;
    items.reserve(n);
    for (uint64_t i = 0; i < n; ++i) items.push_back(value(inner, depth + 1));
    return {std::move(items)};
  }

 private:
  const std::string& name_;
  std::span<const std::byte> bytes_;
  uint64_t at_ = 0, items_ = 0;
  std::string place_;
};

uint64_t checked_product(const Cursor& cursor, const std::vector<int64_t>& shape) {
  uint64_t elements = 1;
  bool overflow = false;
  for (const int64_t size : shape) overflow |= __builtin_mul_overflow(elements, static_cast<uint64_t>(size), &elements);
  if (overflow || elements > uint64_t{1} << 48)
    cursor.fail("expected at most 2^48 elements, found the shape " + safetensors::shape_text(shape));
  return elements;
}

const char* kind_name(const Value& value) {
  constexpr const char* names[] = {"a whole number", "a whole number", "a number", "a boolean", "a text", "an array"};
  return names[value.of.index()];
}

}  // namespace

// Of dequantise.cpp.
uint64_t stored_bytes(uint32_t type, uint64_t elements);
int64_t block_of(uint32_t type);

int64_t TensorInfo::elements() const {
  int64_t n = 1;
  for (const int64_t size : shape) n *= size;
  return n;
}

std::shared_ptr<const File> File::open(const std::filesystem::path& path) {
  std::shared_ptr<File> file(new File);
  file->name_ = path.string();
  file->mapped_ = std::make_unique<const MappedFile>(path, 4);
  file->bytes_ = file->mapped_->bytes();
  file->parse();
  return file;
}

std::shared_ptr<const File> File::from_memory(std::string name, std::span<const std::byte> bytes) {
  std::shared_ptr<File> file(new File);
  file->name_ = std::move(name);
  file->bytes_ = bytes;
  file->parse();
  return file;
}

void File::parse() {
  Cursor cursor(name_, bytes_);
  if (bytes_.size() < 4 || std::memcmp(bytes_.data(), "GGUF", 4) != 0)
    cursor.fail("expected a GGUF file (it begins with \"GGUF\"), found other bytes");
  cursor.number<uint32_t>();
  version_ = cursor.number<uint32_t>();
  if (version_ != 2 && version_ != 3) {
    const bool big_endian = version_ == 0x02000000 || version_ == 0x03000000;
    cursor.fail("expected version 2 or 3 of the format, found " +
                (big_endian ? std::string("a big-endian file") : std::to_string(version_)));
  }
  const auto n_tensors = cursor.number<uint64_t>(), n_keys = cursor.number<uint64_t>();
  // A tensor takes 24 bytes at least, and a key 13.
  if (n_tensors > std::min(max_tensors, cursor.left() / 24))
    cursor.fail("expected at most " + std::to_string(std::min(max_tensors, cursor.left() / 24)) +
                " tensors, found a count of " + std::to_string(n_tensors));
  if (n_keys > std::min(max_keys, cursor.left() / 13))
    cursor.fail("expected at most " + std::to_string(std::min(max_keys, cursor.left() / 13)) +
                " keys, found a count of " + std::to_string(n_keys));
  for (uint64_t i = 0; i < n_keys; ++i) {
    cursor.set_place("key " + std::to_string(i));
    const std::string key = cursor.text(max_name);
    cursor.set_place("key \"" + printable(key) + "\"");
    const auto kind = cursor.number<uint32_t>();
    if (!metadata_.emplace(key, cursor.value(kind)).second) cursor.fail("expected it once, found it twice");
  }
  for (uint64_t i = 0; i < n_tensors; ++i) {
    TensorInfo& tensor = tensors_.emplace_back();
    cursor.set_place("tensor " + std::to_string(i));
    tensor.name = cursor.text(max_name);
    cursor.set_place("tensor \"" + printable(tensor.name) + "\"");
    const auto rank = cursor.number<uint32_t>();
    if (rank < 1 || rank > max_rank)
      cursor.fail("expected 1 to " + std::to_string(max_rank) + " dimensions, found " + std::to_string(rank));
    for (uint32_t d = 0; d < rank; ++d) {
      const auto size = cursor.number<uint64_t>();
      if (size == 0 || size > uint64_t{1} << 48)
        cursor.fail("expected sizes from 1 to 2^48, found " + std::to_string(size));
      tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(size));
    }
    tensor.type = cursor.number<uint32_t>();
    tensor.begin = cursor.number<uint64_t>();
    const uint64_t elements = checked_product(cursor, tensor.shape);
    if (known_type(tensor.type)) {
      if (tensor.shape.back() % block_of(tensor.type) != 0)
        cursor.fail("expected rows of a multiple of " + std::to_string(block_of(tensor.type)) + " values for " +
                    type_text(tensor.type) + ", found " + std::to_string(tensor.shape.back()));
      tensor.bytes = stored_bytes(tensor.type, elements);
    }
  }
  cursor.set_place("");
  const auto alignment = static_cast<uint64_t>(integer("general.alignment", 1, 1 << 20, 32));
  const uint64_t start = (cursor.position() + alignment - 1) / alignment * alignment;
  if (n_tensors > 0 && start > bytes_.size())
    cursor.fail("expected data from byte " + std::to_string(start) + " on, found the end of the file at " +
                std::to_string(bytes_.size()));
  data_ = bytes_.data() + std::min<uint64_t>(start, bytes_.size());
  const uint64_t size = bytes_.size() - std::min<uint64_t>(start, bytes_.size());
  std::vector<const TensorInfo*> by_place;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const TensorInfo& tensor = tensors_[i];
    cursor.set_place("tensor \"" + printable(tensor.name) + "\"");
    if (!index_.emplace(tensor.name, i).second) cursor.fail("expected it once, found it twice");
    if (tensor.begin % alignment != 0)
      cursor.fail("expected an offset that is a multiple of " + std::to_string(alignment) + ", found " +
                  std::to_string(tensor.begin));
    if (tensor.begin > size || tensor.bytes > size - tensor.begin)
      cursor.fail("expected " + std::to_string(tensor.bytes) + " bytes from " + std::to_string(tensor.begin) +
                  " on in the data of the file, found " + std::to_string(size) + " bytes of data");
    by_place.push_back(&tensor);
  }
  std::stable_sort(by_place.begin(), by_place.end(),
                   [](const TensorInfo* a, const TensorInfo* b) { return a->begin < b->begin; });
  for (size_t i = 1; i < by_place.size(); ++i)
    if (by_place[i - 1]->begin + by_place[i - 1]->bytes > by_place[i]->begin)
      throw Error(
          name_ + ": tensor \"" + printable(by_place[i]->name) + "\"",
          "expected data behind those of \"" + printable(by_place[i - 1]->name) + "\", found that they overlap");
}

const TensorInfo* File::find(std::string_view tensor) const {
  const auto found = index_.find(tensor);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

void File::fail(std::string_view key, const std::string& reason) const {
  throw Error(name_ + ": key \"" + std::string(key) + "\"", reason);
}

const Value& File::at(std::string_view key) const {
  const auto found = metadata_.find(key);
  if (found == metadata_.end()) throw Error(name_, "expected the key \"" + std::string(key) + "\", found none");
  return found->second;
}

int64_t File::integer(std::string_view key, int64_t low, int64_t high) const {
  const Value& value = at(key);
  const auto* number = std::get_if<int64_t>(&value.of);
  const std::string expected = "expected a whole number from " + std::to_string(low) + " to " + std::to_string(high);
  if (!number) fail(key, expected + ", found " + (value.of.index() == 1 ? "a larger one" : kind_name(value)));
  if (*number < low || *number > high) fail(key, expected + ", found " + std::to_string(*number));
  return *number;
}

int64_t File::integer(std::string_view key, int64_t low, int64_t high, int64_t fallback) const {
  return has(key) ? integer(key, low, high) : fallback;
}

double File::number(std::string_view key) const {
  const Value& value = at(key);
  double number = 0;
  if (const auto* real = std::get_if<double>(&value.of)) {
    number = *real;
  } else if (const auto* whole = std::get_if<int64_t>(&value.of)) {
    number = static_cast<double>(*whole);
  } else {
    fail(key, std::string("expected a number, found ") + kind_name(value));
  }
  if (!std::isfinite(number)) fail(key, "expected a finite number, found another");
  return number;
}

double File::number(std::string_view key, double fallback) const { return has(key) ? number(key) : fallback; }

bool File::boolean(std::string_view key, bool fallback) const {
  if (!has(key)) return fallback;
  const auto* value = std::get_if<bool>(&at(key).of);
  if (!value) fail(key, std::string("expected a boolean, found ") + kind_name(at(key)));
  return *value;
}

const std::string& File::string(std::string_view key) const {
  const auto* text = std::get_if<std::string>(&at(key).of);
  if (!text) fail(key, std::string("expected a text, found ") + kind_name(at(key)));
  return *text;
}

std::vector<std::string_view> File::strings(std::string_view key) const {
  const auto* items = std::get_if<std::vector<Value>>(&at(key).of);
  if (!items) fail(key, std::string("expected an array of texts, found ") + kind_name(at(key)));
  std::vector<std::string_view> out;
  for (const Value& item : *items) {
    const auto* text = std::get_if<std::string>(&item.of);
    if (!text) fail(key, std::string("expected an array of texts, found ") + kind_name(item) + " in it");
    out.push_back(*text);
  }
  return out;
}

std::vector<int64_t> File::integers(std::string_view key) const {
  const auto* items = std::get_if<std::vector<Value>>(&at(key).of);
  if (!items) fail(key, std::string("expected an array of whole numbers, found ") + kind_name(at(key)));
  std::vector<int64_t> out;
  for (const Value& item : *items) {
    const auto* number = std::get_if<int64_t>(&item.of);
    if (!number) fail(key, std::string("expected an array of whole numbers, found ") + kind_name(item) + " in it");
    out.push_back(*number);
  }
  return out;
}

}  // namespace signalbox::loaders::gguf
