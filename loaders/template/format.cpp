// Python's repr of strings and floats, `%` formatting and str.format.
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "base/unicode.h"
#include "base/utf8.h"
#include "loaders/template/runtime.h"

namespace signalbox::loaders::jinja {
namespace {

constexpr int64_t widest = 100000;  // no template pads further

// Digits of a whole number in another base, with thousands separators.
std::string to_base(uint64_t n, unsigned base, bool capital) {
  std::string digits;
  do {
    const unsigned d = static_cast<unsigned>(n % base);
    digits.insert(digits.begin(), static_cast<char>(d < 10 ? '0' + d : (capital ? 'A' : 'a') + d - 10));
    n /= base;
  } while (n);
  return digits;
}

std::string group_digits(const std::string& digits, char separator, size_t size) {
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i && (digits.size() - i) % size == 0) out += separator;
    out += digits[i];
  }
  return out;
}

std::string print_real(double value, char type, int precision, bool alternate) {
  if (std::isnan(value)) return type == 'F' || type == 'E' || type == 'G' ? "NAN" : "nan";
  if (std::isinf(value)) return type == 'F' || type == 'E' || type == 'G' ? "INF" : "inf";
  const std::string format = std::string(alternate ? "%#.*" : "%.*") + type;
  const int size = std::snprintf(nullptr, 0, format.c_str(), precision, value);
  std::string out(static_cast<size_t>(size) + 1, '\0');
  std::snprintf(out.data(), out.size(), format.c_str(), precision, value);
  out.pop_back();
  return out;
}

// A number laid out: sign and prefix before padding zeros, spaces outside.
struct Layout {
  char align = '>';  // < > ^ =
  std::string fill = " ";
  int64_t width = 0;
};

void add_padded(TextBuilder& out, const Layout& layout, const std::string& prefix, const std::string& body) {
  const auto length = static_cast<int64_t>(count_code_points(prefix) + count_code_points(body));
  const int64_t missing = layout.width > length ? layout.width - length : 0;
  const int64_t left = layout.align == '^' ? missing / 2 : layout.align == '<' ? 0 : missing;
  std::string fill_left, fill_right;
  for (int64_t i = 0; i < left; ++i) fill_left += layout.fill;
  for (int64_t i = left; i < missing; ++i) fill_right += layout.fill;
  if (layout.align == '=')
    out.add(prefix + fill_left + body + fill_right);
  else
    out.add(fill_left + prefix + body + fill_right);
}

void add_padded_text(Runtime& rt, TextBuilder& out, const Layout& layout, const Text& text) {
  const Value fill = rt.string(layout.fill);
  const auto length = static_cast<int64_t>(text.length);
  const int64_t missing = layout.width > length ? layout.width - length : 0;
  const int64_t left = layout.align == '^' ? missing / 2 : layout.align == '<' ? 0 : missing;
  out.add(repeat(rt, fill.text(), left).text());
  out.add(text);
  out.add(repeat(rt, fill.text(), missing - left).text());
}

int64_t parse_count(const std::string& s, size_t& at, const char* what) {
  int64_t n = 0;
  while (at < s.size() && s[at] >= '0' && s[at] <= '9') {
    n = n * 10 + (s[at++] - '0');
    if (n > widest) throw Failure{std::string(what) + " above " + std::to_string(widest)};
  }
  return n;
}

uint64_t magnitude(int64_t i) { return i < 0 ? uint64_t{0} - static_cast<uint64_t>(i) : static_cast<uint64_t>(i); }

int64_t to_whole(const Value& value, char type) {
  if (value.is_integral()) return value.integer();
  if (value.is(Kind::real) && (type == 'd' || type == 'i' || type == 'u')) {
    if (!(std::abs(value.real()) < 9.2e18)) throw Failure{"a number does not fit a 64-bit integer"};
    return static_cast<int64_t>(value.real());
  }
  if (value.is_undefined()) throw Failure{value.undefined_message()};
  throw Failure{std::string("%") + type + " format: a number is required, not " + type_name(value)};
}

std::string pad_zeros(std::string digits, int64_t precision) {
  if (static_cast<int64_t>(digits.size()) < precision)
    digits.insert(0, static_cast<size_t>(precision) - digits.size(), '0');
  return digits;
}

