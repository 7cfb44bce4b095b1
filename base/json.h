// Strict JSON: the only reader and writer of JSON in the product.
//
// Strict means: duplicate keys, trailing bytes, comments, invalid UTF-8, numbers that overflow a double and nesting
// deeper than 128 are errors. Integers stay integers (1 is not 1.0), so that a size can refuse a fraction; one that 64
// bits cannot hold is an error to whoever asks for an integer.
#pragma once
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"

namespace signalbox::json {

enum class Type { null, boolean, integer, real, string, array, object };

// "null", "a boolean", "an integer", ... for error messages.
const char* type_name(Type type);

// A JSON value. Objects keep the order of their keys; lookup in a large object goes through an index.
class Value {
 public:
  using Member = std::pair<std::string, Value>;

  Value() = default;        // null
  Value(std::nullptr_t) {}  // NOLINT: implicit by intent, as are the next ones
  Value(bool value) : type_(Type::boolean), boolean_(value) {}
  Value(int value) : type_(Type::integer), integer_(value) {}
  Value(int64_t value) : type_(Type::integer), integer_(value) {}
  Value(uint64_t value);  // above INT64_MAX: kept exactly, is_unsigned()
  Value(double value) : type_(Type::real), real_(value) {}
  Value(std::string value) : type_(Type::string), string_(std::move(value)) {}
  Value(std::string_view value) : Value(std::string(value)) {}
  Value(const char* value) : Value(std::string(value)) {}
  // An integer that 64 bits cannot hold: of type real, printed as its digits.
  static Value wide_integer(std::string digits, double value);
  static Value array() {
    Value v;
    v.type_ = Type::array;
    return v;
  }
  static Value object() {
    Value v;
    v.type_ = Type::object;
    return v;
  }

  Type type() const { return type_; }
  bool is_null() const { return type_ == Type::null; }
  bool is_string() const { return type_ == Type::string; }
  bool is_number() const { return type_ == Type::integer || type_ == Type::real; }
  bool is_unsigned() const { return unsigned_; }  // an integer in (INT64_MAX, UINT64_MAX]

  bool is_wide() const { return type_ == Type::real && !string_.empty(); }

  // Unchecked access; the caller has looked at type(). For checked access with messages use Ref.
  bool boolean() const { return boolean_; }
  int64_t integer() const { return integer_; }                // with is_unsigned(): the bits of a uint64_t
  double real() const;                                        // of an integer or a real
  const std::string& string() const { return string_; }       // of a string; of a wide integer its digits
  const std::vector<Value>& items() const { return items_; }  // array
  std::vector<Value>& items() { return items_; }
  const std::vector<Member>& members() const { return members_; }  // object, in file order
  const Value* find(std::string_view key) const;                   // object: the member, or nullptr

  Value& push_back(Value value);                     // array: append, returns this
  Value& set(std::string key, Value value);          // object: add or replace, returns this
  void append_member(std::string key, Value value);  // object: add a key known to be new

  bool operator==(const Value& other) const;  // 1 and 1.0 differ; objects compare without order

 private:
  struct Index;
  Type type_ = Type::null;
  bool boolean_ = false, unsigned_ = false;
  int64_t integer_ = 0;
  double real_ = 0;
  std::string string_;
  std::vector<Value> items_;
  std::vector<Member> members_;
  mutable std::shared_ptr<const Index> index_;  // built on the first lookup in an object of many members
};

// Parses one document. `where` (a file name, "file:line") starts every error message. Throws Error.
Value parse(std::string_view text, const std::string& where);

// Reads and parses a whole regular file of at most `max_bytes`. Throws Error naming the file.
Value parse_file(const std::filesystem::path& file, uint64_t max_bytes = uint64_t{1} << 30);

// Serialises without spaces (indent < 0) or with `indent` spaces a level. Reals print as the shortest text that reads
// back to the same double and always hold '.', 'e' or are whole as "1.0"; NaN and infinity print as null (JSON has
// none). Non-ASCII text stays as UTF-8.
std::string dump(const Value& value, int indent = -1);

// A value together with its path, for checked reading: every accessor throws an Error such as
// `config.json: rope_scaling.factor: expected a number, found "x"`.
class Ref {
 public:
  Ref(const Value& value, std::string where, std::string path = "")
      : value_(&value), where_(std::move(where)), path_(std::move(path)) {}

  const Value& value() const { return *value_; }
  const std::string& where() const { return where_; }
  const std::string& path() const { return path_; }
  [[noreturn]] void fail(const std::string& reason) const;         // Error at this path
  [[noreturn]] void fail_type(const std::string& expected) const;  // "expected X, found Y"

  bool is_null() const { return value_->is_null(); }
  Ref at(std::string_view key) const;                        // object member that must be there (null counts as there)
  std::optional<Ref> find(std::string_view key) const;       // absent and null both give nullopt
  Ref operator[](size_t index) const;                        // array item
  size_t length() const;                                     // of an array
  std::vector<Ref> items() const;                            // of an array
  std::vector<std::pair<std::string, Ref>> members() const;  // of an object

  bool boolean() const;
  int64_t integer() const;                                                          // any integer that fits int64
  int64_t integer(int64_t low, int64_t high) const;                                 // within [low, high]
  int64_t size(int64_t high = int64_t{1} << 40) const { return integer(0, high); }  // a count: whole, not negative
  double number() const;                                                            // integer or real, finite
  const std::string& string() const;
  void expect_object() const;
  void expect_array() const;

  // Refuses members that are not in `known`: unknown keys in our own files are errors.
  void reject_unknown(std::initializer_list<std::string_view> known) const;

 private:
  const Value* value_;
  std::string where_, path_;
};

}  // namespace signalbox::json
