// The records of a study of format sensitivity.
#include <map>

#include "base/error.h"
#include "eval/causal/commutativity.h"
#include "eval/causal/format_sensitivity.h"

namespace signalbox::eval {

namespace {

constexpr const char* blanks = " \t\r\n";

void require_target(const Record& record) {
  if (!record.target) throw Error(record.where, "expected a key \"target\" with the answer, found none");
}

// The formats of one prompt, by name; the first is the base.
std::vector<std::pair<std::string, std::string>> formats_of(const std::string& prompt) {
  std::vector<std::pair<std::string, std::string>> formats = {{base_format, prompt},
                                                              {"trailing_blank", prompt + " "},
                                                              {"trailing_newline", prompt + "\n"},
                                                              {"leading_blank", " " + prompt}};
  const size_t first = prompt.find_first_not_of(blanks),
               blank = first == std::string::npos ? first : prompt.find(' ', first);
  if (blank != std::string::npos && blank < prompt.find_last_not_of(blanks))
    formats.emplace_back("inner_blank", prompt.substr(0, blank) + " " + prompt.substr(blank));
  return formats;
}

}  // namespace

std::vector<Record> format_questions() {
  std::vector<Record> questions;
  for (const Record& product : product_records()) {
    if (product.prompt.find('*') == std::string::npos) continue;
    questions.push_back(parse_record(json::Value::object()
                                         .set("id", product.id)
                                         .set("prompt", "Compute " + product.prompt)
                                         .set("target", *product.target),
                                     product.where));
  }
  return questions;
}

std::vector<Record> formatted_records(std::vector<Record> records) {
  bool named = false;
  for (const Record& record : records) {
    require_target(record);
    named = named || !record.condition.empty();
  }
  if (!named) {
    std::vector<Record> out;
    for (const Record& record : records) {
      if (record.kind != Record::Kind::prompt)
        throw Error(record.where,
                    "expected a prompt to make formats of, or records with \"pair\" and \"condition\", found neither");
      for (const auto& [name, prompt] : formats_of(record.prompt)) {
        json::Value line = json::Value::object();
        line.set("id", name == base_format ? record.id : record.id + "/" + name).set("prompt", prompt);
        line.set("target", *record.target).set("pair", record.id).set("condition", name);
        out.push_back(parse_record(line, record.where));
      }
    }
    return out;
  }
  std::map<std::string, std::map<std::string, const Record*>> questions;
  for (const Record& record : records) {
    if (record.condition.empty())
      throw Error(record.where, "expected a key \"condition\" that names the format, as others have, found none");
    if (record.pair.empty()) throw Error(record.where, "expected a key \"pair\" that names the question, found none");
    if (!questions[record.pair].emplace(record.condition, &record).second)
      throw Error(record.where, "expected one record of pair \"" + record.pair + "\" in the format " +
                                    record.condition + ", found a second one");
  }
  for (const auto& [pair, formats] : questions) {
    const Record& any = *formats.begin()->second;
    const auto base = formats.find(base_format);
    if (base == formats.end() || formats.size() < 2)
      throw Error(any.where, "expected a record of condition base, and others, of pair \"" + pair + "\", found " +
                                 (base == formats.end() ? "no base" : "the base alone"));
    for (const auto& [name, record] : formats)
      if (*record->target != *base->second->target)
        throw Error(record->where, "expected the target of the base of pair \"" + pair + "\", \"" +
                                       *base->second->target + "\", found \"" + *record->target + "\"");
  }
  return records;
}

}  // namespace signalbox::eval