// One directive of `%` formatting.
struct Directive {
  bool left = false, plus = false, blank = false, alternate = false, zero = false;
  int64_t width = 0, precision = -1;
  char type = 0;
};

void add_percent_number(TextBuilder& out, const Directive& d, const Value& value) {
  std::string sign, prefix, body;
  bool negative;
  if (std::string_view("diuxXo").find(d.type) != std::string_view::npos) {
    const int64_t i = to_whole(value, d.type);
    negative = i < 0;
    const unsigned base = d.type == 'o' ? 8 : d.type == 'x' || d.type == 'X' ? 16 : 10;
    body = pad_zeros(to_base(magnitude(i), base, d.type == 'X'), d.precision);
    if (d.alternate && base != 10) prefix = std::string("0") + d.type;
  } else {
    if (value.is_undefined()) throw Failure{value.undefined_message()};
    if (!value.is_number()) throw Failure{std::string("must be real number, not ") + type_name(value)};
    const double x = value.number();
    negative = std::signbit(x) && !std::isnan(x);
    body = print_real(std::abs(x), d.type, static_cast<int>(d.precision < 0 ? 6 : d.precision), d.alternate);
  }
  sign = negative ? "-" : d.plus ? "+" : d.blank ? " " : "";
  Layout layout;
  layout.width = d.width;
  layout.align = d.left ? '<' : d.zero ? '=' : '>';
  if (d.zero && !d.left) layout.fill = "0";
  add_padded(out, layout, sign + prefix, body);
}

Value cut(Runtime& rt, const Value& text, int64_t precision) {
  if (precision < 0 || static_cast<int64_t>(text.text().length) <= precision) return text;
  return rt.string(text.text(), 0, text.text().offset(static_cast<size_t>(precision)));
}

Value repr_of(Runtime& rt, const Value& value, bool ascii) {
  TextBuilder out(rt.budget);
  rt.add_repr(out, value);
  const Value result = out.finish();
  if (ascii && !result.text().ascii()) throw Failure{"ascii() of text that is not ASCII is not supported"};
  return result;
}

}  // namespace

std::string format_real(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  std::string digits;
  int exponent = 0;
  bool negative = false;
  for (const char* p = buffer; p != end; ++p) {
    if (*p == '-' && p == buffer)
      negative = true;
    else if (*p >= '0' && *p <= '9')
      digits += *p;
    else if (*p == 'e') {
      exponent = std::atoi(std::string(p + 1, static_cast<const char*>(end)).c_str());
      break;
    }
  }
  std::string out = negative ? "-" : "";
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (digits.size() > 1) out += "." + digits.substr(1);
    std::snprintf(buffer, sizeof buffer, "e%c%02d", exponent < 0 ? '-' : '+', std::abs(exponent));
    return out + buffer;
  }
  if (exponent < 0) return out + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  const size_t whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= whole) return out + digits + std::string(whole - digits.size(), '0') + ".0";
  return out + digits.substr(0, whole) + "." + digits.substr(whole);
}

void add_quoted(Budget& budget, TextBuilder& out, const Text& text) {
  budget.work(text.bytes.size() * 8);
  const std::string& bytes = text.bytes;
  const char quote = bytes.find('\'') != std::string::npos && bytes.find('"') == std::string::npos ? '"' : '\'';
  out.add(std::string_view(&quote, 1));
  size_t begin = 0;
  for (size_t at = 0; at < bytes.size();) {
    size_t end = at;
    const char32_t c = next_code_point(bytes, end);
    char code[16] = "";
    if (c == '\\' || c == static_cast<char32_t>(quote))
      std::snprintf(code, sizeof code, "\\%c", static_cast<char>(c));
    else if (c == '\n')
      std::snprintf(code, sizeof code, "\\n");
    else if (c == '\r')
      std::snprintf(code, sizeof code, "\\r");
    else if (c == '\t')
      std::snprintf(code, sizeof code, "\\t");
    else if (!is_printable(c)) {
      const auto u = static_cast<unsigned>(c);
      std::snprintf(code, sizeof code, u < 0x100 ? "\\x%02x" : u < 0x10000 ? "\\u%04x" : "\\U%08x", u);
    }
    if (code[0]) {
      out.add(text, begin, at);
      out.add(code, text.is_content(at));
      begin = end;
    }
    at = end;
  }
  out.add(text, begin, bytes.size());
  out.add(std::string_view(&quote, 1));
}

