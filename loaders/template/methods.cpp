// Attributes of the builtin types: the methods of str, and what does not change a list, dict or tuple.
#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "base/unicode.h"
#include "base/utf8.h"
#include "loaders/template/runtime.h"

namespace signalbox::loaders::jinja {
namespace {

using Method = Value (*)(Runtime&, const Value& self, Args& args);

// Positional-only arguments, as most methods of str take them.
Bound positional(const char* name, const Args& args, std::initializer_list<const char*> names, size_t required = 0) {
  return Bound(name, args, names, required, false);
}

const Text* optional_text(const Bound& bound, size_t i) { return bound.given(i) ? &bound.text(i) : nullptr; }

// A range [start, end) of code points as str.find and friends take it, in bytes. False: outside the string.
bool clamp_range(const Text& text, const Bound& bound, size_t first, size_t& begin, size_t& end) {
  const auto n = static_cast<int64_t>(text.length);
  int64_t low = bound.given(first) ? bound.integer(first, 0) : 0;
  int64_t high = bound.given(first + 1) ? bound.integer(first + 1, n) : n;
  if (low < 0) low = std::max<int64_t>(low + n, 0);
  if (high < 0) high = std::max<int64_t>(high + n, 0);
  high = std::min(high, n);
  if (low > high) return false;
  begin = text.offset(static_cast<size_t>(low));
  end = text.offset(static_cast<size_t>(high));
  return true;
}

Value find_text(Runtime& rt, const Value& self, Args& args, const char* name, bool last, bool must) {
  const Bound bound = positional(name, args, {"sub", "start", "end"}, 1);
  const Text &text = self.text(), &wanted = bound.text(0);
  rt.budget.work(text.bytes.size());
  size_t begin, end, at = std::string::npos;
  if (clamp_range(text, bound, 1, begin, end) && wanted.bytes.size() <= end - begin) {
    const std::string_view bytes = std::string_view(text.bytes).substr(begin, end - begin);
    at = last ? bytes.rfind(wanted.bytes) : bytes.find(wanted.bytes);
  }
  if (at == std::string::npos) {
    if (must) throw Failure{"substring not found"};
    return Value::integer(-1);
  }
  return Value::integer(static_cast<int64_t>(text.index(begin + at)));
}

Value with_affix(Runtime& rt, const Value& self, Args& args, const char* name, bool prefix) {
  const Bound bound = positional(name, args, {"prefix", "start", "end"}, 1);
  const Text& text = self.text();
  size_t begin = 0, end = 0;
  const bool inside = clamp_range(text, bound, 1, begin, end);
  const std::string_view bytes = std::string_view(text.bytes).substr(begin, inside ? end - begin : 0);
  const auto matches = [&](const Value& affix) {
    rt.budget.step();
    if (!affix.is_string())
      throw Failure{std::string(name) + " first arg must be str or a tuple of str, not " + type_name(affix)};
    return inside && (prefix ? bytes.starts_with(affix.text().bytes) : bytes.ends_with(affix.text().bytes));
  };
  if (bound[0]->is(Kind::tuple)) {
    for (const Value& affix : bound[0]->list().items)
      if (matches(affix)) return Value::boolean(true);
    return Value::boolean(false);
  }
  if (bound[0]->is_undefined()) throw Failure{bound[0]->undefined_message()};
  return Value::boolean(matches(*bound[0]));
}

Value split_method(Runtime& rt, const Value& self, Args& args, const char* name, bool right) {
  const Bound bound(name, args, {"sep", "maxsplit"});
  const Text* separator = optional_text(bound, 0);
  const int64_t limit = bound.integer(1, -1);
  return rt.list(right ? split_right(rt, self.text(), separator, limit) : split(rt, self.text(), separator, limit));
}

Value partition(Runtime& rt, const Value& self, Args& args, const char* name, bool right) {
  const Bound bound = positional(name, args, {"sep"}, 1);
  const Text &text = self.text(), &separator = bound.text(0);
  if (separator.bytes.empty()) throw Failure{"empty separator"};
  rt.budget.work(text.bytes.size());
  const size_t at = right ? text.bytes.rfind(separator.bytes) : text.bytes.find(separator.bytes);
  const Value empty = rt.string("");
  if (at == std::string::npos) return right ? rt.tuple({empty, empty, self}) : rt.tuple({self, empty, empty});
  const size_t after = at + separator.bytes.size();
  return rt.tuple({rt.string(text, 0, at), rt.string(text, at, after), rt.string(text, after, text.bytes.size())});
}

Value strip_method(Runtime& rt, const Value& self, Args& args, const char* name, bool left, bool right) {
  const Bound bound = positional(name, args, {"chars"});
  return strip(rt, self.text(), optional_text(bound, 0), left, right);
}

Value pad_method(Runtime& rt, const Value& self, Args& args, const char* name, Align align) {
  const Bound bound = positional(name, args, {"width", "fillchar"}, 1);
  return pad(rt, self.text(), bound.integer(0, 0), bound.has(1) ? &bound.text(1) : nullptr, align);
}

Value no_arguments(const char* name, const Args& args, Value result) {
  positional(name, args, {});
  return result;
}

Value is_all(const Value& self, Args& args, const char* name, bool (*is)(char32_t)) {
  return no_arguments(name, args, Value::boolean(all_of(self.text(), is)));
}

bool text_is_title(const Text& text) {
  bool any = false, in_word = false;
  for (size_t pos = 0; pos < text.bytes.size();) {
    const char32_t c = next_code_point(text.bytes, pos);
    if (is_upper(c) || is_title(c)) {
      if (in_word) return false;
      in_word = any = true;
    } else if (is_lower(c)) {
      if (!in_word) return false;
      any = true;
    } else {
      in_word = false;
    }
  }
  return any;
}

Value remove_affix(Runtime& rt, const Value& self, Args& args, const char* name, bool prefix) {
  const Bound bound = positional(name, args, {"affix"}, 1);
  const Text &text = self.text(), &affix = bound.text(0);
  const size_t n = text.bytes.size(), k = affix.bytes.size();
  if (prefix && text.bytes.starts_with(affix.bytes)) return rt.string(text, k, n);
  if (!prefix && text.bytes.ends_with(affix.bytes)) return rt.string(text, 0, n - k);
  return self;
}

Value zfill(Runtime& rt, const Value& self, Args& args) {
  const Bound bound = positional("zfill", args, {"width"}, 1);
  const Text& text = self.text();
  const int64_t missing = bound.integer(0, 0) - static_cast<int64_t>(text.length);
  if (missing <= 0) return self;
  const size_t sign = !text.bytes.empty() && (text.bytes[0] == '-' || text.bytes[0] == '+');
  const Value zero = rt.string("0");
  const Value zeros = repeat(rt, zero.text(), missing);
  TextBuilder out(rt.budget);
  out.add(text, 0, sign);
  out.add(zeros.text());
  out.add(text, sign, text.bytes.size());
  return out.finish(text.markup);
}

Value expand_tabs(Runtime& rt, const Value& self, Args& args) {
  const Bound bound("expandtabs", args, {"tabsize"});
  const int64_t size = bound.integer(0, 8);
  const Text& text = self.text();
  rt.budget.work(text.bytes.size() * 8);
  TextBuilder out(rt.budget);
  int64_t column = 0;
  for (size_t at = 0; at < text.bytes.size();) {
    const size_t begin = at;
    const char32_t c = next_code_point(text.bytes, at);
    if (c == '\t') {
      const int64_t n = size > 0 ? size - column % size : 0;
      rt.budget.need(static_cast<uint64_t>(n));
      rt.budget.step(static_cast<uint64_t>(n) / 64);
      out.add(std::string(static_cast<size_t>(n), ' '), false);
      column += n;
      continue;
    }
    out.add(text, begin, at);
    column = c == '\n' || c == '\r' ? 0 : column + 1;
  }
  return out.finish(text.markup);
}

Value count_text(Runtime& rt, const Value& self, Args& args) {
  const Bound bound = positional("count", args, {"sub", "start", "end"}, 1);
  const Text &text = self.text(), &wanted = bound.text(0);
  rt.budget.work(text.bytes.size());
  size_t begin, end;
  int64_t n = 0;
  if (!clamp_range(text, bound, 1, begin, end)) return Value::integer(0);
  const std::string_view bytes = std::string_view(text.bytes).substr(begin, end - begin);
  if (wanted.bytes.empty()) return Value::integer(static_cast<int64_t>(count_code_points(bytes)) + 1);
  for (size_t at = bytes.find(wanted.bytes); at != bytes.npos; at = bytes.find(wanted.bytes, at + wanted.bytes.size()))
    ++n;
  return Value::integer(n);
}

Value join_method(Runtime& rt, const Value& self, Args& args) {
  const Bound bound = positional("join", args, {"iterable"}, 1);
  if (bound[0]->is_undefined()) return join(rt, self.text(), {});
  const auto parts = rt.collect(*bound[0]);
  for (size_t i = 0; i < parts.size(); ++i)
    if (!parts[i].is_string())
      throw Failure{"sequence item " + std::to_string(i) + ": expected str instance, " + type_name(parts[i]) +
                    " found"};
  return join(rt, self.text(), parts);
}

Value format_map(Runtime& rt, const Value& self, Args& args) {
  const Bound bound = positional("format_map", args, {"mapping"}, 1);
  if (!bound[0]->is(Kind::dict)) throw Failure{"format_map() wants a dict"};
  Args fields;
  for (const auto& [key, value] : bound[0]->dict().entries)
    if (key.is_string()) fields.named.emplace_back(key.text().bytes, value);
  return format_braces(rt, self.text(), fields);
}

#define METHOD [](Runtime & rt, const Value& self, Args& args) -> Value
#define PREDICATE [](Runtime&, const Value& self, Args& args) -> Value

const std::unordered_map<std::string_view, Method>& string_methods() {
  static const std::unordered_map<std::string_view, Method> table = {
      {"capitalize", METHOD{return no_arguments("capitalize", args, capitalize(rt, self.text()));
}
}  // namespace
, {"casefold", METHOD{return no_arguments("casefold", args, casefold(rt, self.text()));
}  // namespace signalbox::loaders::jinja
}
, {"center", METHOD{return pad_method(rt, self, args, "center", Align::center);
}
}
, {"count", count_text}, {"endswith", METHOD{return with_affix(rt, self, args, "endswith", false);
}
}
, {"expandtabs", expand_tabs}, {"find", METHOD{return find_text(rt, self, args, "find", false, false);
}
}
, {"format", METHOD{return format_braces(rt, self.text(), args);
}
}
, {"format_map", format_map}, {"index", METHOD{return find_text(rt, self, args, "index", false, true);
}
}
, {"isalnum", PREDICATE{return is_all(self, args, "isalnum", is_alnum);
}
}
, {"isalpha", PREDICATE{return is_all(self, args, "isalpha", is_alpha);
}
}
, {"isascii", PREDICATE{return no_arguments("isascii", args, Value::boolean(self.text().ascii()));
}
}
, {"isdecimal", PREDICATE{return is_all(self, args, "isdecimal", is_decimal);
}
}
, {"isdigit", PREDICATE{return is_all(self, args, "isdigit", is_digit);
}
}
, {"islower", PREDICATE{return no_arguments("islower", args, Value::boolean(text_is_lower(self.text())));
}
}
, {"isprintable", PREDICATE{const bool all = self.text().bytes.empty() || all_of(self.text(), is_printable);
return no_arguments("isprintable", args, Value::boolean(all));
}
}
, {"isspace", PREDICATE{return is_all(self, args, "isspace", is_space);
}
}
, {"istitle", PREDICATE{return no_arguments("istitle", args, Value::boolean(text_is_title(self.text())));
}
}
, {"isupper", PREDICATE{return no_arguments("isupper", args, Value::boolean(text_is_upper(self.text())));
}
}
, {"join", join_method}, {"ljust", METHOD{return pad_method(rt, self, args, "ljust", Align::left);
}
}
, {"lower", METHOD{return no_arguments("lower", args, lower(rt, self.text()));
}
}
, {"lstrip", METHOD{return strip_method(rt, self, args, "lstrip", true, false);
}
}
, {"partition", METHOD{return partition(rt, self, args, "partition", false);
}
}
, {"removeprefix", METHOD{return remove_affix(rt, self, args, "removeprefix", true);
}
}
, {"removesuffix", METHOD{return remove_affix(rt, self, args, "removesuffix", false);
}
}
, {"replace", METHOD{const Bound bound = positional("replace", args, {"old", "new", "count"}, 2);
return replace(rt, self.text(), bound.text(0), bound.text(1), bound.integer(2, -1));
}
}
, {"rfind", METHOD{return find_text(rt, self, args, "rfind", true, false);
}
}
, {"rindex", METHOD{return find_text(rt, self, args, "rindex", true, true);
}
}
, {"rjust", METHOD{return pad_method(rt, self, args, "rjust", Align::right);
}
}
, {"rpartition", METHOD{return partition(rt, self, args, "rpartition", true);
}
}
, {"rsplit", METHOD{return split_method(rt, self, args, "rsplit", true);
}
}
, {"rstrip", METHOD{return strip_method(rt, self, args, "rstrip", false, true);
}
}
, {"split", METHOD{return split_method(rt, self, args, "split", false);
}
}
, {"splitlines", METHOD{const Bound bound("splitlines", args, {"keepends"});
return rt.list(split_lines(rt, self.text(), bound.flag(0, false)));
}
}
, {"startswith", METHOD{return with_affix(rt, self, args, "startswith", true);
}
}
, {"strip", METHOD{return strip_method(rt, self, args, "strip", true, true);
}
}
, {"swapcase", METHOD{return no_arguments("swapcase", args, swapcase(rt, self.text()));
}
}
, {"title", METHOD{return no_arguments("title", args, title(rt, self.text()));
}
}
, {"upper", METHOD{return no_arguments("upper", args, upper(rt, self.text()));
}
}
, {"zfill", zfill},
}
;
return table;
}

Value make_view(Runtime& rt, const Value& self, View::Type type) {
  auto view = std::make_shared<View>();
  const auto& entries = self.dict().entries;
  rt.budget.step(entries.size() / 4);
  view->type = type;
  view->dict = self;
  view->held = std::make_unique<Held>(&rt.budget, 96 + entries.size() * sizeof(Value));
  view->items.reserve(entries.size());
  for (const auto& [key, value] : entries)
    view->items.push_back(type == View::Type::keys ? key : type == View::Type::values ? value : rt.tuple({key, value}));
  view->depth = nested(self.depth() + 2);
  return Value::object(Kind::view, std::move(view));
}

Value from_keys(Runtime& rt, const Value&, Args& args) {
  const Bound bound = positional("fromkeys", args, {"iterable", "value"}, 1);
  std::vector<Dict::Entry> entries;
  for (const Value& key : rt.collect(*bound[0])) entries.emplace_back(key, bound.has(1) ? *bound[1] : Value::none());
  return rt.dict(std::move(entries));
}

const std::unordered_map<std::string_view, Method>& dict_methods() {
  static const std::unordered_map<std::string_view, Method> table = {
      {"copy", PREDICATE{return no_arguments("copy", args, self);
}
}
, {"fromkeys", from_keys}, {"get", METHOD{const Bound bound = positional("get", args, {"key", "default"}, 1);
if (const Value* found = self.dict().find(rt.budget, *bound[0])) return *found;
return bound.has(1) ? *bound[1] : Value::none();
}
}
, {"items", METHOD{return no_arguments("items", args, make_view(rt, self, View::Type::items));
}
}
, {"keys", METHOD{return no_arguments("keys", args, make_view(rt, self, View::Type::keys));
}
}
, {"values", METHOD{return no_arguments("values", args, make_view(rt, self, View::Type::values));
}
}
,
}
;
return table;
}

Value index_of(Runtime& rt, const Value& self, Args& args) {
  const Bound bound = positional("index", args, {"value", "start", "stop"}, 1);
  const auto& items = self.list().items;
  const auto n = static_cast<int64_t>(items.size());
  int64_t begin = bound.integer(1, 0), end = bound.integer(2, n);
  if (begin < 0) begin = std::max<int64_t>(begin + n, 0);
  if (end < 0) end = std::max<int64_t>(end + n, 0);
  for (int64_t i = begin; i < std::min(end, n); ++i) {
    const Value& item = items[static_cast<size_t>(i)];
    if (identical(item, *bound[0]) || rt.equal(item, *bound[0])) return Value::integer(i);
  }
  throw Failure{"index(): the value is not in the list"};
}

Value count_items(Runtime& rt, const Value& self, Args& args) {
  const Bound bound = positional("count", args, {"value"}, 1);
  int64_t n = 0;
  for (const Value& item : self.list().items) n += identical(item, *bound[0]) || rt.equal(item, *bound[0]);
  return Value::integer(n);
}

#undef METHOD
#undef PREDICATE

bool one_of(std::string_view name, std::initializer_list<const char*> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

Value unsafe(const Value& value, std::string_view name) {
  return Value::undefined("access to attribute '" + std::string(name) + "' of '" + type_name(value) +
                          "' object is unsafe");
}

Value unsupported(Runtime& rt, const Value& value, const std::string& name) {
  const std::string what = std::string(type_name(value)) + "." + name;
  return rt.function(name, [what](Runtime&, Args&) -> Value { throw Failure{what + " is not supported"}; });
}

Value bind_method(Runtime& rt, const Value& self, const std::string& name, Method method) {
  return rt.function(
      name, [self, method](Runtime& r, Args& args) { return method(r, self, args); }, self.depth());
}

std::optional<Value> number_attribute(Runtime& rt, const Value& value, const std::string& name) {
  if (name == "real") return value.is_integral() ? Value::integer(value.integer()) : value;
  if (name == "imag") return value.is_integral() ? Value::integer(0) : Value::real(0);
  if (value.is_integral()) {
    if (name == "numerator") return Value::integer(value.integer());
    if (name == "denominator") return Value::integer(1);
    if (one_of(name, {"as_integer_ratio", "bit_count", "bit_length", "conjugate", "from_bytes", "to_bytes"}))
      return unsupported(rt, value, name);
  } else {
    if (name == "is_integer") {
      const double d = value.real();
      const bool whole = std::isfinite(d) && std::floor(d) == d;
      return rt.function(
          name, [whole](Runtime&, Args& args) { return no_arguments("is_integer", args, Value::boolean(whole)); });
    }
    if (one_of(name, {"as_integer_ratio", "conjugate", "fromhex", "hex"})) return unsupported(rt, value, name);
  }
  return std::nullopt;
}

}  // namespace

std::optional<Value> builtin_attribute(Runtime& rt, const Value& value, const std::string& name) {
  rt.budget.step();
  if (name.starts_with("__") && name.ends_with("__")) return std::nullopt;
  switch (value.kind()) {
    case Kind::string: {
      const auto method = string_methods().find(name);
      if (method != string_methods().end()) return bind_method(rt, value, name, method->second);
      if (one_of(name, {"encode", "isidentifier", "isnumeric", "maketrans", "translate"}))
        return unsupported(rt, value, name);
      if (value.text().markup && one_of(name, {"escape", "striptags", "unescape"})) return unsupported(rt, value, name);
      return std::nullopt;
    }
    case Kind::list:
      if (one_of(name, {"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"}))
        return unsafe(value, name);
      if (name == "copy") return bind_method(rt, value, name, [](Runtime&, const Value& self, Args&) { return self; });
      [[fallthrough]];
    case Kind::tuple:
      if (name == "index") return bind_method(rt, value, name, index_of);
      if (name == "count") return bind_method(rt, value, name, count_items);
      if (value.list().group && name == "grouper") return value.list().items[0];
      if (value.list().group && name == "list") return value.list().items[1];
      return std::nullopt;
    case Kind::dict: {
      if (one_of(name, {"clear", "pop", "popitem", "setdefault", "update"})) return unsafe(value, name);
      const auto method = dict_methods().find(name);
      if (method != dict_methods().end()) return bind_method(rt, value, name, method->second);
      return std::nullopt;
    }
    case Kind::view:
      if (one_of(name, {"isdisjoint", "mapping"})) return unsupported(rt, value, name);
      return std::nullopt;
    case Kind::range:
      if (name == "start") return Value::integer(value.range().start);
      if (name == "stop") return Value::integer(value.range().stop);
      if (name == "step") return Value::integer(value.range().step);
      if (one_of(name, {"count", "index"})) return unsupported(rt, value, name);
      return std::nullopt;
    case Kind::boolean:
    case Kind::integer:
    case Kind::real: return number_attribute(rt, value, name);
    case Kind::generator:
      if (one_of(name, {"close", "send", "throw"})) return unsupported(rt, value, name);
      return std::nullopt;
    case Kind::function:
      if (value.function().is_macro)
        if (const Value* found = value.function().macro_attributes.dict().find(name)) return *found;
      return std::nullopt;
    default: return std::nullopt;
  }
}

}  // namespace signalbox::loaders::jinja
