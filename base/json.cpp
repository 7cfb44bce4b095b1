#include "base/json.h"

#include <charconv>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <unordered_set>

#include "base/near_names.h"
#include "base/text.h"
#include "base/utf8.h"

namespace signalbox::json {

namespace {

constexpr int max_depth = 128;
constexpr size_t index_threshold = 16;  // below this a linear search is faster than a hash

[[noreturn]] void fail_at(const std::string& where, const std::string& reason) { throw Error(where, reason); }

// Builds a Value from nlohmann's events; throws at once on what strictness forbids.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit Builder(const std::string& where) : where_(where) {}
  Value take() { return std::move(root_); }

  bool null() override { return add(Value()); }
  bool boolean(bool value) override { return add(Value(value)); }
  bool number_integer(number_integer_t value) override { return add(Value(static_cast<int64_t>(value))); }
  bool number_unsigned(number_unsigned_t value) override { return add(Value(static_cast<uint64_t>(value))); }
  bool number_float(number_float_t value, const string_t& text) override {
    if (!std::isfinite(value)) fail_at(where_, "expected a number that a double can hold, found " + text);
    // Integers too large for 64 bits come here too. Tokenizer configs hold one (a maximal length of 10^30), so they are
    // no error by themselves: they are not integers to whoever asks for one, and print as they were written.
    if (text.find_first_of(".eE") == std::string::npos) return add(Value::wide_integer(text, value));
    return add(Value(static_cast<double>(value)));
  }
  bool string(string_t& value) override { return add(Value(std::move(value))); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(Value::object()); }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override { return open(Value::array()); }
  bool end_array() override { return close(); }
  bool key(string_t& value) override {
    if (!frames_.back().keys.insert(value).second) fail_at(where_, "duplicate key \"" + value + "\"");
    frames_.back().key = std::move(value);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& e) override {
    std::string reason = e.what();
    // nlohmann's texts start with "[json.exception...] parse error at line 1, column 2: "; keep what follows.
    if (size_t cut = reason.find("] "); cut != std::string::npos) reason = reason.substr(cut + 2);
    for (char& c : reason)
      if (static_cast<unsigned char>(c) < 0x20) c = ' ';
    if (reason.size() > 300) reason = reason.substr(0, 300) + "...";
    fail_at(where_, "expected JSON, found an error at byte " + std::to_string(position) + " (" + reason + ")");
  }

