#include "loaders/template/lexer.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>

#include "base/text.h"
#include "base/unicode.h"
#include "base/utf8.h"

namespace signalbox::loaders::jinja {
namespace {

std::string normalize_newlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : s_(normalize_newlines(source)) {}

  std::vector<Token> run() {
    while (at_ < s_.size()) lex_data();
    push(TokenType::end);
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail(const std::string& message) const { throw SyntaxFailure{line_, message}; }
  bool starts(std::string_view what, size_t at) const { return s_.compare(at, what.size(), what) == 0; }

  void push(TokenType type, std::string text = "") { tokens_.push_back({type, line_, std::move(text), Value()}); }

  // Moves on to `end` and keeps the line count.
  void move(size_t end) {
    line_ += static_cast<int>(
        std::count(s_.begin() + static_cast<ptrdiff_t>(at_), s_.begin() + static_cast<ptrdiff_t>(end), '\n'));
    line_starting_ = end > at_ && s_[end - 1] == '\n';
    at_ = end;
  }

  size_t skip_space(size_t at) const {
    for (size_t next = at; at < s_.size() && is_space(next_code_point(s_, next)); at = next) {
    }
    return at;
  }

  // Emits the text before a tag, its end trimmed as the tag's sign and lstrip_blocks ask.
  void push_data(size_t begin, size_t end, char sign, bool may_lstrip) {
    size_t keep = end;
    if (sign == '-') {
      while (keep > begin) {
        size_t start = keep;
        do --start;
        while (start > begin && (static_cast<unsigned char>(s_[start]) & 0xC0) == 0x80);
        size_t pos = start;
        if (!is_space(next_code_point(s_, pos))) break;
        keep = start;
      }
    } else if (sign != '+' && may_lstrip) {
      const size_t newline = end > begin ? s_.rfind('\n', end - 1) : std::string::npos;
      const bool has_newline = newline != std::string::npos && newline >= begin;
      const size_t line_begin = has_newline ? newline + 1 : begin;
      if ((has_newline || line_starting_) && skip_space(line_begin) >= end) keep = line_begin;
    }
    if (keep > begin) push(TokenType::data, s_.substr(begin, keep - begin));
  }

  char sign_at(size_t at) const { return at < s_.size() && (s_[at] == '-' || s_[at] == '+') ? s_[at] : '\0'; }

  // The end of a "{% raw %}" at `at`, or npos.
  size_t raw_begin(size_t at) const {
    at += 2;
    if (sign_at(at)) ++at;
    at = skip_space(at);
    if (!starts("raw", at)) return std::string::npos;
    at = skip_space(at + 3);
    if (starts("%}", at)) return at + 2;
    if (starts("-%}", at)) return skip_space(at + 3);
    return std::string::npos;
  }

  // The end of the closing tag of a block or comment at `at` ("%}", "-%}", "+%}"), or npos.
  size_t close_tag(size_t at, std::string_view close) const {
    if (starts(close, at)) {
      at += close.size();
      return at < s_.size() && s_[at] == '\n' ? at + 1 : at;  // trim_blocks
    }
    if (at < s_.size() && s_[at] == '-' && starts(close, at + 1)) return skip_space(at + 1 + close.size());
    if (at < s_.size() && s_[at] == '+' && starts(close, at + 1)) return at + 1 + close.size();
    return std::string::npos;
  }

  void lex_data() {
    size_t tag = at_;
    for (;; ++tag) {
      tag = s_.find('{', tag);
      if (tag == std::string::npos || tag + 1 >= s_.size()) {
        push(TokenType::data, s_.substr(at_));
        move(s_.size());
        return;
      }
      if (s_[tag + 1] == '%' || s_[tag + 1] == '{' || s_[tag + 1] == '#') break;
    }
    const char kind = s_[tag + 1], sign = sign_at(tag + 2);
    const size_t inside = tag + 2 + (sign ? 1 : 0);
    push_data(at_, tag, sign, kind != '{');
    move(tag);
    const size_t raw = kind == '%' ? raw_begin(tag) : std::string::npos;
    if (raw != std::string::npos) {
      move(raw);
      lex_raw();
    } else if (kind == '#') {
      move(inside);
      lex_comment();
    } else {
      push(kind == '%' ? TokenType::block_begin : TokenType::variable_begin);
      move(inside);
      lex_tag(kind == '%');
    }
  }

  void lex_comment() {
    const size_t close = s_.find("#}", at_);
    if (close == std::string::npos) fail("missing end of comment tag");
    const bool signed_close = close > at_ && (s_[close - 1] == '-' || s_[close - 1] == '+');
    move(close_tag(signed_close ? close - 1 : close, "#}"));
  }

  void lex_raw() {
    for (size_t tag = s_.find("{%", at_); tag != std::string::npos; tag = s_.find("{%", tag + 1)) {
      const char sign = sign_at(tag + 2);
      size_t at = skip_space(tag + 2 + (sign ? 1 : 0));
      if (!starts("endraw", at)) continue;
      const size_t end = close_tag(skip_space(at + 6), "%}");
      if (end == std::string::npos) continue;
      push_data(at_, tag, sign, true);
      move(end);
      return;
    }
    fail("missing end of raw directive");
  }

  void lex_tag(bool block) {
    std::string open;  // brackets that wait for their end: inside them, "}}" and "%}" are operators
    while (true) {
      if (at_ >= s_.size()) fail("unexpected end of template inside a tag");
      if (open.empty()) {
        size_t end = std::string::npos;
        if (block)
          end = close_tag(at_, "%}");
        else if (starts("}}", at_))
          end = at_ + 2;
        else if (starts("-}}", at_))
          end = skip_space(at_ + 3);
        if (end != std::string::npos) {
          push(block ? TokenType::block_end : TokenType::variable_end);
          move(end);
          return;
        }
      }
      const size_t begin = at_;
      const size_t after_space = skip_space(begin);
      if (after_space != begin) {
        move(after_space);
        continue;
      }
      const char c = s_[begin];
      if (is_ascii_digit(c))
        lex_number();
      else if (c == '\'' || c == '"')
        lex_string(c);
      else if (!lex_name())
        lex_operator(open);
    }
  }

  // Digits with single underscores between them; npos if there is none at `at`.
  size_t digits(size_t at) const {
    if (at >= s_.size() || !is_ascii_digit(s_[at])) return std::string::npos;
    while (at < s_.size() &&
           (is_ascii_digit(s_[at]) || (s_[at] == '_' && at + 1 < s_.size() && is_ascii_digit(s_[at + 1]))))
      ++at;
    return at;
  }

  size_t float_end() const {
    if (at_ > 0 && s_[at_ - 1] == '.') return std::string::npos;
    const size_t whole = digits(at_);
    size_t end = whole;
    bool is_float = false;
    if (end < s_.size() && s_[end] == '.') {
      const size_t fraction = digits(end + 1);
      if (fraction != std::string::npos) {
        end = fraction;
        is_float = true;
      }
    }
    if (end < s_.size() && (s_[end] | 32) == 'e') {
      const size_t sign = end + 1 < s_.size() && (s_[end + 1] == '+' || s_[end + 1] == '-') ? 1 : 0;
      const size_t exponent = digits(end + 1 + sign);
      if (exponent != std::string::npos) {
        end = exponent;
        is_float = true;
      }
    }
    return is_float ? end : std::string::npos;
  }

  std::string without_underscores(size_t end) const {
    std::string out = s_.substr(at_, end - at_);
    out.erase(std::remove(out.begin(), out.end(), '_'), out.end());
    return out;
  }

  void lex_number() {
    Value value;
    size_t end = float_end();
    if (end != std::string::npos) {
      value = Value::real(std::strtod(without_underscores(end).c_str(), nullptr));
    } else {
      int base = 10;
      end = at_;
      const char mark = at_ + 1 < s_.size() ? static_cast<char>(s_[at_ + 1] | 32) : ' ';
      const auto in_base = [](char c, int b) {
        const int d = is_ascii_digit(c) ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : 99;
        return d < b;
      };
      const auto run = [&](size_t at, int b) {  // (_?digit)+, empty if there is none
        const size_t begin = at;
        while (at < s_.size()) {
          const size_t d = s_[at] == '_' ? at + 1 : at;
          if (d >= s_.size() || !in_base(s_[d], b)) break;
          at = d + 1;
        }
        return at == begin ? std::string::npos : at;
      };
      if (s_[at_] == '0') {
        const int marked = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
        const size_t prefixed = marked ? run(at_ + 2, marked) : std::string::npos;
        if (prefixed != std::string::npos) {
          base = marked;
          end = prefixed;
        } else {  // zero may only be followed by zeros
          end = at_ + 1;
          while (end < s_.size() && (s_[end] == '0' || (s_[end] == '_' && end + 1 < s_.size() && s_[end + 1] == '0')))
            ++end;
        }
      } else {
        end = digits(at_);
      }
      const std::string text = without_underscores(end);
      const char* first = text.data() + (base == 10 ? 0 : 2);
      int64_t n = 0;
      if (std::from_chars(first, text.data() + text.size(), n, base).ec != std::errc())
        fail("the integer " + text.substr(0, 40) + " does not fit 64 bits");
      value = Value::integer(n);
    }
    push(TokenType::number, s_.substr(at_, end - at_));
    tokens_.back().number = value;
    move(end);
  }

  bool lex_name() {
    size_t end = at_;
    bool first = true;
    for (size_t next = at_; next < s_.size(); first = false) {
      const char32_t c = next_code_point(s_, next);
      if (!is_word_character(c) || (first && c < 0x80 && is_ascii_digit(static_cast<char>(c)))) break;
      end = next;
    }
    if (end == at_) return false;
    push(TokenType::name, s_.substr(at_, end - at_));
    move(end);
    return true;
  }

  void lex_operator(std::string& open) {
    static constexpr std::array<std::string_view, 26> operators = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                                                   "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                                   ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    for (std::string_view op : operators) {
      if (!starts(op, at_)) continue;
      if (op == "(" || op == "[" || op == "{") open += op == "(" ? ')' : op == "[" ? ']' : '}';
      if (op == ")" || op == "]" || op == "}") {
        if (open.empty()) fail("unexpected '" + std::string(op) + "'");
        if (open.back() != op[0]) fail("unexpected '" + std::string(op) + "', expected '" + open.back() + "'");
        open.pop_back();
      }
      push(TokenType::op, std::string(op));
      move(at_ + op.size());
      return;
    }
    size_t end = at_;
    next_code_point(s_, end);
    fail("unexpected character '" + s_.substr(at_, end - at_) + "'");
  }

