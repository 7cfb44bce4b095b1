#include "eval/score/sample_lines.h"

#include <algorithm>
#include <array>

#include "base/files.h"
#include "base/no_number.h"

namespace signalbox::eval {

namespace {

// Keys of a record that are input and stay in the data, and keys that a line has of its own, in some runs if not in
// this one; the others travel with every line.
constexpr std::array inputs = {"prompt",        "messages",        "tokens",        "target",      "document",
                               "spans",         "choices",         "text",          "options",     "judged",
                               "scores",        "logprobs",        "sum_logprob",   "divergence",  "n_logprobs",
                               "same_top",      "mean_divergence", "finish_reason", "base_prompt", "run_tokens",
                               "edited_tokens", "run_slots",       "edited_slots"};

json::Value numbers(const std::vector<double>& values) {
  json::Value list = json::Value::array();
  for (const double value : values) list.push_back(value);
  return list;
}

// JSON has no other word than null for a number that is not finite.
double read_number(const json::Ref& value) { return value.is_null() ? no_number : value.number(); }

std::vector<double> read_numbers(const json::Ref& list) {
  std::vector<double> values;
  for (const json::Ref& item : list.items()) values.push_back(read_number(item));
  return values;
}

double mean_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

Sample read_sample(const json::Ref& line) {
  Sample sample;
  const json::Ref seed = line.at("seed");
  sample.seed = static_cast<uint64_t>(seed.value().is_unsigned() ? seed.value().integer() : seed.integer(0, INT64_MAX));
  sample.id = line.at("id").string();
  sample.sample = line.at("sample").size();
  if (const auto edited = line.find("edited_tokens"))
    sample.edits = EditCounts{line.at("run_tokens").size(), edited->size(), line.at("run_slots").size(),
                              line.at("edited_slots").size()};
  if (const auto reason = line.find("finish_reason")) {
    sample.has_text = true;
    const auto text = line.find("text");
    sample.decoded = text.has_value();
    if (text) sample.text = text->string();
    for (const json::Ref& token : line.at("tokens").items())
      sample.tokens.push_back(static_cast<int32_t>(token.integer(0, INT32_MAX)));
    sample.finish_reason = reason->string();
  }
  if (const auto sum = line.find("sum_logprob")) {
    sample.sum_logprob = sum->number();
    sample.n_logprobs = line.at("n_logprobs").size();
    if (const auto all = line.find("logprobs")) sample.logprobs = read_numbers(*all);
    if (const auto all = line.find("divergence")) sample.divergence = read_numbers(*all);
    if (const auto all = line.find("same_top"))
      for (const json::Ref& one : all->items()) sample.same_top.push_back(static_cast<uint8_t>(one.integer(0, 1)));
  }
  if (const auto options = line.find("options"))
    for (const json::Ref& option : options->items())
      sample.options.push_back(
          {read_number(option.at("sum_logprob")), option.at("n_tokens").size(), option.at("n_bytes").size()});
  if (const auto judged = line.find("judged"))
    for (const auto& [name, value] : judged->members()) sample.judged.emplace_back(name, value.number());
  return sample;
}

}  // namespace

void put_edit_counts(json::Value& line, const EditCounts& counts) {
  line.set("run_tokens", counts.tokens).set("edited_tokens", counts.edited_tokens);
  line.set("run_slots", counts.slots).set("edited_slots", counts.edited_slots);
}

json::Value sample_line_json(const Record& record, const SampleLine& known) {
  const Sample& sample = known.sample;
  json::Value line = json::Value::object();
  line.set("seed", sample.seed).set("intervention", known.intervention);
  line.set("id", sample.id).set("sample", sample.sample);
  if (sample.edits) put_edit_counts(line, *sample.edits);
  if (sample.has_text) {
    json::Value tokens = json::Value::array();
    for (const int32_t token : sample.tokens) tokens.push_back(int64_t{token});
    line.set("text", sample.decoded ? json::Value(sample.text) : json::Value())
        .set("tokens", std::move(tokens))
        .set("finish_reason", sample.finish_reason);
  }
  if (sample.n_logprobs > 0) {
    line.set("sum_logprob", sample.sum_logprob).set("n_logprobs", sample.n_logprobs);
    if (record.target) line.set("logprobs", numbers(sample.logprobs));
    if (!sample.divergence.empty()) {
      if (record.target) {
        json::Value same = json::Value::array();
        for (const uint8_t one : sample.same_top) same.push_back(int64_t{one});
        line.set("divergence", numbers(sample.divergence)).set("same_top", std::move(same));
      } else {
        line.set("mean_divergence", mean_of(sample.divergence));
      }
    }
  }
  if (!sample.options.empty()) {
    json::Value options = json::Value::array();
    for (const OptionScore& option : sample.options) {
      json::Value one = json::Value::object();
      one.set("sum_logprob", option.sum_logprob).set("n_tokens", option.n_tokens).set("n_bytes", option.n_bytes);
      options.push_back(std::move(one));
    }
    line.set("options", std::move(options));
  }
  if (!sample.judged.empty()) {
    json::Value judged = json::Value::object();
    for (const auto& [name, value] : sample.judged) judged.set(name, value);
    line.set("judged", std::move(judged));
  }
  json::Value all = json::Value::object();
  for (const auto& [name, value] : known.scores) all.set(name, value ? json::Value(*value) : json::Value());
  line.set("scores", std::move(all));
  for (const auto& [key, value] : record.source.members())
    if (!line.find(key) && std::find(inputs.begin(), inputs.end(), key) == inputs.end()) line.set(key, value);
  return line;
}

SampleLine read_sample_line(const json::Ref& line) {
  SampleLine known;
  known.intervention = line.at("intervention").string();
  known.sample = read_sample(line);
  for (const auto& [name, value] : line.at("scores").members())
    known.scores.emplace_back(name, value.is_null() ? std::nullopt : std::optional(value.number()));
  return known;
}

void for_each_sample_line(const std::filesystem::path& file,
                          const std::function<void(SampleLine line, const json::Ref& source)>& take) {
  LineReader reader(file);
  for (std::string_view text; reader.next(text);) {
    const json::Value value = json::parse(text, reader.where());
    const json::Ref line(value, reader.where());
    take(read_sample_line(line), line);
  }
}

void for_each_finished_line(
    const FinishedLines& lines,
    const std::function<void(SampleLine line, const Place& place, const json::Ref& source)>& take) {
  for (int64_t i = 0; i < lines.n_lines(); ++i) {
    if (!lines.has(i)) continue;
    const json::Value value = json::parse(lines.text(i), lines.where(i));
    const json::Ref line(value, lines.where(i));
    const Place place = lines.layout().place(i);
    lines.layout().check_line(place, line);
    take(read_sample_line(line), place, line);
  }
}

}  // namespace signalbox::eval
