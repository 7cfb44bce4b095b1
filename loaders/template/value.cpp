#include "loaders/template/value.h"

#include <cmath>
#include <functional>

#include "loaders/template/runtime.h"

namespace signalbox::loaders::jinja {
namespace {

struct UndefinedInfo : Object {
  explicit UndefinedInfo(std::string m) : message(std::move(m)) {}
  std::string message;
};

constexpr size_t few_entries = 8;

int depth_of(const std::vector<Value>& items) {
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, item.depth());
  return nested(depth + 1);
}

bool equal_items(Budget& budget, const std::vector<Value>& a, const std::vector<Value>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i)
    if (!identical(a[i], b[i]) && !equal(budget, a[i], b[i])) return false;
  return true;
}

bool equal_ranges(const Range& a, const Range& b) {
  if (a.length() != b.length()) return false;
  if (a.length() == 0) return true;
  return a.start == b.start && (a.length() == 1 || a.step == b.step);
}

// An integer against a double, exactly: a double holds 53 bits, an int64 more.
int compare_mixed(int64_t i, double d) {
  if (d >= 9223372036854775808.0) return -1;
  if (d < -9223372036854775808.0) return 1;
  const double whole = std::floor(d);
  const auto w = static_cast<int64_t>(whole);
  if (i != w) return i < w ? -1 : 1;
  return whole < d ? -1 : 0;
}

int compare_numbers(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) return a.integer() < b.integer() ? -1 : a.integer() > b.integer() ? 1 : 0;
  if (std::isnan(a.number()) || std::isnan(b.number())) return 2;
  if (a.is_integral()) return compare_mixed(a.integer(), b.real());
  if (b.is_integral()) return -compare_mixed(b.integer(), a.real());
  return a.real() < b.real() ? -1 : a.real() > b.real() ? 1 : 0;
}

size_t mix(size_t seed, size_t value) { return seed * 1000003u ^ (value + 0x9e3779b97f4a7c15u); }

}  // namespace

int nested(int depth) {
  if (depth > 200) throw Failure{"data nested deeper than 200 levels"};
  return depth;
}

Value Value::undefined(std::string message) {
  return object(Kind::undefined, std::make_shared<UndefinedInfo>(std::move(message)));
}

const std::string& Value::undefined_message() const {
  static const std::string plain = "a value is undefined";
  return object_ ? static_cast<const UndefinedInfo&>(*object_).message : plain;
}

const Text& Value::text() const { return static_cast<const Text&>(*object_); }
const List& Value::list() const { return static_cast<const List&>(*object_); }
const Dict& Value::dict() const { return static_cast<const Dict&>(*object_); }
const View& Value::view() const { return static_cast<const View&>(*object_); }
const Range& Value::range() const { return static_cast<const Range&>(*object_); }
const Generator& Value::generator() const { return static_cast<const Generator&>(*object_); }
const Function& Value::function() const { return static_cast<const Function&>(*object_); }
const HostObject& Value::host() const { return static_cast<const HostObject&>(*object_); }

List::List(Budget* budget, std::vector<Value> items_in)
    : items(std::move(items_in)), held(budget, 64 + items.capacity() * sizeof(Value)) {
  depth = depth_of(items);
}

Dict::Dict(Budget* budget, std::vector<Entry> entries_in)
    : held(budget, 128 + entries_in.size() * (sizeof(Entry) + (entries_in.size() > few_entries ? 48 : 0))) {
  // Fewer than a handful: a plain search is faster than an index. JSON objects have distinct keys already, yet literals
  // and dict() need not.
  Budget unlimited(UINT64_MAX, UINT64_MAX);
  Budget& spend = budget ? *budget : unlimited;
  const bool indexed = entries_in.size() > few_entries;
  entries.reserve(entries_in.size());
  int deepest = 0;
  for (Entry& entry : entries_in) {
    spend.step();
    deepest = std::max({deepest, entry.first.depth(), entry.second.depth()});
    const size_t key_hash = hash(spend, entry.first);  // fails for keys that Python cannot hash
    Value* known = nullptr;
    if (indexed) {
      auto [at, end] = index.equal_range(key_hash);
      for (; at != end && !known; ++at)
        if (equal(spend, entries[at->second].first, entry.first)) known = &entries[at->second].second;
    } else {
      for (Entry& old : entries)
        if (equal(spend, old.first, entry.first)) known = &old.second;
    }
    if (known) {
      *known = std::move(entry.second);
      continue;
    }
    if (indexed) index.emplace(key_hash, entries.size());
    entries.push_back(std::move(entry));
  }
  depth = nested(deepest + 1);
}

const Value* Dict::find(Budget& budget, const Value& key) const {
  const size_t key_hash = hash(budget, key);
  if (index.empty()) {
    for (const Entry& entry : entries)
      if (equal(budget, entry.first, key)) return &entry.second;
    return nullptr;
  }
  auto [at, end] = index.equal_range(key_hash);
  for (; at != end; ++at)
    if (equal(budget, entries[at->second].first, key)) return &entries[at->second].second;
  return nullptr;
}

const Value* Dict::find(std::string_view key) const {
  if (index.empty()) {
    for (const Entry& entry : entries)
      if (entry.first.is_string() && entry.first.text().bytes == key) return &entry.second;
    return nullptr;
  }
  auto [at, end] = index.equal_range(std::hash<std::string_view>()(key));
  for (; at != end; ++at) {
    const Entry& entry = entries[at->second];
    if (entry.first.is_string() && entry.first.text().bytes == key) return &entry.second;
  }
  return nullptr;
}