 private:
  struct Frame {
    Value value;
    std::string key;
    std::unordered_set<std::string> keys;
  };
  bool open(Value value) {
    if (frames_.size() >= max_depth) fail_at(where_, "expected nesting of at most 128 levels, found more");
    frames_.push_back({std::move(value), {}, {}});
    return true;
  }
  bool close() {
    Value done = std::move(frames_.back().value);
    frames_.pop_back();
    return add(std::move(done));
  }
  bool add(Value value) {
    if (frames_.empty()) {
      root_ = std::move(value);
    } else if (Frame& top = frames_.back(); top.value.type() == Type::array) {
      top.value.items().push_back(std::move(value));
    } else {
      top.value.append_member(std::move(top.key), std::move(value));
    }
    return true;
  }
  const std::string& where_;
  std::vector<Frame> frames_;
  Value root_;
};

void append_string(std::string& out, const std::string& text) {
  if (first_invalid_utf8(text) != std::string_view::npos) {
    // JSON is UTF-8. Names of files may be other bytes: each part that is not becomes U+FFFD.
    std::string whole;
    append_lossy(whole, text, false);
    return append_string(out, whole);
  }
  out += '"';
  for (char c : text) {
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\r': out += "\\r"; break;
      case '\t': out += "\\t"; break;
      case '\b': out += "\\b"; break;
      case '\f': out += "\\f"; break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          char buffer[8];
          std::snprintf(buffer, sizeof buffer, "\\u%04x", c);
          out += buffer;
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

void append_real(std::string& out, double value) {
  if (!std::isfinite(value)) {
    out += "null";
    return;
  }
  char buffer[40];
  auto end = std::to_chars(buffer, buffer + sizeof buffer, value).ptr;
  std::string_view text(buffer, end - buffer);
  out += text;
  if (text.find_first_of(".e") == std::string_view::npos) out += ".0";
}

void append(std::string& out, const Value& value, int indent, int level) {
  auto line = [&](int depth) {
    if (indent < 0) return;
    out += '\n';
    out.append(static_cast<size_t>(indent) * depth, ' ');
  };
  switch (value.type()) {
    case Type::null: out += "null"; break;
    case Type::boolean: out += value.boolean() ? "true" : "false"; break;
    case Type::integer:
      out += value.is_unsigned() ? std::to_string(static_cast<uint64_t>(value.integer()))
                                 : std::to_string(value.integer());
      break;
    case Type::real:
      if (value.is_wide()) {
        out += value.string();
      } else {
        append_real(out, value.real());
      }
      break;
    case Type::string: append_string(out, value.string()); break;
    case Type::array: {
      out += '[';
      bool first = true;
      for (const Value& item : value.items()) {
        if (!first) out += ',';
        first = false;
        line(level + 1);
        append(out, item, indent, level + 1);
      }
      if (!first) line(level);
      out += ']';
      break;
    }
    case Type::object: {
      out += '{';
      bool first = true;
      for (const auto& [key, item] : value.members()) {
        if (!first) out += ',';
        first = false;
        line(level + 1);
        append_string(out, key);
        out += indent < 0 ? ":" : ": ";
        append(out, item, indent, level + 1);
      }
      if (!first) line(level);
      out += '}';
      break;
    }
  }
}

std::string describe(const Value& value) {
  switch (value.type()) {
    case Type::null: return "null";
    case Type::array: return "an array";
    case Type::object: return "an object";
    default: {
      std::string text = dump(value);
      return text.size() > 60 ? text.substr(0, 57) + "..." : text;
    }
  }
}

}  // namespace

struct Value::Index {
  std::unordered_map<std::string_view, size_t> positions;  // views into members_, whose strings do not move
  const void* data = nullptr;
  size_t size = 0;
};

const char* type_name(Type type) {
  switch (type) {
    case Type::null: return "null";
    case Type::boolean: return "a boolean";
    case Type::integer: return "an integer";
    case Type::real: return "a number";
    case Type::string: return "a string";
    case Type::array: return "an array";
    case Type::object: return "an object";
  }
  return "?";
}

Value::Value(uint64_t value)
    : type_(Type::integer), unsigned_(value > INT64_MAX), integer_(static_cast<int64_t>(value)) {}

Value Value::wide_integer(std::string digits, double value) {
  Value wide(value);
  wide.string_ = std::move(digits);
  return wide;
}

double Value::real() const {
  if (type_ == Type::real) return real_;
  return unsigned_ ? static_cast<double>(static_cast<uint64_t>(integer_)) : static_cast<double>(integer_);
}

const Value* Value::find(std::string_view key) const {
  if (members_.size() < index_threshold) {
    for (const Member& member : members_)
      if (member.first == key) return &member.second;
    return nullptr;
  }
  std::shared_ptr<const Index> index = std::atomic_load(&index_);
  if (!index || index->data != members_.data() || index->size != members_.size()) {
    auto made = std::make_shared<Index>();
    made->data = members_.data();
    made->size = members_.size();
    made->positions.reserve(members_.size());
    for (size_t i = 0; i < members_.size(); ++i) made->positions.emplace(members_[i].first, i);
    index = made;
    std::atomic_store(&index_, index);
  }
  auto found = index->positions.find(key);
  return found == index->positions.end() ? nullptr : &members_[found->second].second;
}

Value& Value::push_back(Value value) {
  type_ = Type::array;
  items_.push_back(std::move(value));
  return *this;
}

void Value::append_member(std::string key, Value value) { members_.emplace_back(std::move(key), std::move(value)); }

Value& Value::set(std::string key, Value value) {
  type_ = Type::object;
  if (const Value* found = find(key)) {
    *const_cast<Value*>(found) = std::move(value);
  } else {
    append_member(std::move(key), std::move(value));
  }
  return *this;
}

bool Value::operator==(const Value& other) const {
  if (type_ != other.type_) return false;
  switch (type_) {
    case Type::null: return true;
    case Type::boolean: return boolean_ == other.boolean_;
    case Type::integer: return integer_ == other.integer_ && unsigned_ == other.unsigned_;
    case Type::real: return real_ == other.real_ && string_ == other.string_;
    case Type::string: return string_ == other.string_;
    case Type::array: return items_ == other.items_;
    case Type::object:
      if (members_.size() != other.members_.size()) return false;
      for (const auto& [key, value] : members_) {
        const Value* match = other.find(key);
        if (!match || !(*match == value)) return false;
      }
      return true;
  }
  return false;
}

Value parse(std::string_view text, const std::string& where) {
  // nlohmann takes a zero byte for the end of the text, and skips a byte order mark.
  if (const size_t zero = text.find('\0'); zero != std::string_view::npos)
    fail_at(where, "expected JSON, found a zero byte at byte " + std::to_string(zero));
  if (text.starts_with("\xef\xbb\xbf")) fail_at(where, "expected JSON, found a byte order mark");
  Builder builder(where);
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &builder)) fail_at(where, "expected JSON");
  return builder.take();
}

