// Filters on single values: strings and numbers.
#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <unordered_map>

#include "base/text.h"
#include "base/unicode.h"
#include "base/utf8.h"
#include "loaders/template/runtime.h"

namespace signalbox::loaders::jinja {
namespace {

const Text& must_be_string(const Value& value, const char* filter) {
  if (value.is_undefined()) throw Failure{value.undefined_message()};
  if (!value.is_string()) throw Failure{std::string(filter) + ": expected a string, found " + type_name(value)};
  return value.text();
}

Value filter_abs(Runtime& rt, const Value& value, Args& args) {
  Bound("abs", args, {});
  if (value.is(Kind::real)) return Value::real(std::abs(value.real()));
  const Value number = plus(rt, value);
  return number.integer() < 0 ? negate(rt, number) : number;
}

Value filter_attr(Runtime& rt, const Value& value, Args& args) {
  const Bound bound("attr", args, {"name"}, 1);
  const std::string& name = bound.text(0).bytes;
  if (value.is_undefined()) throw Failure{value.undefined_message()};
  if (auto own = rt.own_attribute(value, name)) return *own;
  return Value::undefined(std::string("'") + type_name(value) + " object' has no attribute '" + shorten(name) + "'");
}

Value filter_default(Runtime& rt, const Value& value, Args& args) {
  const Bound bound("default", args, {"default_value", "boolean"});
  if (value.is_undefined() || (bound.flag(1, false) && !truth(value))) return bound.has(0) ? *bound[0] : rt.string("");
  return value;
}

Value filter_center(Runtime& rt, const Value& value, Args& args) {
  const Bound bound("center", args, {"width"});
  return pad(rt, rt.str(value).text(), bound.integer(0, 80), nullptr, Align::center);
}

std::optional<double> parse_real(const Text& text);

Value filter_file_size(Runtime& rt, const Value& value, Args& args) {
  const Bound bound("filesizeformat", args, {"binary"});
  const bool binary = bound.flag(0, false);
  const auto read = value.is_string() ? parse_real(value.text()) : std::nullopt;
  if (!value.is_number() && !read) throw Failure{"filesizeformat: expected a number"};
  const double bytes = read ? *read : value.number();
  const double base = binary ? 1024 : 1000;
  if (bytes == 1) return rt.string("1 Byte");
  if (!(std::abs(bytes) < 9e18)) throw Failure{"filesizeformat: a number does not fit a 64-bit integer"};
  if (bytes < base) return rt.string(std::to_string(static_cast<int64_t>(bytes)) + " Bytes");
  static constexpr const char* decimal[] = {"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"};
  static constexpr const char* powers[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"};
  double unit = base;
  for (size_t i = 0; i < 8; ++i) {
    unit *= base;
    if (bytes < unit || i == 7) {
      char out[64];
      std::snprintf(out, sizeof out, "%.1f %s", base * bytes / unit, binary ? powers[i] : decimal[i]);
      return rt.string(out);
    }
  }
  return Value::none();
}

// float(): white space around, underscores between digits, inf and nan by name.
std::optional<double> parse_real(const Text& text) {
  std::string digits;
  const std::string& bytes = text.bytes;
  size_t begin = 0, end = bytes.size();
  while (begin < end) {
    size_t pos = begin;
    if (!is_space(next_code_point(bytes, pos))) break;
    begin = pos;
  }
  while (end > begin && (static_cast<unsigned char>(bytes[end - 1]) < 0x80) &&
         is_space(static_cast<unsigned char>(bytes[end - 1])))
    --end;
  for (size_t i = begin; i < end; ++i) {
    const char c = bytes[i];
    if (c == '_') {
      const bool between = i > begin && i + 1 < end && std::isdigit(static_cast<unsigned char>(bytes[i - 1])) &&
                           std::isdigit(static_cast<unsigned char>(bytes[i + 1]));
      if (!between) return std::nullopt;
      continue;
    }
    digits += c;
  }
  const std::string lowered = ascii_lower(digits);
  const std::string unsigned_part =
      !lowered.empty() && (lowered[0] == '+' || lowered[0] == '-') ? lowered.substr(1) : lowered;
  if (unsigned_part != "inf" && unsigned_part != "infinity" && unsigned_part != "nan") {
    // Only decimal floats: strtod also reads hexadecimal ones and "nan(...)".
    if (unsigned_part.empty() || unsigned_part.find_first_not_of("0123456789.e+-") != std::string::npos)
      return std::nullopt;
    if (unsigned_part[0] != '.' && (unsigned_part[0] < '0' || unsigned_part[0] > '9')) return std::nullopt;
  }
  char* rest = nullptr;
  const double value = std::strtod(digits.c_str(), &rest);
  if (rest == digits.c_str() || *rest) return std::nullopt;
  return value;
}

// int(): nullopt where Python raises ValueError.
std::optional<int64_t> parse_integer(const Text& text, int64_t base) {
  if (base != 0 && (base < 2 || base > 36)) return std::nullopt;
  std::string digits = text.bytes;
  const auto space = [](char c) {
    return static_cast<unsigned char>(c) < 0x80 && is_space(static_cast<unsigned char>(c));
  };
  while (!digits.empty() && space(digits.back())) digits.pop_back();
  size_t at = 0;
  while (at < digits.size() && space(digits[at])) ++at;
  bool negative = false;
  if (at < digits.size() && (digits[at] == '+' || digits[at] == '-')) negative = digits[at++] == '-';
  bool prefixed = false;
  if (at + 1 < digits.size() && digits[at] == '0') {
    const char mark = static_cast<char>(digits[at + 1] | 32);
    const int64_t marked = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
    if (marked && (base == 0 || base == marked)) {
      base = marked;
      at += 2;
      prefixed = true;
    }
  }
  if (base == 0) {  // a plain literal: no leading zeros, zero aside
    base = 10;
    if (at < digits.size() && digits[at] == '0' && digits.find_first_not_of("0_", at) != std::string::npos)
      return std::nullopt;
  }
  bool any = false, after_underscore = !prefixed;
  uint64_t n = 0;
  for (; at < digits.size(); ++at) {
    const char c = digits[at];
    if (c == '_') {
      if (after_underscore) return std::nullopt;
      after_underscore = true;
      continue;
    }
    const char l = ascii_lower(c);
    const int64_t d = l >= '0' && l <= '9' ? l - '0' : l >= 'a' && l <= 'z' ? l - 'a' + 10 : 99;
    if (d >= base) return std::nullopt;
    if (n > (uint64_t{1} << 63) / static_cast<uint64_t>(base)) throw Failure{"an integer does not fit 64 bits"};
    n = n * static_cast<uint64_t>(base) + static_cast<uint64_t>(d);
    if (n > (uint64_t{1} << 63) - (negative ? 0 : 1)) throw Failure{"an integer does not fit 64 bits"};
    any = true;
    after_underscore = false;
  }
  if (!any || after_underscore) return std::nullopt;
  return static_cast<int64_t>(negative ? uint64_t{0} - n : n);
}

int64_t truncate_real(double d) {
  if (!(std::abs(d) < 9.2e18)) throw Failure{"int: a number does not fit 64 bits"};
  return static_cast<int64_t>(d);
}

Value filter_int(Runtime&, const Value& value, Args& args) {
  const Bound bound("int", args, {"default", "base"});
  const Value otherwise = bound.has(0) ? *bound[0] : Value::integer(0);
  if (value.is_undefined()) throw Failure{value.undefined_message()};
  if (value.is_integral()) return Value::integer(value.integer());
  std::optional<double> real;
  if (value.is_string()) {
    if (auto whole = parse_integer(value.text(), bound.integer(1, 10))) return Value::integer(*whole);
    real = parse_real(value.text());
    if (real && !std::isfinite(*real)) return otherwise;
  } else if (value.is(Kind::real)) {
    real = value.real();
    if (std::isnan(*real)) return otherwise;
    if (std::isinf(*real)) throw Failure{"cannot convert float infinity to integer"};
  }
  return real ? Value::integer(truncate_real(*real)) : otherwise;
}

Value filter_float(Runtime&, const Value& value, Args& args) {
  const Bound bound("float", args, {"default"});
  if (value.is_undefined()) throw Failure{value.undefined_message()};
  if (value.is_number()) return Value::real(value.number());
  if (value.is_string())
    if (auto real = parse_real(value.text())) return Value::real(*real);
  return bound.has(0) ? *bound[0] : Value::real(0);
}

Value filter_format(Runtime& rt, const Value& value, Args& args) {
  if (!args.positional.empty() && !args.named.empty())
    throw Failure{"format: positional and keyword arguments cannot be mixed"};
  const Value format = rt.str(value);
  if (args.named.empty()) return format_percent(rt, format.text(), rt.tuple(args.positional));
  std::vector<Dict::Entry> entries;
  for (const auto& [name, named] : args.named) entries.emplace_back(rt.string(name), named);
  return format_percent(rt, format.text(), rt.dict(std::move(entries)));
}

Value filter_indent(Runtime& rt, const Value& value, Args& args) {
  const Bound bound("indent", args, {"width", "first", "blank"});
  const Text& text = must_be_string(value, "indent");
  Value unit = rt.string("    ");
  if (bound.has(0)) {
    if (bound[0]->is_string())
      unit = *bound[0];
    else
      unit = repeat(rt, rt.string(" ").text(), bound.integer(0, 4));
  }
  TextBuilder with_end(rt.budget);  // a final newline makes a final empty line
  with_end.add(text);
  with_end.add("\n");
  const Value whole = with_end.finish();
  const auto lines = split_lines(rt, whole.text(), false);
  TextBuilder out(rt.budget);
  const bool blank = bound.flag(2, false);
  if (bound.flag(1, false)) out.add(unit.text());
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i) out.add("\n");
    if (i && (blank || !lines[i].text().bytes.empty())) out.add(unit.text());
    out.add(lines[i].text());
  }
  return out.finish(text.markup);
}

Value filter_truncate(Runtime& rt, const Value& value, Args& args) {
  const Bound bound("truncate", args, {"length", "killwords", "end", "leeway"});
  const int64_t length = bound.integer(0, 255), leeway = bound.given(3) ? bound.integer(3, 5) : 5;
  const Value end = bound.has(2) ? *bound[2] : rt.string("...");
  const Text& mark = must_be_string(end, "truncate: end");
  const auto mark_length = static_cast<int64_t>(mark.length);
  if (length < mark_length) throw Failure{"truncate: length is less than that of its end mark"};
  if (leeway < 0) throw Failure{"truncate: leeway is negative"};
  const auto size = rt.length(value);  // what is short enough need not be a string
  if (size && (length > INT64_MAX - leeway || *size <= length + leeway)) return value;
  const Text& text = must_be_string(value, "truncate");
  size_t cut = text.offset(static_cast<size_t>(length - mark_length));
  if (!bound.flag(1, false)) {
    const size_t space = cut ? text.bytes.rfind(' ', cut - 1) : std::string::npos;
    if (space != std::string::npos) cut = space;
  }
  TextBuilder out(rt.budget);
  out.add(text, 0, cut);
  out.add(mark);
  return out.finish(text.markup);
}

Value filter_replace(Runtime& rt, const Value& value, Args& args) {
  const Bound bound("replace", args, {"old", "new", "count"}, 2);
  const Value text = rt.plain_str(value), old = rt.plain_str(*bound[0]), with = rt.plain_str(*bound[1]);
  return replace(rt, text.text(), old.text(), with.text(), bound.given(2) ? bound.integer(2, -1) : -1);
}

Value filter_title(Runtime& rt, const Value& value, Args& args) {
  Bound("title", args, {});
  const Value whole = rt.str(value);
  const Text& text = whole.text();
  TextBuilder out(rt.budget);
  const auto boundary = [](char32_t c) {
    return c == '-' || c == '(' || c == '{' || c == '[' || c == '<' || is_space(c);
  };
  // Runs of boundary characters and runs of others: of each, the first character goes up, the rest down.
  for (size_t begin = 0; begin < text.bytes.size();) {
    size_t first = begin;
    const bool kind = boundary(next_code_point(text.bytes, first));
    size_t end = first;
    for (size_t next = end; end < text.bytes.size() && boundary(next_code_point(text.bytes, next)) == kind;) end = next;
    rt.budget.step(4);
    const Value head = rt.string(text, begin, first), tail = rt.string(text, first, end);
    out.add(upper(rt, head.text()).text());
    out.add(lower(rt, tail.text()).text());
    begin = end;
  }
  return out.finish();
}

Value filter_trim(Runtime& rt, const Value& value, Args& args) {
  const Bound bound("trim", args, {"chars"});
  return strip(rt, rt.str(value).text(), bound.given(0) ? &bound.text(0) : nullptr, true, true);
}

Value filter_round(Runtime& rt, const Value& value, Args& args) {
  const Bound bound("round", args, {"precision", "method"});
  const int64_t precision = bound.integer(0, 0);
  const std::string method = bound.has(1) ? bound.text(1).bytes : "common";
  if (method != "common" && method != "ceil" && method != "floor")
    throw Failure{"round: method must be common, ceil or floor"};
  if (value.is_undefined()) throw Failure{value.undefined_message()};
  if (!value.is_number()) throw Failure{std::string("round: expected a number, found ") + type_name(value)};
  if (precision < -300 || precision > 300) throw Failure{"round: precision outside -300 to 300"};
  if (method == "common") {
    if (value.is_integral()) {
      if (precision >= 0) return Value::integer(value.integer());
      int64_t unit = 1;
      for (int64_t i = precision; i < 0; ++i)
        if (__builtin_mul_overflow(unit, int64_t{10}, &unit)) return Value::integer(0);
      const Value whole = floor_divide(rt, value, Value::integer(unit));
      const int64_t rest = value.integer() - whole.integer() * unit;
      const bool up = rest * 2 > unit || (rest * 2 == unit && whole.integer() % 2 != 0);
      return multiply(rt, Value::integer(whole.integer() + up), Value::integer(unit));
    }
    const double x = value.real();
    if (!std::isfinite(x)) return value;
    if (precision < 0) {
      const double unit = std::pow(10.0, static_cast<double>(-precision));
      return Value::real(std::nearbyint(x / unit) * unit);
    }
    char buffer[1024];  // printf rounds the exact value, half to even, as Python does
    std::snprintf(buffer, sizeof buffer, "%.*f", static_cast<int>(precision), x);
    return Value::real(std::strtod(buffer, nullptr));
  }
  const Value scale = power(rt, Value::integer(10), Value::integer(precision));
  const Value scaled = multiply(rt, value, scale);
  const double d = scaled.number();
  if (!std::isfinite(d)) throw Failure{"round: the number is not finite"};
  if (scaled.is_integral()) return divide(rt, scaled, scale);
  const double whole = method == "ceil" ? std::ceil(d) : std::floor(d);
  return Value::real((whole == 0 ? 0.0 : whole) / scale.number());
}

// markupsafe's striptags: comments out, then tags, then white space squeezed, then entities decoded.
Value filter_striptags(Runtime& rt, const Value& value, Args& args) {
  Bound("striptags", args, {});
  Value text = rt.plain_str(value);
  const auto without = [&](std::string_view open, std::string_view close) {
    const Text& t = text.text();
    rt.budget.work(t.bytes.size());
    TextBuilder out(rt.budget);
    size_t done = 0;
    for (size_t at = t.bytes.find(open); at != std::string::npos; at = t.bytes.find(open, done)) {
      const size_t end = t.bytes.find(close, at);
      if (end == std::string::npos) break;
      rt.budget.step();
      out.add(t, done, at);
      done = end + close.size();
    }
    out.add(t, done, t.bytes.size());
    text = out.finish();
  };
  without("<!--", "-->");
  without("<", ">");
  const Value space = rt.string(" ");
  text = join(rt, space.text(), split(rt, text.text(), nullptr, -1));
  const Text& t = text.text();
  static constexpr std::pair<const char*, const char*> entities[] = {{"&amp;", "&"},   {"&lt;", "<"},   {"&gt;", ">"},
                                                                     {"&quot;", "\""}, {"&#34;", "\""}, {"&#39;", "'"}};
  TextBuilder out(rt.budget);
  size_t done = 0;
  for (size_t at = t.bytes.find('&'); at != std::string::npos; at = t.bytes.find('&', at + 1)) {
    bool known = false;
    for (const auto& [entity, character] : entities)
      if (t.bytes.compare(at, std::string_view(entity).size(), entity) == 0) {
        out.add(t, done, at);
        rt.budget.step();
        out.add(character, t.is_content(at));
        done = at + std::string_view(entity).size();
        known = true;
        break;
      }
    const char after = at + 1 < t.bytes.size() ? t.bytes[at + 1] : ' ';
    if (!known && (after == '#' || std::isalpha(static_cast<unsigned char>(after))))
      throw Failure{"striptags: this entity is not supported: '" + shorten(t.bytes.substr(at, 12)) + "'"};
  }
  out.add(t, done, t.bytes.size());
  return out.finish();
}

void add_quoted_url(Runtime& rt, TextBuilder& out, const Value& value, bool query) {
  const Value text = rt.plain_str(value);
  const bool content = text.text().has_content();
  std::string quoted;
  for (const char c : text.text().bytes) {
    const auto u = static_cast<unsigned char>(c);
    if (std::isalnum(u) || c == '_' || c == '.' || c == '-' || c == '~' || (c == '/' && !query))
      quoted += c;
    else if (c == ' ' && query)
      quoted += '+';
    else {
      char code[8];
      std::snprintf(code, sizeof code, "%%%02X", u);
      quoted += code;
    }
  }
  out.add(quoted, content);
}

Value filter_urlencode(Runtime& rt, const Value& value, Args& args) {
  Bound("urlencode", args, {});
  TextBuilder out(rt.budget);
  std::vector<Value> pairs;
  if (value.is(Kind::dict)) {
    for (const auto& [key, item] : value.dict().entries) pairs.push_back(rt.tuple({key, item}));
  } else if (value.is_string() || value.is_number() || value.is_none() || value.is(Kind::function)) {
    add_quoted_url(rt, out, value, false);
    return out.finish();
  } else {
    pairs = rt.collect(value);
  }
  for (size_t i = 0; i < pairs.size(); ++i) {
    const auto pair = rt.collect(pairs[i]);
    if (pair.size() != 2) throw Failure{"urlencode: expected pairs"};
    if (i) out.add("&");
    add_quoted_url(rt, out, pair[0], true);
    out.add("=");
    add_quoted_url(rt, out, pair[1], true);
  }
  return out.finish();
}

Value filter_xmlattr(Runtime& rt, const Value& value, Args& args) {
  const Bound bound("xmlattr", args, {"autospace"});
  if (!value.is(Kind::dict)) throw Failure{std::string("xmlattr: expected a dict, found ") + type_name(value)};
  TextBuilder out(rt.budget);
  for (const auto& [key, item] : value.dict().entries) {
    if (item.is_none() || item.is_undefined()) continue;
    const Text& name = must_be_string(key, "xmlattr: a key");
    if (name.bytes.find_first_of(" \t\n\r\f\v/>=") != std::string::npos)
      throw Failure{"xmlattr: invalid character in attribute name '" + shorten(name.bytes) + "'"};
    if (out.size() || bound.flag(0, true)) out.add(" ");
    out.add(escape(rt, key).text());
    out.add("=\"");
    out.add(escape(rt, item).text());
    out.add("\"");
  }
  return out.finish();
}

Value filter_wordcount(Runtime& rt, const Value& value, Args& args) {
  Bound("wordcount", args, {});
  const Value text = rt.str(value);
  rt.budget.work(text.text().bytes.size());
  int64_t n = 0;
  bool in_word = false;
  for (size_t pos = 0; pos < text.text().bytes.size();) {
    const bool word = is_word_character(next_code_point(text.text().bytes, pos));
    n += word && !in_word;
    in_word = word;
  }
  return Value::integer(n);
}

Value filter_safe(Runtime& rt, const Value& value, Args& args) {
  Bound("safe", args, {});
  const Value text = rt.str(value);
  TextBuilder out(rt.budget);
  out.add(text.text());
  return out.finish(true);
}

Value filter_forceescape(Runtime& rt, const Value& value, Args& args) {
  Bound("forceescape", args, {});
  return escape(rt, rt.plain_str(value));
}

template <Value (*convert)(Runtime&, const Text&)>
Value on_text(Runtime& rt, const Value& value, Args& args) {
  Bound("filter", args, {});
  return convert(rt, rt.str(value).text());
}

Value filter_escape(Runtime& rt, const Value& value, Args& args) {
  Bound("escape", args, {});
  return escape(rt, value);
}

Value filter_string(Runtime& rt, const Value& value, Args& args) {
  Bound("string", args, {});
  return rt.str(value);
}

Value filter_tojson(Runtime& rt, const Value& value, Args& args) { return to_json(rt, value, args); }

template <const char* const& name>
Value refuse(Runtime&, const Value&, Args&) {
  throw Failure{std::string("the filter '") + name + "' is not supported"};
}
constexpr const char* pprint_name = "pprint";
constexpr const char* random_name = "random";
constexpr const char* urlize_name = "urlize";
constexpr const char* wordwrap_name = "wordwrap";

}  // namespace

