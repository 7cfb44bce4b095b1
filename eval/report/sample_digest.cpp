#include "eval/report/sample_digest.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>

#include "base/no_number.h"
#include "base/utf8.h"
#include "eval/data/records.h"
#include "eval/score/sample_lines.h"
#include "eval/store/journal.h"
#include "eval/store/manifest.h"

namespace signalbox::eval {

namespace {

constexpr size_t most_records = 2000, most_bytes = 1500;

// At most most_bytes, cut between characters, and said so.
std::string shortened(const std::string& text) {
  if (text.size() <= most_bytes) return text;
  return utf8_prefix(text, most_bytes) + " [cut here]";
}

std::string question_of(const Record& record) {
  if (const json::Value* question = record.source.find("question"); question && question->is_string())
    return question->string();
  if (record.kind == Record::Kind::prompt) return record.prompt;
  if (record.kind == Record::Kind::messages && !record.messages.items().empty())
    if (const json::Value* content = record.messages.items().back().find("content"); content && content->is_string())
      return content->string();
  return "";
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

}  // namespace

SampleDigest digest_samples(const std::filesystem::path& dir, const std::string& baseline,
                            const std::vector<std::string>& interventions, size_t n_examples) {
  const auto for_each_line = line_reader(dir);
  SampleDigest out;
  std::map<std::string, SampleLine> base;  // by id
  std::optional<uint64_t> first_seed;
  // A text of the first seed's first sample.
  const auto is_first = [&](const Sample& sample) {
    return sample.has_text && sample.decoded && sample.seed == *first_seed && sample.sample == 0;
  };
  for_each_line([&](SampleLine line) {
    const Sample& sample = line.sample;
    if (!first_seed) first_seed = sample.seed;
    if (sample.has_text && sample.decoded) {
      TextCounts& counts = out.counts[line.intervention];
      ++counts.texts;
      counts.truncated += sample.finish_reason == "length";
      counts.empty += sample.text.find_first_not_of(" \t\r\n") == std::string::npos;
    }
    if (line.intervention == baseline && is_first(sample) && base.size() < most_records) {
      const std::string id = sample.id;
      base.emplace(id, std::move(line));
    }
  });
  if (base.empty()) return out;

  std::map<std::string, std::vector<ExamplePair>> changed, others;  // with and without a changed score
  for_each_line([&](const SampleLine& line) {
    if (!is_first(line.sample)) return;
    if (std::find(interventions.begin(), interventions.end(), line.intervention) == interventions.end()) return;
    const auto found = base.find(line.sample.id);
    if (found == base.end()) return;
    ShownTexts& shown = out.shown[line.intervention];
    ++shown.compared;
    if (found->second.sample.text == line.sample.text) return;
    ++shown.changed;
    ExamplePair pair{line.sample.id, "", shortened(found->second.sample.text), shortened(line.sample.text), {}};
    for (const auto& [metric, value] : line.scores)
      for (const auto& [other, before] : found->second.scores)
        if (metric == other && value != before)
          pair.scores.push_back({metric, before.value_or(no_number), value.value_or(no_number)});
    std::vector<ExamplePair>& list = (pair.scores.empty() ? others : changed)[line.intervention];
    if (list.size() < n_examples) list.push_back(std::move(pair));
  });
  std::map<std::string, std::string> questions;
  if (std::filesystem::exists(dir / "records.jsonl"))
    for (const Record& record : read_records((dir / "records.jsonl").string()))
      if (base.contains(record.id)) questions[record.id] = question_of(record);
  for (const std::string& name : interventions) {
    std::vector<ExamplePair> list = std::move(changed[name]);
    for (ExamplePair& pair : others[name])
      if (list.size() < n_examples) list.push_back(std::move(pair));
    for (ExamplePair& pair : list) pair.question = shortened(questions[pair.id]);
    if (!list.empty()) out.examples[name] = std::move(list);
  }
  return out;
}

}  // namespace signalbox::eval
