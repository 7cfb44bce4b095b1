// json.dumps, as the tojson filter of chat templates calls it.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/utf8.h"
#include "loaders/template/runtime.h"

namespace signalbox::loaders::jinja {
namespace {

struct Style {
  bool ascii = false, sort_keys = false, multiline = false;
  Value indent, item_separator, key_separator;  // strings
};

void add_escaped(Runtime& rt, TextBuilder& out, const Text& text, bool ascii) {
  rt.budget.work(text.bytes.size() * 2);
  out.add("\"");
  size_t begin = 0;
  const std::string& bytes = text.bytes;
  const auto escape_at = [&](size_t at, size_t end, const std::string& with) {
    rt.budget.step();
    out.add(text, begin, at);
    // An escape stands for a character of the conversation where that character did.
    out.add(with, text.is_content(at));
    begin = end;
  };
  for (size_t at = 0; at < bytes.size();) {
    size_t end = at;
    const char32_t c = next_code_point(bytes, end);
    char code[16];
    switch (c) {
      case '"': escape_at(at, end, "\\\""); break;
      case '\\': escape_at(at, end, "\\\\"); break;
      case '\n': escape_at(at, end, "\\n"); break;
      case '\r': escape_at(at, end, "\\r"); break;
      case '\t': escape_at(at, end, "\\t"); break;
      case '\f': escape_at(at, end, "\\f"); break;
      case '\b': escape_at(at, end, "\\b"); break;
      default:
        if (c < 0x20 || (ascii && c > 0x7E && c < 0x10000)) {
          if (c == 0x7F) break;
          std::snprintf(code, sizeof code, "\\u%04x", static_cast<unsigned>(c));
          escape_at(at, end, code);
        } else if (ascii && c >= 0x10000) {
          const unsigned v = static_cast<unsigned>(c) - 0x10000;
          std::snprintf(code, sizeof code, "\\u%04x\\u%04x", 0xD800 | (v >> 10), 0xDC00 | (v & 0x3FF));
          escape_at(at, end, code);
        }
    }
    at = end;
  }
  out.add(text, begin, bytes.size());
  out.add("\"");
}

std::string json_real(double d) {
  if (std::isnan(d)) return "NaN";
  if (std::isinf(d)) return d > 0 ? "Infinity" : "-Infinity";
  return format_real(d);
}

class Writer {
 public:
  Writer(Runtime& rt, const Style& style, TextBuilder& out) : rt_(rt), style_(style), out_(out) {}

  void add(const Value& value, int level) {
    rt_.budget.step();
    nested(level);
    switch (value.kind()) {
      case Kind::none: return out_.add("null");
      case Kind::boolean: return out_.add(value.boolean() ? "true" : "false");
      case Kind::integer: return out_.add(std::to_string(value.integer()));
      case Kind::real: return out_.add(json_real(value.real()));
      case Kind::string: return add_escaped(rt_, out_, value.text(), style_.ascii);
      case Kind::list:
      case Kind::tuple: return add_list(value.list().items, level);
      case Kind::dict: return add_dict(value.dict(), level);
      default:
        throw Failure{std::string("tojson: a value of type ") + type_name(value) + " is not JSON serializable" +
                      (value.is_undefined() ? " (" + value.undefined_message() + ")" : "")};
    }
  }

 private:
  void new_line(int level) {
    if (!style_.multiline) return;
    out_.add("\n");
    for (int i = 0; i < level; ++i) out_.add(style_.indent.text());
  }

  void add_list(const std::vector<Value>& items, int level) {
    if (items.empty()) return out_.add("[]");
    out_.add("[");
    for (size_t i = 0; i < items.size(); ++i) {
      if (i) out_.add(style_.item_separator.text());
      new_line(level + 1);
      add(items[i], level + 1);
    }
    new_line(level);
    out_.add("]");
  }

  void add_key(const Value& key) {
    switch (key.kind()) {
      case Kind::string: return add_escaped(rt_, out_, key.text(), style_.ascii);
      case Kind::none: return out_.add("\"null\"");
      case Kind::boolean: return out_.add(key.boolean() ? "\"true\"" : "\"false\"");
      case Kind::integer: return out_.add("\"" + std::to_string(key.integer()) + "\"");
      case Kind::real: return out_.add("\"" + json_real(key.real()) + "\"");
      default: throw Failure{std::string("tojson: keys must be str, int, float, bool or None, not ") + type_name(key)};
    }
  }

  void add_dict(const Dict& dict, int level) {
    if (dict.entries.empty()) return out_.add("{}");
    std::vector<const Dict::Entry*> entries;
    for (const auto& entry : dict.entries) entries.push_back(&entry);
    if (style_.sort_keys)
      std::stable_sort(entries.begin(), entries.end(), [&](const auto* a, const auto* b) {
        const int order = compare(rt_.budget, a->first, b->first, "<");
        if (order != 0) return order == -1;
        return compare(rt_.budget, a->second, b->second, "<") == -1;
      });
    out_.add("{");
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i) out_.add(style_.item_separator.text());
      new_line(level + 1);
      add_key(entries[i]->first);
      out_.add(style_.key_separator.text());
      add(entries[i]->second, level + 1);
    }
    new_line(level);
    out_.add("}");
  }

  Runtime& rt_;
  const Style& style_;
  TextBuilder& out_;
};

}  // namespace

Value to_json(Runtime& rt, const Value& value, const Args& args) {
  const Bound bound("tojson", args, {"ensure_ascii", "indent", "separators", "sort_keys"});
  Style style;
  style.ascii = bound.flag(0, false);
  style.sort_keys = bound.flag(3, false);
  if (bound.given(1)) {
    style.multiline = true;
    style.indent = bound[1]->is_string() ? *bound[1] : repeat(rt, rt.string(" ").text(), bound.integer(1, 0));
  }
  style.item_separator = rt.string(style.multiline ? "," : ", ");
  style.key_separator = rt.string(": ");
  if (bound.given(2)) {
    const auto separators = rt.collect(*bound[2]);
    if (separators.size() != 2 || !separators[0].is_string() || !separators[1].is_string())
      throw Failure{"tojson: separators must be two strings"};
    style.item_separator = separators[0];
    style.key_separator = separators[1];
  }
  TextBuilder out(rt.budget);
  Writer(rt, style, out).add(value, 0);
  return out.finish();
}

}  // namespace signalbox::loaders::jinja
