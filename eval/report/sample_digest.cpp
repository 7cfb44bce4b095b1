#include "eval/report/sample_digest.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <optional>

#include "base/no_number.h"
#include "base/sha256.h"
#include "base/utf8.h"
#include "eval/data/records.h"
#include "eval/score/sample_lines.h"
#include "eval/store/journal.h"
#include "eval/store/manifest.h"

namespace signalbox::eval {

namespace {

// Bytes of a text in the page beside itself: quotes, commas, scores.
constexpr size_t bytes_beside_text = 40;

std::string question_of(const Record& record) {
  if (const json::Value* question = record.source.find("question"); question && question->is_string())
    return question->string();
  if (record.kind == Record::Kind::prompt) return record.prompt;
  if (record.kind == Record::Kind::messages && !record.messages.items().empty())
    if (const json::Value* content = record.messages.items().back().find("content"); content && content->is_string())
      return content->string();
  return "";
}

std::string prompt_of(const Record& record) {
  if (record.kind == Record::Kind::prompt) return record.prompt;
  std::string out;
  if (record.kind == Record::Kind::messages)
    for (const json::Value& message : record.messages.items()) {
      const json::Value *role = message.find("role"), *content = message.find("content");
      if (!role || !role->is_string() || !content || !content->is_string()) continue;
      out += (out.empty() ? "" : "\n\n") + role->string() + ": " + content->string();
    }
  return out;
}

using TakeLine = std::function<void(SampleLine line)>;

// Reads the lines of a run, finished or not, in order.
std::function<void(const TakeLine&)> line_reader(const std::filesystem::path& dir) {
  const std::filesystem::path file = dir / samples_file;
  if (schema_of(dir) == run_schema) {
    const std::optional<Manifest> manifest = Manifest::read(dir);
    if (manifest && manifest->status != RunStatus::complete && manifest->layout) {
      const auto lines = std::make_shared<const FinishedLines>(dir, *manifest->layout);
      return [lines](const TakeLine& take) {
        for_each_finished_line(*lines, [&](SampleLine line, const Place&, const json::Ref&) { take(std::move(line)); });
      };
    }
  }
  return [file](const TakeLine& take) {
    for_each_sample_line(file, [&](SampleLine line, const json::Ref&) { take(std::move(line)); });
  };
}

// A record with a text of the baseline, before it is known whether there is room for it.
struct Candidate {
  std::string id, example;  // of one pair
  size_t bytes = 0;
};

std::string shortened(const std::string& text, SampleDigest& digest) {
  if (text.size() <= most_bytes_of_text) return text;
  ++digest.n_cut;
  return utf8_prefix(text, most_bytes_of_text) + " [cut here]";
}

// Of examples in an order that has nothing to do with what is in them, the first for which there is room.
std::map<std::string, size_t> chosen_of(const std::vector<Candidate>& candidates, size_t most_bytes) {
  std::map<std::string, size_t> bytes;  // by example
  for (const Candidate& one : candidates) bytes[one.example] += one.bytes;
  std::vector<std::pair<std::string, std::string>> order;  // drawn, example
  for (const auto& [example, unused] : bytes) order.emplace_back(sha256_hex(example), example);
  std::sort(order.begin(), order.end());
  std::map<std::string, size_t> chosen;  // example to bytes
  size_t used = 0;
  for (const auto& [unused, example] : order) {
    used += bytes[example];
    if (used > most_bytes && !chosen.empty()) break;
    chosen[example] = bytes[example];
  }
  std::map<std::string, size_t> places;  // of the ids, in the order of the run
  for (const Candidate& one : candidates)
    if (chosen.contains(one.example)) places.emplace(one.id, places.size());
  return places;
}

}  // namespace

bool text_changed(const ShownRecord& record, size_t intervention) {
  const ShownText &one = record.texts[intervention], &base = record.texts[0];
  return one.has && one.text != base.text;
}

bool score_changed(const ShownRecord& record, size_t intervention) {
  const ShownText &one = record.texts[intervention], &base = record.texts[0];
  if (!one.has) return false;
  for (size_t m = 0; m < one.scores.size(); ++m)
    if (one.scores[m] != base.scores[m] && !(std::isnan(one.scores[m]) && std::isnan(base.scores[m]))) return true;
  return false;
}

SampleDigest digest_samples(const std::filesystem::path& dir, const std::string& baseline,
                            const std::vector<std::string>& interventions, size_t most_bytes) {
  const auto for_each_line = line_reader(dir);
  SampleDigest out;
  out.interventions = {baseline};
  out.interventions.insert(out.interventions.end(), interventions.begin(), interventions.end());
  std::map<std::string, size_t> places;  // of the interventions
  for (size_t i = 0; i < out.interventions.size(); ++i) places.emplace(out.interventions[i], i);

  std::map<std::string, Record> records;
  if (std::filesystem::exists(dir / "records.jsonl"))
    for (Record& record : read_records((dir / "records.jsonl").string())) {
      std::string id = record.id;
      records.emplace(std::move(id), std::move(record));
    }

  std::optional<uint64_t> first_seed;
  // A text of the first seed's first sample.
  const auto is_first = [&](const Sample& sample) {
    return sample.has_text && sample.decoded && sample.seed == *first_seed && sample.sample == 0;
  };
  std::vector<Candidate> candidates;
  std::map<std::string, size_t> candidate;  // by id
  for_each_line([&](const SampleLine& line) {
    const Sample& sample = line.sample;
    if (!first_seed) first_seed = sample.seed;
    if (sample.has_text && sample.decoded) {
      TextCounts& counts = out.counts[line.intervention];
      ++counts.texts;
      counts.truncated += sample.finish_reason == "length";
      counts.empty += sample.text.find_first_not_of(" \t\r\n") == std::string::npos;
    }
    if (!is_first(sample) || !places.contains(line.intervention)) return;
    for (const auto& [metric, unused] : line.scores)
      if (std::find(out.metrics.begin(), out.metrics.end(), metric) == out.metrics.end()) out.metrics.push_back(metric);
    const auto [found, is_new] = candidate.emplace(sample.id, candidates.size());
    if (is_new) {
      const auto record = records.find(sample.id);
      const bool known = record != records.end();
      const size_t prompt = known ? question_of(record->second).size() + prompt_of(record->second).size() : 0;
      candidates.push_back(
          {sample.id, known && !record->second.pair.empty() ? record->second.pair : sample.id, prompt});
    }
    candidates[found->second].bytes += std::min(sample.text.size(), most_bytes_of_text) + bytes_beside_text;
  });
  if (candidates.empty()) return out;

  const std::map<std::string, size_t> chosen = chosen_of(candidates, most_bytes);
  out.records.resize(chosen.size());
  for (const auto& [id, place] : chosen) {
    ShownRecord& shown = out.records[place];
    shown.id = id;
    shown.texts.resize(out.interventions.size());
    if (const auto found = records.find(id); found != records.end()) {
      shown.condition = found->second.condition;
      shown.question = shortened(question_of(found->second), out);
      shown.prompt = shortened(prompt_of(found->second), out);
    }
  }
  for_each_line([&](const SampleLine& line) {
    if (!is_first(line.sample)) return;
    const auto intervention = places.find(line.intervention);
    const auto record = chosen.find(line.sample.id);
    if (intervention == places.end()) return;
    out.n_records += intervention->second == 0;
    if (record == chosen.end()) return;
    ShownText& text = out.records[record->second].texts[intervention->second];
    text.has = true;
    text.text = shortened(line.sample.text, out);
    text.finish_reason = line.sample.finish_reason;
    text.scores.assign(out.metrics.size(), no_number);
    for (const auto& [metric, value] : line.scores)
      for (size_t m = 0; m < out.metrics.size(); ++m)
        if (out.metrics[m] == metric) text.scores[m] = value.value_or(no_number);
  });
  // Of a run that is not finished some have no baseline yet.
  std::erase_if(out.records, [](const ShownRecord& record) { return !record.texts[0].has; });
  return out;
}

}  // namespace signalbox::eval
