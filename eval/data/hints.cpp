#include "eval/data/hints.h"

#include <algorithm>
#include <array>
#include <filesystem>

#include "base/text.h"
#include "eval/data/csv_records.h"

namespace signalbox::eval {

namespace {

bool has(const json::Value& object, std::string_view key) { return object.find(key) != nullptr; }

bool any_has(const std::vector<Record>& records, std::initializer_list<std::string_view> keys) {
  return std::any_of(records.begin(), records.end(), [&](const Record& record) {
    return record.source.type() == json::Type::object &&
           std::all_of(keys.begin(), keys.end(), [&](std::string_view key) { return has(record.source, key); });
  });
}

std::string output(const std::string& file, std::string_view what) {
  return " --out " + shell_word(made_file(file, what));
}

// The key of a row that is most likely its prompt; empty when no name says so.
std::string likely_prompt(const json::Value& object) {
  for (const char* name :
       {"ask", "input", "text", "goal", "instruction", "query", "problem", "Prompt", "Question", "Goal"})
    if (has(object, name)) return name;
  return "";
}

// The first keys of a row, "a, b, c".
std::string keys_of(const json::Value& object) {
  std::vector<std::string> names;
  for (const auto& [key, value] : object.members())
    if (names.size() < 8) names.push_back(key);
  return joined(names) + (object.members().size() > names.size() ? ", ..." : "");
}

std::string convert(const std::string& file) {
  return std::string("signalbox data convert ") + (is_csv_file(file) ? "csv " : "jsonl ") + shell_word(file);
}

}  // namespace

std::string shell_word(std::string_view text) {
  constexpr std::string_view plain = "._/-=,:@+%";
  const bool simple = !text.empty() && std::all_of(text.begin(), text.end(), [&](char c) {
    return is_ascii_letter(c) || is_ascii_digit(c) || plain.find(c) != std::string_view::npos;
  });
  if (simple) return std::string(text);
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

std::string made_file(const std::string& file, std::string_view what) {
  const std::filesystem::path path(file == "-" ? "records.jsonl" : file);
  return (path.parent_path() / (path.stem().string() + "_" + std::string(what) + ".jsonl")).string();
}

std::string split_command(const std::string& file, bool replace, const std::vector<std::string>& names) {
  std::string fractions;
  for (size_t i = 0; i < names.size(); ++i)
    fractions += (i > 0 ? "," : "") + names[i] + (names.size() < 3 ? "=0.5" : i == 1 ? "=0.2" : "=0.4");
  if (names.size() == 1) fractions += ",other=0.5";
  return "signalbox data split " + shell_word(file) + (replace ? " --replace" : "") + " --fractions " +
         shell_word(fractions) + output(file, "split");
}

std::string pairs_command(const std::string& file, const std::vector<Record>& records) {
  if (any_has(records, {"question", "document"}))
    return "signalbox data pairs document " + shell_word(file) + output(file, "pairs");
  if (any_has(records, {"unsafe"}) || any_has(records, {"response", "is_safe"}))
    return "signalbox data pairs completions " + shell_word(file) + output(file, "pairs");
  return "";
}

std::string convert_command(const std::string& file, const json::Value& object) {
  const bool whole = has(object, "prompt") || has(object, "messages") || has(object, "tokens");
  std::vector<std::string> map;
  if (!whole && !has(object, "question")) {
    const std::string prompt = likely_prompt(object);
    map.push_back("question=" + (prompt.empty() ? "KEY" : prompt));
  }
  for (const auto& [theirs, ours] : other_names()) {
    const std::string start = std::string(ours) + "=";
    const auto mapped = [&](const std::string& one) { return one.starts_with(start); };
    if (has(object, theirs) && !has(object, ours) && std::none_of(map.begin(), map.end(), mapped))
      map.push_back(start + std::string(theirs));
  }
  return convert(file) + (map.empty() ? "" : " --map " + shell_word(joined(map, ","))) + output(file, "records");
}

std::span<const std::pair<std::string_view, std::string_view>> other_names() {
  static constexpr std::pair<std::string_view, std::string_view> names[] = {
      {"answer", "answers"},       {"gold", "answers"},       {"label", "condition"},  {"context", "document"},
      {"passage", "document"},     {"completion", "target"},  {"kind", "condition"},   {"category", "domain"},
      {"options", "choices"},      {"is_harmful", "harmful"}, {"keyword", "keywords"}, {"group", "pair"},
      {"conditions", "condition"}, {"targets", "target"},     {"span", "spans"}};
  return names;
}

std::string hint_for_row(const std::string& file, const json::Value& object, const Error& error) {
  if (object.type() != json::Type::object) return "";
  const bool prompt = has(object, "prompt") || has(object, "messages") || has(object, "tokens");
  if (!prompt || !has(object, "id")) {
    const std::string command = convert_command(file, object);
    return "; rows of other keys become records with " + command +
           (command.find("=KEY") == std::string::npos ? "" : ", KEY one of " + keys_of(object));
  }
  if (error.reason().starts_with("id: expected a unique id"))
    return "; " + convert(file) + " --new-ids" + output(file, "records") + " numbers the records";
  return "";
}

std::string hint_for_lacking(const std::string& file, const std::vector<Record>& records, std::string_view lacking) {
  const auto mapped = [&](const std::string& key) {
    return "; where the file has it under another key: " + convert(file) + " --map " + key + "=KEY" +
           output(file, "records");
  };
  if (lacking == "pair" || lacking == "a pair with and without a document and with one target") {
    const std::string command = pairs_command(file, records);
    return command.find(" document ") == std::string::npos
               ? "; pairs are made of a \"question\" and a \"document\" (signalbox data pairs document --help)"
               : "; " + command + " --target";
  }
  if (lacking == "target" && any_has(records, {"question", "document"}))
    return "; signalbox data pairs document " + shell_word(file) + " --target" + output(file, "pairs");
  for (const char* key : {"target", "answers", "document", "memory", "answerable", "harmful"})
    if (lacking == key) return mapped(key);
  if (lacking == "choices and choice") return mapped("choices=KEY,choice");
  return "";
}

std::string hint_for_condition(const std::string& file, const std::vector<Record>& records) {
  const bool none = std::all_of(records.begin(), records.end(), [](const Record& r) { return r.condition.empty(); });
  if (!none) return "";
  const std::string command = pairs_command(file, records);
  if (!command.empty()) return "; " + command + " makes two conditions";
  return "; where another key tells the two sides apart: " + convert(file) + " --map condition=KEY" +
         output(file, "records");
}

std::string hint_for_span(const std::string& file) {
  return "; a template's placeholders become spans: " + convert(file) +
         " --template 'Document: {document}\\nQuestion: {question}\\nAnswer:'" + output(file, "records");
}

}  // namespace signalbox::eval