Value format_percent(Runtime& rt, const Text& format, const Value& argument) {
  const std::string& f = format.bytes;
  rt.budget.work(f.size());
  TextBuilder out(rt.budget);
  const bool is_tuple = argument.is(Kind::tuple);
  size_t used = 0;
  bool mapped = false;
  const auto next_argument = [&]() -> Value {
    if (is_tuple) {
      if (used == argument.list().items.size()) throw Failure{"not enough arguments for format string"};
      return argument.list().items[used++];
    }
    if (used++) throw Failure{"not enough arguments for format string"};
    return argument;
  };
  size_t done = 0;
  for (size_t at = f.find('%'); at != std::string::npos; at = f.find('%', done)) {
    rt.budget.step();
    out.add(format, done, at++);
    Value value;
    bool has_value = false;
    if (at < f.size() && f[at] == '(') {
      int open = 1;
      const size_t begin = ++at;
      while (at < f.size() && open > 0) {
        open += f[at] == '(' ? 1 : f[at] == ')' ? -1 : 0;
        ++at;
      }
      if (open) throw Failure{"incomplete format key"};
      if (!argument.is(Kind::dict)) throw Failure{"format requires a mapping"};
      const Value* found = argument.dict().find(std::string_view(f).substr(begin, at - 1 - begin));
      if (!found) throw Failure{"format: no key '" + shorten(f.substr(begin, at - 1 - begin)) + "'"};
      value = *found;
      has_value = mapped = true;
    }
    Directive d;
    for (; at < f.size(); ++at) {
      if (f[at] == '-')
        d.left = true;
      else if (f[at] == '+')
        d.plus = true;
      else if (f[at] == ' ')
        d.blank = true;
      else if (f[at] == '#')
        d.alternate = true;
      else if (f[at] == '0')
        d.zero = true;
      else
        break;
    }
    const auto count = [&](const char* what) -> int64_t {
      if (at < f.size() && f[at] == '*') {
        ++at;
        const Value star = next_argument();
        if (!star.is_integral() || magnitude(star.integer()) > static_cast<uint64_t>(widest))
          throw Failure{std::string("format: * wants an integer up to ") + std::to_string(widest)};
        return star.integer();
      }
      return parse_count(f, at, what);
    };
    d.width = count("a format width");
    if (d.width < 0) {
      d.left = true;
      d.width = -d.width;
    }
    if (at < f.size() && f[at] == '.') {
      ++at;
      d.precision = std::max<int64_t>(0, count("a format precision"));
    }
    while (at < f.size() && (f[at] == 'h' || f[at] == 'l' || f[at] == 'L')) ++at;
    if (at == f.size()) throw Failure{"incomplete format"};
    d.type = f[at++];
    done = at;
    if (d.type == '%') {
      out.add("%");
      continue;
    }
    if (!has_value) value = next_argument();
    Layout layout;
    layout.width = d.width;
    layout.align = d.left ? '<' : '>';
    switch (d.type) {
      case 's': add_padded_text(rt, out, layout, cut(rt, rt.plain_str(value), d.precision).text()); break;
      case 'r':
      case 'a': add_padded_text(rt, out, layout, cut(rt, repr_of(rt, value, d.type == 'a'), d.precision).text()); break;
      case 'c': {
        if (value.is_string() && value.text().length == 1) {
          add_padded_text(rt, out, layout, value.text());
          break;
        }
        if (!value.is_integral()) throw Failure{"%c requires int or char"};
        const int64_t c = value.integer();
        if (c < 0 || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) throw Failure{"%c: not a character"};
        TextBuilder one(rt.budget);
        one.add_code_point(static_cast<char32_t>(c));
        add_padded_text(rt, out, layout, one.finish().text());
        break;
      }
      case 'd':
      case 'i':
      case 'u':
      case 'x':
      case 'X':
      case 'o':
      case 'e':
      case 'E':
      case 'f':
      case 'F':
      case 'g':
      case 'G': add_percent_number(out, d, value); break;
      default: throw Failure{std::string("unsupported format character '") + d.type + "'"};
    }
  }
  out.add(format, done, f.size());
  const bool may_be_left = mapped || argument.is(Kind::dict) || argument.is(Kind::list) || argument.is(Kind::range) ||
                           argument.is_undefined();  // whatever Python takes for a mapping
  if (is_tuple ? used != argument.list().items.size() && !mapped : used == 0 && !may_be_left)
    throw Failure{"not all arguments converted during string formatting"};
  return out.finish(format.markup);
}

