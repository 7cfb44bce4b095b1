// Operations on strings that keep account of what came from the conversation.
#include <algorithm>

#include "base/unicode.h"
#include "base/utf8.h"
#include "loaders/template/runtime.h"

namespace signalbox::loaders::jinja {
namespace {

// Walks a text code point by code point and tells whether each came from the conversation.
class Walker {
 public:
  explicit Walker(const Text& text) : text_(text) {}
  bool next() {
    if (end_ == text_.bytes.size()) return false;
    begin_ = end_;
    c_ = next_code_point(text_.bytes, end_);
    while (span_ < text_.content.size() && text_.content[span_].end <= begin_) ++span_;
    return true;
  }
  char32_t c() const { return c_; }
  size_t begin() const { return begin_; }
  size_t end() const { return end_; }
  bool content() const { return span_ < text_.content.size() && text_.content[span_].begin <= begin_; }

 private:
  const Text& text_;
  size_t begin_ = 0, end_ = 0, span_ = 0;
  char32_t c_ = 0;
};

template <class Append>  // append(walker, std::string& out)
Value map_text(Runtime& rt, const Text& text, Append append) {
  rt.budget.work(text.bytes.size() * 8);
  TextBuilder out(rt.budget);
  std::string run;
  bool run_content = false;
  for (Walker at(text); at.next();) {
    if (at.content() != run_content) {
      out.add(run, run_content);
      run.clear();
      run_content = at.content();
    }
    append(at, run);
  }
  out.add(run, run_content);
  return out.finish(text.markup);
}

// Of the sigma that lies at [begin, end).
bool final_sigma(const std::string& bytes, size_t begin, size_t end) {
  const auto before = [&] { return begin > 0 ? std::optional(previous_code_point(bytes, begin)) : std::nullopt; };
  const auto behind = [&] { return end < bytes.size() ? std::optional(next_code_point(bytes, end)) : std::nullopt; };
  return sigma_ends_word(before, behind);
}

void append_lower_at(const Text& text, const Walker& at, std::string& out) {
  if (at.c() == 0x3A3)
    append_utf8(out, final_sigma(text.bytes, at.begin(), at.end()) ? 0x3C2 : 0x3C3);
  else
    append_lower(at.c(), out);
}

bool in_set(const Text* chars, char32_t c) {
  if (!chars) return is_space(c);
  for (size_t pos = 0; pos < chars->bytes.size();)
    if (next_code_point(chars->bytes, pos) == c) return true;
  return false;
}

size_t previous(const std::string& bytes, size_t at) {
  do --at;
  while (at > 0 && (static_cast<unsigned char>(bytes[at]) & 0xC0) == 0x80);
  return at;
}

}  // namespace

Value strip(Runtime& rt, const Text& text, const Text* chars, bool left, bool right) {
  rt.budget.work(text.bytes.size());
  const uint64_t per_char = chars ? chars->bytes.size() / 16 : 0;
  size_t begin = 0, end = text.bytes.size();
  while (left && begin < end) {
    rt.budget.step(per_char);
    size_t pos = begin;
    if (!in_set(chars, next_code_point(text.bytes, pos))) break;
    begin = pos;
  }
  while (right && end > begin) {
    rt.budget.step(per_char);
    const size_t at = previous(text.bytes, end);
    size_t pos = at;
    if (!in_set(chars, next_code_point(text.bytes, pos))) break;
    end = at;
  }
  return rt.string(text, begin, end);
}

Value replace(Runtime& rt, const Text& text, const Text& old, const Text& with, int64_t count) {
  rt.budget.work(text.bytes.size());
  TextBuilder out(rt.budget);
  uint64_t left = count < 0 ? UINT64_MAX : static_cast<uint64_t>(count);
  size_t done = 0;
  if (old.bytes.empty()) {  // between all characters, and at both ends
    for (size_t pos = 0; left > 0; --left) {
      rt.budget.step();
      out.add(with);
      if (pos == text.bytes.size()) break;
      next_code_point(text.bytes, pos);
      out.add(text, done, pos);
      done = pos;
    }
  } else {
    for (; left > 0; --left) {
      const size_t at = text.bytes.find(old.bytes, done);
      if (at == std::string::npos) break;
      rt.budget.step();
      out.add(text, done, at);
      out.add(with);
      done = at + old.bytes.size();
    }
  }
  out.add(text, done, text.bytes.size());
  return out.finish(text.markup);
}

Value upper(Runtime& rt, const Text& text) {
  return map_text(rt, text, [](const Walker& at, std::string& out) { append_upper(at.c(), out); });
}

Value lower(Runtime& rt, const Text& text) {
  return map_text(rt, text, [&](const Walker& at, std::string& out) { append_lower_at(text, at, out); });
}

Value capitalize(Runtime& rt, const Text& text) {
  return map_text(rt, text, [&](const Walker& at, std::string& out) {
    if (at.begin() == 0)
      append_title(at.c(), out);
    else
      append_lower_at(text, at, out);
  });
}

Value title(Runtime& rt, const Text& text) {
  bool in_word = false;
  return map_text(rt, text, [&](const Walker& at, std::string& out) {
    if (in_word)
      append_lower_at(text, at, out);
    else
      append_title(at.c(), out);
    in_word = is_cased(at.c());
  });
}

Value swapcase(Runtime& rt, const Text& text) {
  return map_text(rt, text, [&](const Walker& at, std::string& out) {
    if (is_upper(at.c()))
      append_lower_at(text, at, out);
    else if (is_lower(at.c()))
      append_upper(at.c(), out);
    else
      append_utf8(out, at.c());
  });
}

Value casefold(Runtime& rt, const Text& text) {
  return map_text(rt, text, [](const Walker& at, std::string& out) { append_folded(at.c(), out); });
}

Value repeat(Runtime& rt, const Text& text, int64_t times) {
  TextBuilder out(rt.budget);
  if (times > 0 && !text.bytes.empty()) {
    const auto n = static_cast<uint64_t>(times);
    rt.budget.need(n);
    rt.budget.need(n * text.bytes.size());
    rt.budget.step(n / 4);
    for (uint64_t i = 0; i < n; ++i) out.add(text);
  }
  return out.finish(text.markup);
}

Value join(Runtime& rt, const Text& separator, const std::vector<Value>& parts) {
  TextBuilder out(rt.budget);
  for (size_t i = 0; i < parts.size(); ++i) {
    rt.budget.step();
    if (i) out.add(separator);
    if (separator.markup)
      out.add(escape(rt, parts[i]).text());
    else
      out.add(parts[i].text());
  }
  return out.finish(separator.markup);
}

Value escape(Runtime& rt, const Value& value) {
  if (value.is_string() && value.text().markup) return value;
  const Value plain = rt.str(value);
  const Value escaped = map_text(rt, plain.text(), [](const Walker& at, std::string& out) {
    switch (at.c()) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&#34;"; break;
      case '\'': out += "&#39;"; break;
      default: append_utf8(out, at.c());
    }
  });
  TextBuilder out(rt.budget);
  out.add(escaped.text());
  return out.finish(true);
}

