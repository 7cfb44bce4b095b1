#include "eval/data/prompt_template.h"

#include <algorithm>

#include "base/text.h"
#include "base/utf8.h"

namespace signalbox::eval {

namespace {

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && is_json_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_json_space(text.back())) text.remove_suffix(1);
  return text;
}

// What a placeholder stands for.
std::string value_text(const json::Value& object, const std::string& name, const std::string& where) {
  const json::Ref root(object, where);
  const json::Ref value = root.at(name);
  if (value.value().type() != json::Type::array) return value.string();
  std::string text;
  if (value.length() == 0 || value.length() > 26)
    value.fail("expected 1 to 26 choices, found " + std::to_string(value.length()));
  for (size_t i = 0; i < value.length(); ++i)
    text += std::string(i ? "\n" : "") + static_cast<char>('A' + i) + ") " + value[i].string();
  return text;
}

// Where a message's text stands in the rendered text, in code points; `skipped` are code points of the message that the
// template trimmed off its front.
struct Found {
  int64_t begin = 0, skipped = 0, length = 0;
};

Found find_content(const Rendered& rendered, const std::string& content, const std::string& where) {
  for (const std::string_view wanted : {std::string_view(content), trimmed(content)}) {
    for (size_t at = rendered.text.rfind(wanted); at != std::string::npos && !wanted.empty();
         at = at == 0 ? std::string::npos : rendered.text.rfind(wanted, at - 1)) {
      const int64_t begin = count_code_points(std::string_view(rendered.text).substr(0, at));
      const int64_t end = begin + count_code_points(wanted);
      // All of it must come from messages: the template may spell the same words.
      int64_t covered = 0;
      for (const CharRange& range : rendered.content)
        covered += std::max<int64_t>(0, std::min<int64_t>(end, range.end) - std::max<int64_t>(begin, range.begin));
      if (covered < end - begin) continue;
      const auto front = static_cast<size_t>(wanted.data() - content.data());
      const auto first = static_cast<int64_t>(count_code_points(std::string_view(content).substr(0, front)));
      return {begin, first, end - begin};
    }
  }
  throw Error(where, "messages: expected the message in the text that the chat template renders, found it changed");
}

json::Value spans_value(const std::vector<NamedRange>& spans) {
  json::Value value = json::Value::object();
  for (const auto& [name, range] : spans) {
    json::Value pair = json::Value::array();
    pair.push_back(range.first).push_back(range.second);
    value.set(name, std::move(pair));
  }
  return value;
}

json::Value message_of(const char* role, const std::string& content) {
  json::Value value = json::Value::object();
  value.set("role", role).set("content", content);
  return value;
}

}  // namespace

std::string unescape(std::string_view text, const std::string& where) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      out += text[i];
      continue;
    }
    const char next = ++i < text.size() ? text[i] : '\0';
    if (next != 'n' && next != 't' && next != '\\')
      throw Error(where, "expected \\n, \\t or \\\\ after a backslash, found " +
                             (next ? "\"" + std::string(1, next) + "\"" : std::string("the end")));
    out += next == 'n' ? '\n' : next == 't' ? '\t' : '\\';
  }
  return out;
}

PromptTemplate PromptTemplate::parse(std::string_view text, const std::string& where) {
  PromptTemplate out;
  const std::string plain = unescape(text, where);
  std::string literal;
  for (size_t i = 0; i < plain.size(); ++i) {
    const char c = plain[i];
    if (c != '{' && c != '}') {
      literal += c;
    } else if (i + 1 < plain.size() && plain[i + 1] == c) {
      literal += c;
      ++i;
    } else if (c == '}') {
      throw Error(where, "expected }} for a brace, found a } without its {");
    } else {
      const size_t end = plain.find('}', i);
      if (end == std::string::npos) throw Error(where, "expected a } after {, found none ({{ is a brace)");
      std::string name = plain.substr(i + 1, end - i - 1);
      if (name.empty()) throw Error(where, "expected a key between { and }, found none");
      for (const Part& part : out.parts_)
        if (part.placeholder && part.text == name) throw Error(where, "expected {" + name + "} once, found it twice");
      if (!literal.empty()) out.parts_.push_back({false, std::move(literal)});
      literal.clear();
      out.parts_.push_back({true, std::move(name)});
      i = end;
    }
  }
  if (!literal.empty()) out.parts_.push_back({false, std::move(literal)});
  return out;
}

PromptTemplate::Filled PromptTemplate::fill(const json::Value& object, const std::string& where) const {
  Filled out;
  int64_t at = 0;
  for (const Part& part : parts_) {
    const std::string text = part.placeholder ? value_text(object, part.text, where) : part.text;
    const int64_t end = at + count_code_points(text);
    if (part.placeholder) out.spans.push_back({part.text, {at, end}});
    out.text += text;
    at = end;
  }
  return out;
}

std::string default_template(const json::Value& draft, const PromptStyle& style) {
  if (style.plain) return "{question}";
  std::string text = style.instruction.empty() ? "" : style.instruction + "\\n";
  if (draft.find("document")) text += "Document: {document}\\n";
  text += "Question: {question}";
  if (draft.find("choices")) text += "\\n{choices}";
  return style.chat ? text : text + "\\nAnswer:";
}

json::Value place_prompt(const Row& draft, const PromptStyle& style) {
  const json::Ref root(draft.object, draft.where);
  root.at("id");
  const std::string text = style.text.empty() ? default_template(draft.object, style) : style.text;
  PromptTemplate::Filled filled = PromptTemplate::parse(text, "--template").fill(draft.object, draft.where);
  json::Value record = json::Value::object();
  record.set("id", root.at("id").value());
  bool spans = true;
  if (style.chat) {
    json::Value messages = json::Value::array();
    if (!style.system.empty()) messages.push_back(message_of("system", style.system));
    messages.push_back(message_of("user", filled.text));
    spans = style.chat_template != nullptr;
    if (spans) {
      const Rendered rendered = style.chat_template->render(messages, true, style.template_variables);
      const Found found = find_content(rendered, filled.text, draft.where);
      for (auto& [name, range] : filled.spans) {
        range.first = found.begin + std::clamp<int64_t>(range.first - found.skipped, 0, found.length);
        range.second = found.begin + std::clamp<int64_t>(range.second - found.skipped, 0, found.length);
      }
    }
    record.set("messages", std::move(messages));
  } else {
    record.set("prompt", std::move(filled.text));
  }
  if (spans && !filled.spans.empty()) record.set("spans", spans_value(filled.spans));
  for (const auto& [key, value] : draft.object.members())
    if (key != "prompt" && key != "messages" && key != "tokens" && key != "spans" && !record.find(key))
      record.set(key, value);
  return record;
}

std::string text_before_target(const json::Value& record, const PromptStyle& style) {
  if (const json::Value* prompt = record.find("prompt")) return prompt->string();
  const json::Value* messages = record.find("messages");
  if (!messages || !style.chat_template) return "";
  return style.chat_template->render(*messages, true, style.template_variables).text;
}

std::string target_prefix(std::string_view before, std::string_view target) {
  if (before.empty() || (!target.empty() && is_json_space(target.front()))) return "";
  const char c = before.back();
  const bool word = is_ascii_letter(c) || is_ascii_digit(c);
  const bool beyond = (c & 0x80) != 0;  // a letter outside ASCII
  return word || beyond || std::string_view(".,:;?!)\"'").find(c) != std::string_view::npos ? " " : "";
}

}  // namespace signalbox::eval
