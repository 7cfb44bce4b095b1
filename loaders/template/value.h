// The values a template computes with: Python's, as far as templates can tell.
//
// Strings are immutable UTF-8 with code-point semantics, and every string knows which of its bytes came from the
// conversation rather than from the template (see Text::content), through every operation. Containers are immutable.
// Everything that a render allocates is charged to its Budget, so that a hostile template ends with an error.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::loaders::jinja {

// Why a render stops. The interpreter adds the line.
struct Failure {
  std::string message;
};

// What one render may use. Steps bound time, bytes bound live memory, levels bound nesting of calls.
class Budget {
 public:
  Budget(uint64_t steps, uint64_t bytes) : max_steps_(steps), max_bytes_(bytes), steps_left_(steps) {}
  Budget(const Budget&) = delete;
  Budget& operator=(const Budget&) = delete;

  void step(uint64_t n = 1) {
    if (n > steps_left_) fail_steps();
    steps_left_ -= n;
  }
  void work(uint64_t bytes) { step(bytes / 64); }  // work over a string of so many bytes
  void hold(uint64_t bytes) {
    if (bytes > max_bytes_ - held_) fail_bytes();
    held_ += bytes;
  }
  void release(uint64_t bytes) { held_ -= bytes; }
  void need(uint64_t bytes) const {  // fails early, before an allocation of that size is tried
    if (bytes > max_bytes_ - held_) fail_bytes();
  }

 private:
  [[noreturn]] void fail_steps() const;
  [[noreturn]] void fail_bytes() const;
  uint64_t max_steps_, max_bytes_, steps_left_, held_ = 0;
};

// Memory held from a budget for as long as an object lives. Constants of a template hold from none.
class Held {
 public:
  Held() = default;
  Held(Budget* budget, uint64_t bytes) : budget_(budget), bytes_(bytes) {
    if (budget_) budget_->hold(bytes_);
  }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;
  ~Held() {
    if (budget_) budget_->release(bytes_);
  }

 private:
  Budget* budget_ = nullptr;
  uint64_t bytes_ = 0;
};

enum class Kind : uint8_t {
  undefined,
  none,
  boolean,
  integer,
  real,
  string,
  list,
  tuple,
  dict,
  view,
  range,
  generator,
  function,
  object,
};

// What a Value can point to. `depth` is the nesting below it; bounded, so that destruction and printing may recurse.
struct Object {
  virtual ~Object() = default;
  int depth = 0;
};

struct Text;
struct List;
struct Dict;
struct View;
struct Range;
struct Generator;
struct Function;
struct HostObject;

class Value {
 public:
  Value() = default;  // undefined, without a name
  static Value undefined(std::string message);
  static Value none() { return Value(Kind::none); }
  static Value boolean(bool b) {
    Value v(Kind::boolean);
    v.integer_ = b;
    return v;
  }
  static Value integer(int64_t i) {
    Value v(Kind::integer);
    v.integer_ = i;
    return v;
  }
  static Value real(double d) {
    Value v(Kind::real);
    v.real_ = d;
    return v;
  }
  static Value object(Kind kind, std::shared_ptr<const Object> object) {
    Value v(kind);
    v.object_ = std::move(object);
    return v;
  }

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_undefined() const { return kind_ == Kind::undefined; }
  bool is_none() const { return kind_ == Kind::none; }
  bool is_string() const { return kind_ == Kind::string; }
  bool is_integral() const { return kind_ == Kind::integer || kind_ == Kind::boolean; }  // bool is an int in Python
  bool is_number() const { return is_integral() || kind_ == Kind::real; }
  bool is_sequence() const { return kind_ == Kind::list || kind_ == Kind::tuple; }

  bool boolean() const { return integer_ != 0; }
  int64_t integer() const { return integer_; }  // of an integer or a boolean
  double real() const { return real_; }
  double number() const { return kind_ == Kind::real ? real_ : static_cast<double>(integer_); }
  const Text& text() const;
  const List& list() const;  // of a list or a tuple
  const Dict& dict() const;
  const View& view() const;
  const Range& range() const;
  const Generator& generator() const;
  const Function& function() const;
  const HostObject& host() const;
  const Object* pointer() const { return object_.get(); }
  const std::shared_ptr<const Object>& shared() const { return object_; }
  const std::string& undefined_message() const;
  int depth() const { return object_ ? object_->depth : 0; }

