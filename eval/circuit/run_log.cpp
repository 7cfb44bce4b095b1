#include "eval/circuit/run_log.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "base/sha256.h"

namespace signalbox::eval {

namespace {

constexpr int64_t most_results = int64_t{1} << 20;

std::string key_of(const json::Ref& line) { return line.at("id").string(); }

}  // namespace

RunLog::RunLog(const Kept& kept) {
  if (kept.stem.empty()) return;
  made_directory(kept.stem.parent_path());
  const std::string file = kept.stem.string() + ".jsonl";
  LineRules rules;
  rules.n_lines = most_results;
  rules.name = [](int64_t line) { return "result " + std::to_string(line); };
  rules.check_line = [](int64_t, const json::Ref& value) {
    key_of(value);
    for (const json::Ref& number : value.at("values").items()) number.number();
  };
  log_ = std::make_unique<LineLog>(file, kept.stem.string() + ".journal.jsonl", std::move(rules));
  for (int64_t i = 0; i < log_->n_known(); ++i) {
    const json::Value line = json::parse(log_->line(i), file);
    const json::Ref at(line, file);
    std::vector<double>& values = known_[key_of(at)];
    for (const json::Ref& number : at.at("values").items()) values.push_back(number.number());
  }
  if (!known_.empty() && kept.on_kept) kept.on_kept(std::to_string(known_.size()) + " results of runs");
}

std::vector<double> RunLog::known_or(const std::string& name, const std::function<std::vector<double>()>& make) {
  if (!log_) return make();
  const std::string key = sha256_hex(name).substr(0, 32);
  if (const auto found = known_.find(key); found != known_.end()) return found->second;
  std::vector<double> values = make();
  const bool finite = std::all_of(values.begin(), values.end(), [](double x) { return std::isfinite(x); });
  if (!finite || log_->n_known() >= most_results) return values;
  json::Value list = json::Value::array();
  for (const double x : values) list.push_back(x);
  log_->put(log_->n_known(), json::dump(json::Value::object().set("id", key).set("values", std::move(list))));
  known_[key] = values;
  return values;
}

}  // namespace signalbox::eval