Filter find_filter(std::string_view name) {
  static const std::unordered_map<std::string_view, Filter> table = {
      {"abs", filter_abs},
      {"attr", filter_attr},
      {"capitalize", on_text<capitalize>},
      {"center", filter_center},
      {"d", filter_default},
      {"default", filter_default},
      {"e", filter_escape},
      {"escape", filter_escape},
      {"filesizeformat", filter_file_size},
      {"float", filter_float},
      {"forceescape", filter_forceescape},
      {"format", filter_format},
      {"indent", filter_indent},
      {"int", filter_int},
      {"lower", on_text<lower>},
      {"pprint", refuse<pprint_name>},
      {"random", refuse<random_name>},
      {"replace", filter_replace},
      {"round", filter_round},
      {"safe", filter_safe},
      {"string", filter_string},
      {"striptags", filter_striptags},
      {"title", filter_title},
      {"tojson", filter_tojson},
      {"trim", filter_trim},
      {"truncate", filter_truncate},
      {"upper", on_text<upper>},
      {"urlencode", filter_urlencode},
      {"urlize", refuse<urlize_name>},
      {"wordcount", filter_wordcount},
      {"wordwrap", refuse<wordwrap_name>},
      {"xmlattr", filter_xmlattr},
  };
  const auto at = table.find(name);
  return at == table.end() ? nullptr : at->second;
}

}  // namespace signalbox::loaders::jinja