Value pad(Runtime& rt, const Text& text, int64_t width, const Text* fill, Align align) {
  if (fill && fill->length != 1) throw Failure{"the fill character must be exactly one character long"};
  const auto length = static_cast<int64_t>(text.length);
  if (width <= length) return rt.string(text, 0, text.bytes.size());
  const int64_t missing = width - length;
  int64_t left = 0;
  if (align == Align::right) left = missing;
  if (align == Align::center) left = missing / 2 + (missing & width & 1);
  const Value blank = rt.string(" ");
  const Text& unit = fill ? *fill : blank.text();
  const Value before = repeat(rt, unit, left), after = repeat(rt, unit, missing - left);
  TextBuilder out(rt.budget);
  out.add(before.text());
  out.add(text);
  out.add(after.text());
  return out.finish(text.markup);
}

std::vector<Value> split_lines(Runtime& rt, const Text& text, bool keep_ends) {
  std::vector<Value> lines;
  const std::string& bytes = text.bytes;
  rt.budget.work(bytes.size());
  for (size_t begin = 0; begin < bytes.size();) {
    rt.budget.step();
    size_t end = begin, next = begin;
    while (end < bytes.size()) {
      next = end;
      const char32_t c = next_code_point(bytes, next);
      if (is_line_break(c)) {
        if (c == '\r' && next < bytes.size() && bytes[next] == '\n') ++next;
        break;
      }
      end = next;
    }
    lines.push_back(rt.string(text, begin, keep_ends ? next : end));
    begin = next;
  }
  return lines;
}

