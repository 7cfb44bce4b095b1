// Reading: every rule is checked at open, in the order in which a file is trusted.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <tuple>

#include "base/json.h"
#include "base/safetensors.h"
#include "base/text.h"

namespace signalbox::safetensors {

static_assert(std::endian::native == std::endian::little, "the data section is little-endian");

namespace {

constexpr uint64_t max_header = 100'000'000;
// A JSON value takes far more memory than its text; no real model comes near this many of them in one file.
constexpr int64_t max_header_commas = 4'000'000;
constexpr size_t max_rank = 8;
constexpr size_t max_name = 1024;

struct DtypeRow {
  std::string_view name;
  int bits;
  DType type;
};

constexpr DtypeRow dtype_table[] = {
    {"BOOL", 8, DType::boolean},
    {"F4", 4, DType::other},
    {"F6_E2M3", 6, DType::other},
    {"F6_E3M2", 6, DType::other},
    {"U8", 8, DType::u8},
    {"I8", 8, DType::i8},
    {"F8_E5M2", 8, DType::other},
    {"F8_E4M3", 8, DType::other},
    {"F8_E8M0", 8, DType::other},
    {"F8_E4M3FNUZ", 8, DType::other},
    {"F8_E5M2FNUZ", 8, DType::other},
    {"I16", 16, DType::i16},
    {"U16", 16, DType::u16},
    {"F16", 16, DType::f16},
    {"BF16", 16, DType::bf16},
    {"I32", 32, DType::i32},
    {"U32", 32, DType::u32},
    {"F32", 32, DType::f32},
    {"C64", 64, DType::other},
    {"F64", 64, DType::f64},
    {"I64", 64, DType::i64},
    {"U64", 64, DType::u64},
};

const DtypeRow* find_dtype(std::string_view name) {
  for (const DtypeRow& row : dtype_table)
    if (row.name == name) return &row;
  return nullptr;
}

std::string printable(std::string_view text) {
  std::string out;
  for (char c : text.substr(0, 200)) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  return text.size() > 200 ? out + "..." : out;
}

std::string tensor_place(const std::string& file, std::string_view tensor) {
  return file + ": tensor \"" + printable(tensor) + "\"";
}

}  // namespace

int dtype_bits(std::string_view dtype) {
  const DtypeRow* row = find_dtype(dtype);
  return row ? row->bits : 0;
}

std::string shape_text(std::span<const int64_t> shape) {
  return "[" + joined(shape, ", ", [](int64_t size) { return std::to_string(size); }) + "]";
}

int64_t TensorInfo::elements() const {
  int64_t n = 1;
  for (int64_t size : shape) n *= size;  // checked for overflow when the file was opened
  return n;
}

std::shared_ptr<const File> File::open(const std::filesystem::path& path) {
  std::shared_ptr<File> file(new File);
  file->name_ = path.string();
  auto fail = [&](const std::string& reason) { throw Error(file->name_, reason); };
  // O_NONBLOCK: a FIFO in the place of a file is refused below instead of waiting for a writer.
  do {
    file->descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  } while (file->descriptor_ < 0 && errno == EINTR);
  if (file->descriptor_ < 0) fail(std::string("cannot open the file: ") + std::strerror(errno));
  struct stat status {};
  if (fstat(file->descriptor_, &status) != 0) fail(std::string("cannot read the size: ") + std::strerror(errno));
  if (!S_ISREG(status.st_mode)) fail("expected a regular file, found something else");
  const auto size = static_cast<uint64_t>(status.st_size);
  if (size < 8) fail("expected at least 8 bytes, found " + std::to_string(size));
  void* mapped = mmap(nullptr, size, PROT_READ, MAP_SHARED, file->descriptor_, 0);
  if (mapped == MAP_FAILED) fail(std::string("cannot map the file: ") + std::strerror(errno));
  file->bytes_ = {static_cast<const std::byte*>(mapped), size};
  file->check_unchanged();
  file->parse();
  return file;
}

std::shared_ptr<const File> File::from_memory(std::string name, std::span<const std::byte> bytes) {
  std::shared_ptr<File> file(new File);
  file->name_ = std::move(name);
  file->bytes_ = bytes;
  if (bytes.size() < 8) throw Error(file->name_, "expected at least 8 bytes, found " + std::to_string(bytes.size()));
  file->parse();
  return file;
}

File::~File() {
  if (descriptor_ < 0) return;
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  close(descriptor_);
}

void File::check_unchanged() const {
  if (descriptor_ < 0) return;
  struct stat status {};
  if (fstat(descriptor_, &status) != 0 || static_cast<uint64_t>(status.st_size) < bytes_.size())
    throw Error(name_, "expected " + std::to_string(bytes_.size()) + " bytes as when it was opened, found " +
                           std::to_string(status.st_size));
}

bool File::aligned(const TensorInfo& tensor) const {
  const size_t size = dtype_size(tensor.type);
  return size < 2 || reinterpret_cast<uintptr_t>(data(tensor)) % size == 0;
}

const TensorInfo* File::find(std::string_view tensor) const {
  auto found = index_.find(tensor);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

const TensorInfo& File::at(std::string_view tensor) const {
  if (const TensorInfo* found = find(tensor)) return *found;
  throw Error(name_, "expected the tensor \"" + std::string(tensor) + "\", found none of that name");
}

void File::parse() {
  auto fail = [&](const std::string& reason) { throw Error(name_, reason); };
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes_.data(), 8);
  if (header_bytes > max_header)
    fail("expected a header of at most " + std::to_string(max_header) + " bytes, found a length of " +
         std::to_string(header_bytes));
  if (header_bytes > bytes_.size() - 8)
    fail("expected a header of " + std::to_string(header_bytes) + " bytes, found " + std::to_string(bytes_.size() - 8) +
         " bytes after the length");
  const std::string_view text(reinterpret_cast<const char*>(bytes_.data()) + 8, header_bytes);
  if (int64_t commas = std::count(text.begin(), text.end(), ','); commas > max_header_commas)
    fail("expected a header of at most " + std::to_string(max_header_commas) + " items, found " +
         std::to_string(commas));
  if (text.find('\0') != std::string_view::npos) fail("expected JSON as header, found a zero byte in it");
  data_ = bytes_.data() + 8 + header_bytes;
  const uint64_t data_size = data_bytes();

  const json::Value header = json::parse(text, name_);
  if (header.type() != json::Type::object)
    fail(std::string("expected a JSON object as header, found ") + json::type_name(header.type()));
  tensors_.reserve(header.members().size());
  for (const auto& [name, value] : header.members()) {
    if (name == "__metadata__") {
      if (value.is_null()) continue;
      json::Ref metadata(value, name_, "__metadata__");
      for (const auto& [key, item] : metadata.members()) metadata_.emplace(key, item.string());
      continue;
    }
    const std::string where = tensor_place(name_, name);
    if (name.size() > max_name)
      throw Error(where, "expected a name of at most " + std::to_string(max_name) + " bytes, found " +
                             std::to_string(name.size()));
    if (std::any_of(name.begin(), name.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }))
      throw Error(where, "expected a name without control characters, found one");
    json::Ref entry(value, where);
    entry.reject_unknown({"dtype", "shape", "data_offsets"});
    TensorInfo info;
    info.name = name;
    info.dtype = entry.at("dtype").string();
    const DtypeRow* dtype = find_dtype(info.dtype);
    if (!dtype) throw Error(where, "dtype: expected a dtype of the format, found \"" + printable(info.dtype) + "\"");
    info.type = dtype->type;
    json::Ref shape = entry.at("shape");
    if (shape.length() > max_rank)
      throw Error(where, "shape: expected at most 8 dimensions, found " + std::to_string(shape.length()));
    for (const json::Ref& size : shape.items()) info.shape.push_back(size.integer(0, INT64_MAX));
    json::Ref offsets = entry.at("data_offsets");
    if (offsets.length() != 2)
      throw Error(where, "data_offsets: expected [begin, end], found " + std::to_string(offsets.length()) + " items");
    const int64_t begin = offsets[0].integer(0, INT64_MAX), end = offsets[1].integer(0, INT64_MAX);
    if (end < begin)
      throw Error(where,
                  "data_offsets: expected begin <= end, found " + std::to_string(begin) + " > " + std::to_string(end));
    info.begin = static_cast<uint64_t>(begin);
    info.bytes = static_cast<uint64_t>(end - begin);
    if (static_cast<uint64_t>(end) > data_size)
      throw Error(where, "data_offsets: expected an end of at most " + std::to_string(data_size) +
                             " (the data of the file), found " + std::to_string(end));
    uint64_t bits = static_cast<uint64_t>(dtype->bits), elements = 1;
    bool overflow = false;
    for (int64_t size : info.shape)
      overflow |= __builtin_mul_overflow(elements, static_cast<uint64_t>(size), &elements);
    overflow |= __builtin_mul_overflow(bits, elements, &bits) || elements > INT64_MAX;
    if (overflow) throw Error(where, "shape: expected a size of 64 bits, found " + shape_text(info.shape));
    if (bits % 8 != 0)
      throw Error(where, "shape: expected whole bytes, found " + std::to_string(bits) + " bits of " + info.dtype);
    if (bits / 8 != info.bytes)
      throw Error(where, "data_offsets: expected " + std::to_string(bits / 8) + " bytes for " + info.dtype + " " +
                             shape_text(info.shape) + ", found " + std::to_string(info.bytes));
    tensors_.push_back(std::move(info));
  }

  std::sort(tensors_.begin(), tensors_.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::tie(a.begin, a.bytes, a.name) < std::tie(b.begin, b.bytes, b.name);
  });
  uint64_t position = 0;
  for (const TensorInfo& info : tensors_) {
    if (info.begin != position)
      throw Error(tensor_place(name_, info.name), "data_offsets: expected a begin of " + std::to_string(position) +
                                                      " (the end of the tensor before), found " +
                                                      std::to_string(info.begin));
    position += info.bytes;
  }
  if (position != data_size)
    fail("expected " + std::to_string(position) + " bytes of data as the tensors say, found " +
         std::to_string(data_size));
  index_.reserve(tensors_.size());
  for (size_t i = 0; i < tensors_.size(); ++i) index_.emplace(tensors_[i].name, i);
}

}  // namespace signalbox::safetensors
