#include "eval/data/convert.h"

#include <algorithm>
#include <filesystem>
#include <unordered_map>

#include "base/text.h"
#include "eval/data/records.h"

namespace signalbox::eval {

namespace {

constexpr Converter table[] = {
    {"squad", "SQuAD 1.1 or 2.0: the published .json, or rows as .jsonl", false, "", read_squad},
    {"faitheval-counterfactual", "FaithEval, counterfactual: rows as .jsonl", false, "", read_faitheval_counterfactual},
    {"faitheval-unanswerable", "FaithEval, unanswerable: rows as .jsonl", false,
     "If the document does not give the answer, answer unknown.", read_faitheval_unanswerable},
    {"faitheval-inconsistent", "FaithEval, inconsistent: rows as .jsonl", false,
     "If the document gives conflicting answers, answer conflict.", read_faitheval_inconsistent},
    {"mctest", "MCTest: .tsv with its .ans beside it or after it", false, "", read_mctest},
    {"xstest", "XSTest prompts: .csv or .jsonl", true, "", read_xstest},
    {"advbench", "AdvBench behaviours (goal, target): .csv or .jsonl", true, "", read_advbench},
    {"beavertails", "BeaverTails (prompt, response, is_safe): .jsonl", true, "", read_beavertails},
};

// The value that a dotted path leads to; a key that holds the dots itself comes first.
json::Ref follow(const json::Ref& root, const std::string& path) {
  const size_t dot = path.find('.');
  if (dot == std::string::npos || root.value().find(path)) return root.at(path);
  const json::Ref next = root.at(path.substr(0, dot));
  next.expect_object();
  return follow(next, path.substr(dot + 1));
}

// A mapped value in the type that our key has: CSV and other people's files spell some of them otherwise.
json::Value typed(const std::string& key, const json::Ref& value) {
  const bool scalar = value.value().is_string() || value.value().is_number();
  if (key == "id") return id_text(value);
  if (key == "answers") {
    if (value.value().is_string() && value.string().starts_with('[')) return json::parse(value.string(), value.where());
    json::Value list = json::Value::array();
    if (scalar) list.push_back(id_text(value));
    if (!scalar)
      for (const json::Ref& item : value.items()) list.push_back(id_text(item));
    return list;
  }
  if (!value.value().is_string()) return value.value();
  const std::string& text = value.string();
  if (key == "choices" || key == "messages" || key == "tokens" || key == "spans")
    return json::parse(text, value.where() + ": " + value.path());
  if (key == "choice" || key == "answerable" || key == "harmful") {
    const json::Value parsed = json::parse(ascii_lower(text), value.where() + ": " + value.path());
    const json::Ref checked(parsed, value.where(), value.path());
    if (key == "choice") checked.integer();
    if (key != "choice") checked.boolean();
    return parsed;
  }
  return value.value();
}

}  // namespace

std::span<const Converter> converters() { return table; }

const Converter* find_converter(std::string_view name) {
  for (const Converter& converter : table)
    if (converter.name == name) return &converter;
  return nullptr;
}

std::string id_text(const json::Ref& value) {
  if (value.value().is_number()) return json::dump(value.value());
  return value.string();
}

void carry_rest(const json::Value& from, std::initializer_list<std::string_view> used, json::Value& to) {
  for (const auto& [key, value] : from.members())
    if (std::find(used.begin(), used.end(), key) == used.end() && !to.find(key)) to.set(key, value);
}

KeyMap parse_key_map(const std::string& text) {
  KeyMap map;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    const std::string part = text.substr(at, end - at);
    const size_t equals = part.find('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == part.size())
      throw UsageError("--map", "expected OURS=THEIRS[,OURS=THEIRS...], found \"" + part + "\"");
    for (const auto& [ours, theirs] : map)
      if (ours == part.substr(0, equals)) throw UsageError("--map", "expected \"" + ours + "\" once, found it twice");
    map.emplace_back(part.substr(0, equals), part.substr(equals + 1));
    at = end + 1;
  }
  return map;
}

std::string file_stem(const std::string& file) {
  return file == "-" ? "input" : std::filesystem::path(file).stem().string();
}

std::vector<Row> read_mapped(const std::vector<std::string>& files, const KeyMap& map, bool new_ids) {
  std::vector<Row> drafts;
  for (const std::string& file : files) {
    int64_t number = 0;
    for (const Row& row : read_rows(file)) {
      ++number;
      const json::Ref root(row.object, row.where);
      json::Value draft = json::Value::object();
      std::vector<std::string> used;
      for (const auto& [ours, theirs] : map) {
        draft.set(ours, typed(ours, follow(root, theirs)));
        used.push_back(theirs.substr(0, row.object.find(theirs) ? theirs.size() : theirs.find('.')));
      }
      const bool csv = is_csv_file(file);
      for (const auto& [key, value] : row.object.members()) {
        if (std::find(used.begin(), used.end(), key) != used.end() || draft.find(key)) continue;
        if (csv && value.string().empty() && key != "prompt") continue;  // an empty cell is an absent key
        draft.set(key, typed(key, root.at(key)));
      }
      const std::string id = file_stem(file) + "-" + std::to_string(number);
      if (new_ids) {
        json::Value renamed = json::Value::object();
        renamed.set("id", id);
        for (const auto& [key, value] : draft.members()) renamed.set(key == "id" ? "source_id" : key, value);
        draft = std::move(renamed);
      } else if (!draft.find("id")) {
        draft.set("id", id);
      }
      drafts.push_back({row.where, std::move(draft)});
    }
  }
  return drafts;
}

void check_records(const std::vector<Row>& rows) {
  std::unordered_map<std::string, std::string> seen;
  for (const Row& row : rows) {
    const Record record = parse_record(row.object, row.where);
    auto [earlier, fresh] = seen.emplace(record.id, row.where);
    if (!fresh)
      throw Error(row.where,
                  "id: expected a unique id, found \"" + record.id + "\" again (first at " + earlier->second + ")");
  }
  if (rows.empty()) throw Error("records", "expected at least one, found none");
}

std::string dump_records(const std::vector<Row>& rows) {
  std::string out;
  for (const Row& row : rows) out += json::dump(row.object) + "\n";
  return out;
}

}  // namespace signalbox::eval
