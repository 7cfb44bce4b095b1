#include "eval/score/fields.h"

#include <algorithm>

#include "base/utf8.h"
#include "eval/score/phrases.h"

namespace signalbox::eval {

namespace {

json::Ref root(const Record& record) { return json::Ref(record.source, record.where); }

// The value of a key, when the record has a source at all (records made in code may have none).
std::optional<json::Ref> field(const Record& record, std::string_view key) {
  if (record.source.is_null()) return std::nullopt;
  return root(record).find(key);
}

std::string text_of(const json::Value& content) {
  if (content.is_string()) return content.string();
  std::string out;  // parts, as multimodal templates take them
  if (content.type() == json::Type::array)
    for (const json::Value& part : content.items())
      if (part.type() == json::Type::object)
        if (const json::Value* text = part.find("text"); text && text->is_string()) out += text->string();
  return out;
}

std::string asked_text(const Record& record) {
  if (record.kind == Record::Kind::prompt) return record.prompt;
  std::string out;
  if (record.kind == Record::Kind::messages)
    for (const json::Value& message : record.messages.items()) {
      const json::Value *role = message.find("role"), *content = message.find("content");
      if (role && content && role->is_string() && role->string() == "user") out = text_of(*content);
    }
  return out;
}

std::string trimmed(std::string text) {
  const char* blank = " \t\r\n";
  text.erase(0, std::min(text.find_first_not_of(blank), text.size()));
  text.erase(text.find_last_not_of(blank) + 1);
  return text;
}

// A string or a list of strings.
std::vector<std::string> texts_of(const Record& record, std::string_view key) {
  const auto found = field(record, key);
  if (!found) return {};
  if (found->value().is_string()) return {found->string()};
  if (found->value().type() != json::Type::array) found->fail_type("a string or a list of strings");
  std::vector<std::string> out;
  for (const json::Ref& item : found->items()) out.push_back(item.string());
  return out;
}

}  // namespace

bool has_answers(const Record& record) { return !record.answers.empty() || field(record, "answers").has_value(); }

std::optional<std::string> document_of(const Record& record) {
  if (const auto found = field(record, "document")) return found->string();
  const auto span = record.spans.find("document");
  if (span != record.spans.end() && record.kind == Record::Kind::prompt) {
    const std::u32string text = code_points(record.prompt);
    const auto begin = static_cast<size_t>(span->second.first), end = static_cast<size_t>(span->second.second);
    return to_utf8(std::u32string_view(text).substr(std::min(begin, text.size()), end - begin));
  }
  const std::string text = asked_text(record);
  constexpr std::string_view start = "Document:", stop = "Question:";
  const size_t begin = text.find(start);
  if (begin == std::string::npos) return std::nullopt;
  size_t end = text.rfind(stop);
  if (end == std::string::npos || end < begin) end = text.size();
  return trimmed(text.substr(begin + start.size(), end - begin - start.size()));
}

std::vector<std::string> memory_of(const Record& record) { return texts_of(record, "memory"); }

std::vector<std::string> keywords_of(const Record& record) { return texts_of(record, "keywords"); }

std::optional<Choices> choices_of(const Record& record) {
  const auto list = field(record, "choices"), right = field(record, "choice");
  if (!list || !right) return std::nullopt;
  Choices out;
  for (const json::Ref& item : list->items()) out.options.push_back(item.string());
  if (out.options.size() < 2) list->fail("expected at least two choices, found " + std::to_string(out.options.size()));
  out.right = right->integer(0, static_cast<int64_t>(out.options.size()) - 1);
  return out;
}

std::optional<bool> answerable_of(const Record& record) {
  if (const auto found = field(record, "answerable")) return found->boolean();
  if (!has_answers(record)) return std::nullopt;
  const auto abstains = [](const std::string& answer) { return abstained(answer); };
  if (std::all_of(record.answers.begin(), record.answers.end(), abstains)) return false;
  const auto declines = [](const std::string& answer) { return abstained(answer) || refused(answer); };
  if (std::none_of(record.answers.begin(), record.answers.end(), declines)) return true;
  return std::nullopt;
}

std::optional<bool> harmful_of(const Record& record) {
  if (const auto found = field(record, "harmful")) return found->boolean();
  if (record.answers.empty()) return std::nullopt;
  const auto refuses = [](const std::string& answer) { return refused(answer); };
  if (std::all_of(record.answers.begin(), record.answers.end(), refuses)) return true;
  if (std::none_of(record.answers.begin(), record.answers.end(), refuses)) return false;
  return std::nullopt;
}

std::string paraphrase_of(const Record& record) {
  const auto found = field(record, "paraphrase_of");
  return found ? found->string() : std::string();
}

}  // namespace signalbox::eval