int64_t Range::length() const {
  const auto span = [](int64_t from, int64_t to, uint64_t by) {
    return from < to ? (static_cast<uint64_t>(to) - static_cast<uint64_t>(from) - 1) / by + 1 : 0;
  };
  const uint64_t n = step > 0 ? span(start, stop, static_cast<uint64_t>(step))
                              : span(stop, start, uint64_t{0} - static_cast<uint64_t>(step));
  return static_cast<int64_t>(n);
}

const char* type_name(const Value& value) {
  switch (value.kind()) {
    case Kind::undefined: return "Undefined";
    case Kind::none: return "None";
    case Kind::boolean: return "bool";
    case Kind::integer: return "int";
    case Kind::real: return "float";
    case Kind::string: return "str";
    case Kind::list: return "list";
    case Kind::tuple: return "tuple";
    case Kind::dict: return "dict";
    case Kind::view:
      return value.view().type == View::Type::items  ? "dict_items"
             : value.view().type == View::Type::keys ? "dict_keys"
                                                     : "dict_values";
    case Kind::range: return "range";
    case Kind::generator: return "generator";
    case Kind::function: return "function";
    case Kind::object: return value.host().type_name();
  }
  return "object";
}

bool truth(const Value& value) {
  switch (value.kind()) {
    case Kind::undefined:
    case Kind::none: return false;
    case Kind::boolean:
    case Kind::integer: return value.integer() != 0;
    case Kind::real: return value.real() != 0;
    case Kind::string: return !value.text().bytes.empty();
    case Kind::list:
    case Kind::tuple: return !value.list().items.empty();
    case Kind::dict: return !value.dict().entries.empty();
    case Kind::view: return !value.view().items.empty();
    case Kind::range: return value.range().length() != 0;
    case Kind::object: return value.host().truth();
    case Kind::generator:
    case Kind::function: return true;
  }
  return true;
}

bool identical(const Value& a, const Value& b) {
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::none: return true;
    case Kind::boolean:
    case Kind::integer: return a.integer() == b.integer();
    case Kind::real: return a.real() == b.real();
    case Kind::string: return a.pointer() == b.pointer() || a.text().bytes == b.text().bytes;
    default: return a.pointer() == b.pointer();
  }
}

bool equal(Budget& budget, const Value& a, const Value& b) {
  budget.step();
  if (a.is_number() && b.is_number()) return compare_numbers(a, b) == 0;
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::undefined:
    case Kind::none: return true;
    case Kind::string:
      if (a.pointer() == b.pointer()) return true;
      budget.work(std::min(a.text().bytes.size(), b.text().bytes.size()));
      return a.text().bytes == b.text().bytes;
    case Kind::list:
    case Kind::tuple: return a.pointer() == b.pointer() || equal_items(budget, a.list().items, b.list().items);
    case Kind::dict: {
      if (a.pointer() == b.pointer()) return true;
      const Dict &x = a.dict(), &y = b.dict();
      if (x.entries.size() != y.entries.size()) return false;
      for (const auto& [key, value] : x.entries) {
        const Value* other = y.find(budget, key);
        if (!other || (!identical(value, *other) && !equal(budget, value, *other))) return false;
      }
      return true;
    }
    case Kind::range: return equal_ranges(a.range(), b.range());
    default: return a.pointer() == b.pointer();
  }
}

int compare(Budget& budget, const Value& a, const Value& b, const char* op) {
  budget.step();
  if (a.is_number() && b.is_number()) return compare_numbers(a, b);
  if (a.is_undefined()) throw Failure{a.undefined_message()};
  if (b.is_undefined()) throw Failure{b.undefined_message()};
  if (a.is_string() && b.is_string()) {  // UTF-8 sorts as its code points do
    budget.work(std::min(a.text().bytes.size(), b.text().bytes.size()));
    const int order = a.text().bytes.compare(b.text().bytes);
    return order < 0 ? -1 : order > 0 ? 1 : 0;
  }
  if (a.is_sequence() && a.kind() == b.kind()) {
    const auto &x = a.list().items, &y = b.list().items;
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i)
      if (!identical(x[i], y[i]) && !equal(budget, x[i], y[i])) return compare(budget, x[i], y[i], op);
    return x.size() < y.size() ? -1 : x.size() > y.size() ? 1 : 0;
  }
  throw Failure{std::string("'") + op + "' not supported between instances of '" + type_name(a) + "' and '" +
                type_name(b) + "'"};
}

size_t hash(Budget& budget, const Value& value) {
  budget.step();
  switch (value.kind()) {
    case Kind::undefined: return 1;
    case Kind::none: return 2;
    case Kind::boolean:
    case Kind::integer: return std::hash<int64_t>()(value.integer());
    case Kind::real: {
      const double d = value.real();
      if (d == std::floor(d) && std::abs(d) < 9e18) return std::hash<int64_t>()(static_cast<int64_t>(d));
      return std::hash<double>()(d);
    }
    case Kind::string: budget.work(value.text().bytes.size()); return std::hash<std::string_view>()(value.text().bytes);
    case Kind::tuple: {
      size_t h = value.list().items.size();
      for (const Value& item : value.list().items) h = mix(h, hash(budget, item));
      return h;
    }
    case Kind::range: return static_cast<size_t>(value.range().length());
    case Kind::list:
    case Kind::dict:
    case Kind::view: throw Failure{std::string("unhashable type: '") + type_name(value) + "'"};
    default: return std::hash<const void*>()(value.pointer());
  }
}

}  // namespace signalbox::loaders::jinja