  void lex_string(char quote) {
    std::string out;
    size_t at = at_ + 1;
    for (;;) {
      if (at >= s_.size()) fail(std::string("unexpected character ") + quote + ": the string has no end");
      if (s_[at] == quote) break;
      if (s_[at] != '\\') {
        out += s_[at++];
        continue;
      }
      if (++at >= s_.size()) fail("the string has no end");
      at = unescape(at, out);
    }
    push(TokenType::string, std::move(out));
    move(at + 1);
  }

  // Python's escapes; `at` stands after the backslash.
  size_t unescape(size_t at, std::string& out) const {
    const auto hex = [&](size_t from, size_t n) -> char32_t {
      char32_t value = 0;
      for (size_t i = from; i < from + n; ++i) {
        const char c = i < s_.size() ? s_[i] : '?';
        const int d = is_ascii_digit(c) ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
        if (d < 0) fail("a truncated escape in a string");
        value = value * 16 + static_cast<char32_t>(d);
      }
      if (value > 0x10FFFF) fail("an escape above U+10FFFF in a string");
      if (value >= 0xD800 && value < 0xE000) fail("a surrogate escape in a string is not supported");
      return value;
    };
    const char c = s_[at];
    switch (c) {
      case '\n': return at + 1;
      case '\\':
      case '\'':
      case '"': out += c; return at + 1;
      case 'a': out += '\a'; return at + 1;
      case 'b': out += '\b'; return at + 1;
      case 'f': out += '\f'; return at + 1;
      case 'n': out += '\n'; return at + 1;
      case 'r': out += '\r'; return at + 1;
      case 't': out += '\t'; return at + 1;
      case 'v': out += '\v'; return at + 1;
      case 'x': append_utf8(out, hex(at + 1, 2)); return at + 3;
      case 'u': append_utf8(out, hex(at + 1, 4)); return at + 5;
      case 'U': append_utf8(out, hex(at + 1, 8)); return at + 9;
      case 'N': fail("\\N{...} in a string is not supported");
      default: break;
    }
    if (c >= '0' && c <= '7') {
      char32_t value = 0;
      size_t end = at;
      while (end < s_.size() && end < at + 3 && s_[end] >= '0' && s_[end] <= '7')
        value = value * 8 + static_cast<char32_t>(s_[end++] - '0');
      append_utf8(out, value);
      return end;
    }
    out += '\\';  // an unknown escape stays as it is
    if (static_cast<unsigned char>(c) < 0x80) {
      out += c;
      return at + 1;
    }
    // Jinja escapes what is not ASCII before it reads escapes, so this backslash meets another one.
    size_t end = at;
    char code[16];
    const auto u = static_cast<unsigned>(next_code_point(s_, end));
    std::snprintf(code, sizeof code, u < 0x100 ? "x%02x" : u < 0x10000 ? "u%04x" : "U%08x", u);
    out += code;
    return end;
  }

  const std::string s_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) {
  if (first_invalid_utf8(source) != std::string_view::npos) throw SyntaxFailure{1, "the template is not valid UTF-8"};
  return Lexer(source).run();
}

}  // namespace signalbox::loaders::jinja