Value parse_file(const std::filesystem::path& file, uint64_t max_bytes) {
  const std::string where = file.string();
  std::error_code code;
  auto status = std::filesystem::status(file, code);
  if (!std::filesystem::exists(status)) fail_at(where, "expected a file, found none");
  if (!std::filesystem::is_regular_file(status)) fail_at(where, "expected a regular file, found something else");
  uint64_t size = std::filesystem::file_size(file, code);
  if (code) fail_at(where, "cannot read the size: " + code.message());
  if (size > max_bytes)
    fail_at(where, "expected at most " + std::to_string(max_bytes) + " bytes, found " + std::to_string(size));
  std::ifstream in(file, std::ios::binary);
  std::string text(size, '\0');
  if (!in.read(text.data(), static_cast<std::streamsize>(size))) fail_at(where, "cannot read the file");
  return parse(text, where);
}

std::string dump(const Value& value, int indent) {
  std::string out;
  append(out, value, indent, 0);
  return out;
}

void Ref::fail(const std::string& reason) const { throw Error(where_, (path_.empty() ? "" : path_ + ": ") + reason); }

void Ref::fail_type(const std::string& expected) const {
  fail("expected " + expected + ", found " + describe(*value_));
}

void Ref::expect_object() const {
  if (value_->type() != Type::object) fail_type("an object");
}

void Ref::expect_array() const {
  if (value_->type() != Type::array) fail_type("an array");
}

std::optional<Ref> Ref::find(std::string_view key) const {
  expect_object();
  const Value* found = value_->find(key);
  if (!found || found->is_null()) return std::nullopt;
  return Ref(*found, where_, path_.empty() ? std::string(key) : path_ + "." + std::string(key));
}

Ref Ref::at(std::string_view key) const {
  expect_object();
  const Value* found = value_->find(key);
  if (!found) fail("expected the key \"" + std::string(key) + "\", found none");
  return Ref(*found, where_, path_.empty() ? std::string(key) : path_ + "." + std::string(key));
}

Ref Ref::operator[](size_t index) const {
  expect_array();
  if (index >= value_->items().size())
    fail("expected an item " + std::to_string(index) + ", found " + std::to_string(value_->items().size()) + " items");
  return Ref(value_->items()[index], where_, path_ + "[" + std::to_string(index) + "]");
}

size_t Ref::length() const {
  expect_array();
  return value_->items().size();
}

std::vector<Ref> Ref::items() const {
  std::vector<Ref> refs;
  refs.reserve(length());
  for (size_t i = 0; i < value_->items().size(); ++i) refs.push_back((*this)[i]);
  return refs;
}

std::vector<std::pair<std::string, Ref>> Ref::members() const {
  expect_object();
  std::vector<std::pair<std::string, Ref>> refs;
  refs.reserve(value_->members().size());
  for (const auto& [key, item] : value_->members())
    refs.emplace_back(key, Ref(item, where_, path_.empty() ? key : path_ + "." + key));
  return refs;
}

bool Ref::boolean() const {
  if (value_->type() != Type::boolean) fail_type("true or false");
  return value_->boolean();
}

int64_t Ref::integer() const {
  if (value_->type() != Type::integer) fail_type("an integer");
  if (value_->is_unsigned()) fail_type("an integer of 63 bits");
  return value_->integer();
}

int64_t Ref::integer(int64_t low, int64_t high) const {
  int64_t found = integer();
  if (found < low || found > high) fail_type("an integer from " + std::to_string(low) + " to " + std::to_string(high));
  return found;
}

double Ref::number() const {
  if (!value_->is_number()) fail_type("a number");
  return value_->real();
}

const std::string& Ref::string() const {
  if (value_->type() != Type::string) fail_type("a string");
  return value_->string();
}

void Ref::reject_unknown(std::initializer_list<std::string_view> known) const {
  expect_object();
  for (const auto& [key, item] : value_->members()) {
    bool found = false;
    for (std::string_view name : known) found = found || name == key;
    if (found) continue;
    const std::vector<std::string> near = near_names(key, names_of(known));
    fail("unknown key \"" + key + "\" (" + (near.empty() ? "known: " + joined(known) : "nearest: " + joined(near)) +
         ")");
  }
}

}  // namespace signalbox::json
