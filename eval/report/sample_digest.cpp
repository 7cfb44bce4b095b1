#include "eval/report/sample_digest.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "base/files.h"
#include "base/json.h"
#include "eval/data/records.h"

namespace signalbox {

namespace {

constexpr size_t most_records = 2000, most_bytes = 1500;

// At most most_bytes, cut between characters, and said so.
std::string shortened(const std::string& text) {
  if (text.size() <= most_bytes) return text;
  size_t end = most_bytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return text.substr(0, end) + " [cut here]";
}

struct Line {
  std::string intervention, id, text, finish;
  uint64_t seed = 0;
  int64_t sample = 0;
  bool has_text = false;
  std::vector<std::pair<std::string, double>> scores;
};

Line read_line(const json::Ref& line) {
  Line out;
  out.intervention = line.at("intervention").string();
  out.id = line.at("id").string();
  out.sample = line.at("sample").integer();
  const json::Ref seed = line.at("seed");
  out.seed = seed.value().is_unsigned() ? static_cast<uint64_t>(seed.value().integer())
                                        : static_cast<uint64_t>(seed.integer());
  if (const auto text = line.find("text")) {
    out.has_text = true;
    out.text = text->string();
  }
  if (const auto finish = line.find("finish_reason")) out.finish = finish->string();
  if (const auto scores = line.find("scores"))
    for (const auto& [name, value] : scores->members())
      out.scores.emplace_back(name, value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.number());
  return out;
}

template <class Take>
void for_each_line(const std::filesystem::path& file, Take take) {
  LineReader reader(file);
  for (std::string_view text; reader.next(text);) {
    const json::Value value = json::parse(text, reader.where());
    take(read_line(json::Ref(value, reader.where())));
  }
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

bool same(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

}  // namespace

SampleDigest digest_samples(const std::filesystem::path& dir, const std::string& baseline,
                            const std::vector<std::string>& interventions, size_t n_examples) {
  const std::filesystem::path file = dir / "samples.jsonl";
  SampleDigest out;
  std::map<std::string, Line> base;  // by id
  std::optional<uint64_t> first_seed;
  for_each_line(file, [&](Line line) {
    if (!first_seed) first_seed = line.seed;
    if (line.has_text) {
      TextCounts& counts = out.counts[line.intervention];
      ++counts.texts;
      counts.truncated += line.finish == "length";
      counts.empty += line.text.find_first_not_of(" \t\r\n") == std::string::npos;
    }
    if (line.has_text && line.intervention == baseline && line.seed == *first_seed && line.sample == 0 &&
        base.size() < most_records)
      base.emplace(line.id, std::move(line));
  });
  if (base.empty()) return out;

  std::map<std::string, std::vector<ExamplePair>> changed, others;  // with and without a changed score
  for_each_line(file, [&](const Line& line) {
    if (!line.has_text || line.seed != *first_seed || line.sample != 0) return;
    if (std::find(interventions.begin(), interventions.end(), line.intervention) == interventions.end()) return;
    const auto found = base.find(line.id);
    if (found == base.end() || found->second.text == line.text) return;
    ExamplePair pair{line.id, "", shortened(found->second.text), shortened(line.text), {}};
    for (const auto& [metric, value] : line.scores)
      for (const auto& [other, before] : found->second.scores)
        if (metric == other && !same(value, before)) pair.scores.push_back({metric, before, value});
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

}  // namespace signalbox
