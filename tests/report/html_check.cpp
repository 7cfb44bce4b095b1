#include "tests/report/html_check.h"

#include <set>
#include <vector>

#include "base/sha256.h"

namespace signalbox::test {

namespace {

struct Element {
  std::string start, content;  // the start tag, and what is inside
};

// Takes the elements out of the page that have this tag.
std::vector<Element> take_elements(std::string& html, const std::string& tag) {
  std::vector<Element> out;
  for (size_t begin = 0; (begin = html.find("<" + tag, begin)) != std::string::npos;) {
    const size_t inside = html.find('>', begin) + 1, end = html.find("</" + tag + ">", begin);
    if (inside == 0 || end == std::string::npos) break;
    out.push_back({html.substr(begin, inside - begin), html.substr(inside, end - inside)});
    html.erase(begin, end - begin + tag.size() + 3);
  }
  return out;
}

// The bytes that base64 says, as hexadecimal digits.
std::string hex_of_base64(const std::string& text) {
  const std::string digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
                    hex = "0123456789abcdef";
  std::string bits, out;
  for (const char c : text)
    if (const size_t digit = digits.find(c); digit != std::string::npos)
      for (int b = 5; b >= 0; --b) bits += digit >> b & 1 ? '1' : '0';
  for (size_t i = 0; i + 4 <= bits.size(); i += 4) out += hex[std::stoul(bits.substr(i, 4), nullptr, 2)];
  return out;
}

std::set<std::string> hashes_of_policy(const std::string& html) {
  std::set<std::string> out;
  for (size_t at = 0; (at = html.find("'sha256-", at)) != std::string::npos;) {
    at += 8;
    out.insert(hex_of_base64(html.substr(at, html.find('\'', at) - at)).substr(0, 64));
  }
  return out;
}

}  // namespace

std::string mistake_in_html(const std::string& page) {
  std::string html = page;
  const std::vector<Element> styles = take_elements(html, "style"), scripts = take_elements(html, "script");
  if (styles.empty() || scripts.empty()) return "no style, or no script";
  std::set<std::string> used;
  for (const Element& style : styles) used.insert(sha256_hex(style.content));
  for (const Element& script : scripts)
    if (script.start == "<script>") used.insert(sha256_hex(script.content));
  if (html.find("default-src 'none'") == std::string::npos) return "no policy";
  if (used != hashes_of_policy(html)) return "the policy's hashes are not those of the styles and scripts";
  if (!html.starts_with("<!DOCTYPE html>")) return "no doctype";
  std::vector<std::string> open;
  for (size_t i = 15; i < html.size(); ++i) {
    if (html[i] == '&') {
      const size_t end = html.find(';', i);
      if (end == std::string::npos || end - i > 6) return "bare & at " + html.substr(i, 40);
    }
    if (html[i] == '>') return "bare > at " + html.substr(i, 40);
    if (html[i] != '<') continue;
    size_t end = i + 1;
    bool quoted = false;
    for (; end < html.size() && (quoted || html[end] != '>'); ++end) {
      if (html[end] == '"') quoted = !quoted;
      if (html[end] == '<') return "< inside a tag at " + html.substr(i, 60);
      if (html[end] == '=' && !quoted && html[end + 1] != '"')
        return "attribute without quotes at " + html.substr(i, 60);
    }
    const std::string tag = html.substr(i + 1, end - i - 1);
    if (tag.find(" style=") != std::string::npos) return "style attribute, which the policy stops, in <" + tag + ">";
    const std::string name = tag.substr(0, tag.find_first_of(" /\n", 1));
    if (tag[0] == '/') {
      if (open.empty() || "/" + open.back() != name) return "stray <" + tag + ">";
      open.pop_back();
    } else if (tag.back() != '/') {
      open.push_back(name);
    }
    i = end;
  }
  return open.empty() ? "" : "open <" + open.back() + ">";
}

bool from_outside(const std::string& page) {
  std::string html = page;
  take_elements(html, "script");
  for (const char* part : {"http:", "https:", "src=", "<link", "@import", "url("})
    if (html.find(part) != std::string::npos) return true;
  return false;
}

std::string data_block(const std::string& page, const std::string& id) {
  std::string html = page;
  for (const Element& element : take_elements(html, "script"))
    if (element.start.find(" id=\"" + id + "\"") != std::string::npos) return element.content;
  return "";
}

}  // namespace signalbox::test