namespace {

// The format specification of str.format: [[fill]align][sign][#][0][width][,][.precision][type].
void add_with_spec(Runtime& rt, TextBuilder& out, const Value& value, const std::string& spec) {
  if (spec.empty()) return rt.add_str(out, value);
  Layout layout;
  size_t at = 0;
  bool aligned = false, alternate = false, zero = false;
  char sign = '-', separator = 0, type = 0;
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  size_t first = 0;
  next_code_point(spec, first);
  if (first < spec.size() && is_align(spec[first])) {
    layout.fill = spec.substr(0, first);
    layout.align = spec[first];
    aligned = true;
    at = first + 1;
  } else if (is_align(spec[0])) {
    layout.align = spec[0];
    aligned = true;
    at = 1;
  }
  if (at < spec.size() && (spec[at] == '+' || spec[at] == '-' || spec[at] == ' ')) sign = spec[at++];
  if (at < spec.size() && spec[at] == '#') {
    alternate = true;
    ++at;
  }
  if (at < spec.size() && spec[at] == '0') {
    zero = true;
    ++at;
  }
  layout.width = parse_count(spec, at, "a format width");
  if (at < spec.size() && (spec[at] == ',' || spec[at] == '_')) separator = spec[at++];
  int64_t precision = -1;
  if (at < spec.size() && spec[at] == '.') {
    const size_t begin = ++at;
    precision = parse_count(spec, at, "a format precision");
    if (at == begin) throw Failure{"format specifier missing precision"};
  }
  if (at < spec.size()) type = spec[at++];
  if (at != spec.size()) throw Failure{"invalid format specifier '" + shorten(spec) + "'"};
  if (zero && !aligned) {
    layout.fill = "0";
    if (!value.is_string()) layout.align = '=';
  }

  if (value.is_string()) {
    if (!aligned) layout.align = '<';
    if ((type && type != 's') || sign != '-' || alternate || separator || layout.align == '=')
      throw Failure{"invalid format specifier '" + shorten(spec) + "' for a string"};
    return add_padded_text(rt, out, layout, cut(rt, value, precision).text());
  }
  if (value.is(Kind::boolean) && !type) {
    // bool formats as its name only without a specification; with one it is an int
  } else if (!value.is_number()) {
    throw Failure{std::string("unsupported format specifier for ") + type_name(value)};
  }
  std::string prefix, body;
  bool negative;
  const bool whole =
      value.is_integral() && std::string_view("eEfFgG%").find(type ? type : 'd') == std::string_view::npos;
  if (whole) {
    if (precision >= 0) throw Failure{"precision not allowed in integer format specifier"};
    negative = value.integer() < 0;
    const uint64_t n = magnitude(value.integer());
    unsigned base = 10;
    switch (type) {
      case 0:
      case 'd':
      case 'n': break;
      case 'b': base = 2; break;
      case 'o': base = 8; break;
      case 'x':
      case 'X': base = 16; break;
      default: throw Failure{std::string("unknown format code '") + type + "' for an integer"};
    }
    body = to_base(n, base, type == 'X');
    if (separator) body = group_digits(body, separator, base == 10 ? 3 : 4);
    if (alternate && base != 10) prefix = std::string("0") + type;
  } else {
    const double x = value.number();
    negative = std::signbit(x) && !std::isnan(x);
    const double a = std::abs(x);
    if (!type && precision < 0)
      body = format_real(a);
    else if (!type)
      throw Failure{"a float precision without a type is not supported"};
    else if (type == '%')
      body = print_real(a * 100, 'f', static_cast<int>(precision < 0 ? 6 : precision), alternate) + "%";
    else if (std::string_view("eEfFgG").find(type) != std::string_view::npos)
      body = print_real(a, type, static_cast<int>(precision < 0 ? 6 : precision), alternate);
    else
      throw Failure{std::string("unknown format code '") + type + "' for a float"};
    if (separator) {
      const size_t end = std::min(body.find_first_not_of("0123456789"), body.size());
      body = group_digits(body.substr(0, end), separator, 3) + body.substr(end);
    }
  }
  if (separator && layout.fill == "0" && layout.align == '=')
    throw Failure{"zero padding with a thousands separator is not supported"};
  prefix = (negative ? "-" : sign == '-' ? "" : std::string(1, sign)) + prefix;
  add_padded(out, layout, prefix, body);
}

Value field_value(Runtime& rt, const std::string& field, const Args& args, size_t& automatic, int& numbering) {
  size_t at = field.find_first_of(".[");
  if (at == std::string::npos) at = field.size();
  const std::string first = field.substr(0, at);
  Value value;
  const bool digits = first.find_first_not_of("0123456789") == std::string::npos;
  if (digits) {
    size_t index;
    if (first.empty()) {
      if (numbering == 2) throw Failure{"format: cannot switch from manual to automatic field numbering"};
      numbering = 1;
      index = automatic++;
    } else {
      if (numbering == 1) throw Failure{"format: cannot switch from automatic to manual field numbering"};
      numbering = 2;
      index = first.size() > 6 ? 1000000 : static_cast<size_t>(std::atoi(first.c_str()));
    }
    if (index >= args.positional.size()) throw Failure{"format: no positional argument " + std::to_string(index)};
    value = args.positional[index];
  } else {
    bool found = false;
    for (const auto& [name, named] : args.named)
      if (name == first) {
        value = named;
        found = true;
      }
    if (!found) throw Failure{"format: no argument '" + shorten(first) + "'"};
  }
  while (at < field.size()) {
    if (field[at] == '.') {
      const size_t end = std::min(field.find_first_of(".[", at + 1), field.size());
      if (end == at + 1) throw Failure{"format: empty attribute"};
      value = rt.attribute(value, field.substr(at + 1, end - at - 1));
      at = end;
    } else {
      const size_t end = field.find(']', at);
      if (field[at] != '[' || end == std::string::npos || end == at + 1) throw Failure{"format: malformed field"};
      const std::string key = field.substr(at + 1, end - at - 1);
      const bool index = key.size() < 10 && key.find_first_not_of("0123456789") == std::string::npos;
      value = rt.item(value, index ? Value::integer(std::atoll(key.c_str())) : rt.string(key));
      at = end + 1;
    }
  }
  return value;
}

}  // namespace