 private:
  explicit Value(Kind kind) : kind_(kind) {}
  Kind kind_ = Kind::undefined;
  union {
    int64_t integer_ = 0;
    double real_;
  };
  std::shared_ptr<const Object> object_;
};

// Half-open range of bytes (of code points in results handed out).
struct Span {
  size_t begin = 0, end = 0;
};

// An immutable string.
struct Text : Object {
  Text(Budget* budget, std::string bytes, std::vector<Span> content, bool markup);
  std::string bytes;          // valid UTF-8
  std::vector<Span> content;  // bytes that came from the conversation: sorted, disjoint, not adjacent
  size_t length;              // code points
  bool markup;                // made by |safe or |escape: `+` escapes the other side
  Held held;

  bool ascii() const { return length == bytes.size(); }
  size_t offset(size_t index) const;  // byte offset of a code point index in 0…length
  size_t index(size_t offset) const;  // and back
  bool has_content() const { return !content.empty(); }
  bool is_content(size_t offset) const;  // whether that byte came from the conversation
};

// Builds strings and keeps account of what came from the conversation.
class TextBuilder {
 public:
  explicit TextBuilder(Budget& budget) : budget_(&budget) {}
  TextBuilder(const TextBuilder&) = delete;
  TextBuilder& operator=(const TextBuilder&) = delete;
  ~TextBuilder() { budget_->release(held_); }

  void add(std::string_view bytes, bool content = false);
  void add(const Text& text) { add(text, 0, text.bytes.size()); }
  void add(const Text& text, size_t begin, size_t end);  // a range of bytes
  void add_code_point(char32_t c, bool content = false);
  size_t size() const { return bytes_.size(); }
  Value finish(bool markup = false);  // leaves the builder empty
  const std::string& bytes() const { return bytes_; }
  const std::vector<Span>& content() const { return content_; }

 private:
  void reserve(size_t extra);
  void mark(size_t begin, size_t end);
  Budget* budget_;
  uint64_t held_ = 0;
  std::string bytes_;
  std::vector<Span> content_;
};

struct List : Object {
  List(Budget* budget, std::vector<Value> items);
  std::vector<Value> items;
  bool group = false;  // a result of |groupby: .grouper and .list name its two items
  Held held;
};

// A dict in order of insertion.
struct Dict : Object {
  using Entry = std::pair<Value, Value>;
  Dict(Budget* budget, std::vector<Entry> entries);  // a later entry of an equal key replaces the value of the first
  std::vector<Entry> entries;
  std::unordered_multimap<size_t, size_t> index;  // hash of key -> entry, for more than a few entries
  Held held;

  const Value* find(Budget& budget, const Value& key) const;
  const Value* find(std::string_view key) const;
};

// items(), keys() or values() of a dict.
struct View : Object {
  enum class Type { items, keys, values };
  Type type = Type::items;
  Value dict;
  std::vector<Value> items;
  std::unique_ptr<Held> held;
};

struct Range : Object {
  int64_t start = 0, stop = 0, step = 1;
  int64_t length() const;
  int64_t at(int64_t index) const { return start + index * step; }
};

class Iterator {
 public:
  virtual ~Iterator() = default;
  virtual bool next(Value& out) = 0;
};

// A lazy sequence that can be walked once.
struct Generator : Object {
  std::unique_ptr<Iterator> source;
};

// Results of comparison; Python raises for values without an order.
const char* type_name(const Value& value);  // Python's name of the type
bool truth(const Value& value);
bool identical(const Value& a, const Value& b);  // `is`
bool equal(Budget& budget, const Value& a, const Value& b);
int compare(Budget& budget, const Value& a, const Value& b, const char* op);  // <0, 0, >0; 2 = unordered (NaN)
size_t hash(Budget& budget, const Value& value);                              // fails for what Python cannot hash

// Fails when nesting gets deeper than any sensible data.
int nested(int depth);

}  // namespace signalbox::loaders::jinja