std::vector<Value> split(Runtime& rt, const Text& text, const Text* separator, int64_t limit) {
  std::vector<Value> parts;
  const std::string& bytes = text.bytes;
  rt.budget.work(bytes.size());
  uint64_t left = limit < 0 ? UINT64_MAX : static_cast<uint64_t>(limit);
  if (separator) {
    if (separator->bytes.empty()) throw Failure{"empty separator"};
    size_t begin = 0;
    for (; left > 0; --left) {
      rt.budget.step();
      const size_t at = bytes.find(separator->bytes, begin);
      if (at == std::string::npos) break;
      parts.push_back(rt.string(text, begin, at));
      begin = at + separator->bytes.size();
    }
    parts.push_back(rt.string(text, begin, bytes.size()));
    return parts;
  }
  const auto skip_space = [&](size_t at) {
    for (size_t next = at; at < bytes.size() && is_space(next_code_point(bytes, next)); at = next) {
    }
    return at;
  };
  size_t at = skip_space(0);
  for (; at < bytes.size() && left > 0; --left) {
    rt.budget.step();
    size_t end = at;
    for (size_t next = end; end < bytes.size() && !is_space(next_code_point(bytes, next)); end = next) {
    }
    parts.push_back(rt.string(text, at, end));
    at = skip_space(end);
  }
  if (at < bytes.size()) parts.push_back(rt.string(text, at, bytes.size()));  // the rest, its end unstripped
  return parts;
}

std::vector<Value> split_right(Runtime& rt, const Text& text, const Text* separator, int64_t limit) {
  std::vector<Value> parts;
  const std::string& bytes = text.bytes;
  rt.budget.work(bytes.size());
  uint64_t left = limit < 0 ? UINT64_MAX : static_cast<uint64_t>(limit);
  size_t end = bytes.size();
  if (separator) {
    const std::string& wanted = separator->bytes;
    if (wanted.empty()) throw Failure{"empty separator"};
    for (; left > 0 && end >= wanted.size(); --left) {
      rt.budget.step();
      const size_t at = bytes.rfind(wanted, end - wanted.size());
      if (at == std::string::npos) break;
      parts.push_back(rt.string(text, at + wanted.size(), end));
      end = at;
    }
    parts.push_back(rt.string(text, 0, end));
  } else {
    const auto before = [&](size_t at, bool space) {  // walks left over (non-)space
      while (at > 0) {
        const size_t start = previous(bytes, at);
        size_t pos = start;
        if (is_space(next_code_point(bytes, pos)) != space) break;
        at = start;
      }
      return at;
    };
    end = before(end, true);
    for (; end > 0 && left > 0; --left) {
      rt.budget.step();
      const size_t begin = before(end, false);
      parts.push_back(rt.string(text, begin, end));
      end = before(begin, true);
    }
    if (end > 0) parts.push_back(rt.string(text, 0, end));
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

bool all_of(const Text& text, bool (*is)(char32_t)) {
  if (text.bytes.empty()) return false;
  for (size_t pos = 0; pos < text.bytes.size();)
    if (!is(next_code_point(text.bytes, pos))) return false;
  return true;
}

bool text_is_lower(const Text& text) {
  bool any = false;
  for (size_t pos = 0; pos < text.bytes.size();) {
    const char32_t c = next_code_point(text.bytes, pos);
    if (is_upper(c) || is_title(c)) return false;
    any |= is_lower(c);
  }
  return any;
}

bool text_is_upper(const Text& text) {
  bool any = false;
  for (size_t pos = 0; pos < text.bytes.size();) {
    const char32_t c = next_code_point(text.bytes, pos);
    if (is_lower(c) || is_title(c)) return false;
    any |= is_upper(c);
  }
  return any;
}

}  // namespace signalbox::loaders::jinja