Value format_braces(Runtime& rt, const Text& format, const Args& args) {
  if (format.markup) throw Failure{"format() of an escaped string is not supported"};
  const std::string& f = format.bytes;
  rt.budget.work(f.size());
  TextBuilder out(rt.budget);
  size_t automatic = 0, done = 0;
  int numbering = 0;
  for (size_t at = f.find_first_of("{}"); at != std::string::npos; at = f.find_first_of("{}", done)) {
    rt.budget.step();
    out.add(format, done, at);
    if (at + 1 < f.size() && f[at + 1] == f[at]) {
      out.add(format, at, at + 1);
      done = at + 2;
      continue;
    }
    if (f[at] == '}') throw Failure{"format: single '}'"};
    const size_t end = f.find_first_of("{}", at + 1);
    if (end == std::string::npos) throw Failure{"format: expected '}'"};
    if (f[end] == '{') throw Failure{"format: nested fields are not supported"};
    std::string field = f.substr(at + 1, end - at - 1), spec;
    char conversion = 0;
    const size_t mark = field.find_first_of("!:");
    if (mark != std::string::npos) {
      std::string rest = field.substr(mark);
      field.resize(mark);
      if (rest[0] == '!') {
        if (rest.size() < 2) throw Failure{"format: unmatched '!'"};
        conversion = rest[1];
        rest.erase(0, 2);
        if (!rest.empty() && rest[0] != ':') throw Failure{"format: expected ':' after the conversion"};
      }
      if (!rest.empty()) spec = rest.substr(1);
    }
    Value value = field_value(rt, field, args, automatic, numbering);
    if (conversion == 's')
      value = rt.plain_str(value);
    else if (conversion == 'r')
      value = repr_of(rt, value, false);
    else if (conversion)
      throw Failure{std::string("format: unknown conversion '") + conversion + "'"};
    add_with_spec(rt, out, value, spec);
    done = end + 1;
  }
  out.add(format, done, f.size());
  return out.finish();
}

}  // namespace signalbox::loaders::jinja
