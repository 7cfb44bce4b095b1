// Experiment specs and records for tests, written as JSON with ' for ".
#pragma once
#include <string>
#include <vector>

#include "eval/data/records.h"
#include "eval/experiment/spec.h"
#include "tests/probes/sample.h"

namespace signalbox::test {

using namespace signalbox::eval;

inline json::Value quoted_json(std::string text, const std::string& where) {
  for (char& c : text)
    if (c == '\'') c = '"';
  return json::parse(text, where);
}

// The spec "S.json" whose keys are `more` after a model and data ("" = a baseline alone).
inline ExperimentSpec spec_of(const std::string& more, const std::filesystem::path& base_dir = ".") {
  const json::Value value = quoted_json("{'model': 'builtin', 'data': 'D.jsonl', " + more + "}", "S.json");
  return parse_experiment(json::Ref(value, "S.json"), base_dir);
}

// The message without the file, for a spec that is refused.
inline std::string spec_error(const std::string& more, const std::filesystem::path& base_dir = ".") {
  const std::string text = error_of([&] { spec_of(more, base_dir); });
  return text.starts_with("S.json: ") ? text.substr(8) : text;
}

// Interventions: a baseline and `more`.
inline std::string entries(const std::string& more = "") {
  return "'interventions': [{'name': 'baseline'}" + (more.empty() ? "" : ", " + more) + "]";
}

inline const std::string ban = "{'op': 'deactivate', 'mode': 'ban', 'experts': {'2': [1, 4]}}";

// A record a line, each an object without braces.
inline std::vector<Record> records_of(const std::vector<std::string>& lines) {
  std::vector<Record> records;
  for (const std::string& line : lines) {
    const std::string where = "D.jsonl:" + std::to_string(records.size() + 1);
    records.push_back(parse_record(quoted_json("{" + line + "}", where), where));
  }
  return records;
}

}  // namespace signalbox::test
