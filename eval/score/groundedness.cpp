// Does the answer come from the document?
#include <algorithm>
#include <array>
#include <map>
#include <numeric>

#include "eval/score/answers.h"
#include "eval/score/tables.h"

namespace signalbox::eval {

namespace {

std::string lacks_document(const Record& record) { return document_of(record) ? "" : "document"; }

// "1912" is not in "19120", so whole words. The whole final answer must stand in the document, or an answer of the
// record must stand in both.
bool stands_in(const std::string& document, const Record& record, const Sample& sample) {
  const std::string found = answer_of(sample.text);
  if (holds_words(document, found)) return true;
  return std::any_of(record.answers.begin(), record.answers.end(), [&](const std::string& answer) {
    const std::string gold = answer_of(answer);
    return holds_words(found, gold) && holds_words(document, gold);
  });
}

std::optional<double> grounded(const Record& record, const Sample& sample) {
  const auto document = document_of(record);
  if (!document || !sample.has_text) return std::nullopt;
  return as_score(stands_in(*document, record, sample));
}

constexpr size_t n_elsewhere = 20;

// For each record the documents of the next n_elsewhere records (the first follow the last) with another one; each
// once.
std::vector<std::vector<std::string>> documents_elsewhere(std::span<const Record> records) {
  std::vector<std::optional<std::string>> own;
  for (const Record& record : records) own.push_back(document_of(record));
  std::vector<std::vector<std::string>> out(records.size());
  for (size_t r = 0; r < records.size(); ++r)
    for (size_t step = 1; own[r] && step < records.size() && out[r].size() < n_elsewhere; ++step) {
      const auto& other = own[(r + step) % records.size()];
      if (other && *other != *own[r] && std::find(out[r].begin(), out[r].end(), *other) == out[r].end())
        out[r].push_back(*other);
    }
  return out;
}

std::string lacks_other_documents(std::span<const Record> records) {
  for (const auto& others : documents_elsewhere(records))
    if (!others.empty()) return {};
  return "two documents";
}

// `grounded` of the same answers in documents that they were not given: what chance does.
std::vector<ScoredUnit> grounded_elsewhere(const SampleGroup& group) {
  const auto elsewhere = documents_elsewhere(group.records);
  std::vector<ScoredUnit> out;
  for (const Sample& sample : group.samples) {
    const auto& others = elsewhere[static_cast<size_t>(sample.record)];
    if (others.empty() || !sample.has_text) continue;
    const Record& record = group.records[static_cast<size_t>(sample.record)];
    const auto n = std::count_if(others.begin(), others.end(),
                                 [&](const std::string& document) { return stands_in(document, record, sample); });
    out.push_back({sample.record, static_cast<double>(n) / static_cast<double>(others.size())});
  }
  return out;
}

std::string lacks_memory(const Record& record) {
  if (record.answers.empty()) return "answers";
  return memory_of(record).empty() ? "memory" : "";
}

bool holds_any(const std::string& text, const std::vector<std::string>& answers) {
  return std::any_of(answers.begin(), answers.end(),
                     [&](const std::string& answer) { return holds_words(text, answer_of(answer)); });
}

std::optional<double> context_answer(const Record& record, const Sample& sample) {
  if (!sample.has_text || !lacks_memory(record).empty()) return std::nullopt;
  const std::string found = answer_of(sample.text);
  return as_score(holds_any(found, record.answers) && !holds_any(found, memory_of(record)));
}

std::optional<double> memory_answer(const Record& record, const Sample& sample) {
  if (!sample.has_text || !lacks_memory(record).empty()) return std::nullopt;
  const std::string found = answer_of(sample.text);
  return as_score(holds_any(found, memory_of(record)) && !holds_any(found, record.answers));
}

std::string lacks_pair(const Record& record) {
  if (record.pair.empty()) return "pair";
  return record.target ? "" : "target";
}

// The side of its pair; none: another text stands before the question.
enum class DocumentSide : uint8_t { none, with, without };
DocumentSide side_of(const Record& record) {
  if (record.condition == "with_document") return DocumentSide::with;
  if (record.condition == "without_document") return DocumentSide::without;
  if (record.condition == "unrelated_document" || record.condition == "shuffled_document") return DocumentSide::none;
  return document_of(record) ? DocumentSide::with : DocumentSide::without;
}

std::string lacks_whole_pair(std::span<const Record> records) {
  struct Sides {
    const Record* first = nullptr;
    bool same_target = true, with = false, without = false;
  };
  std::map<std::string, Sides> pairs;
  for (const Record& record : records) {
    if (!lacks_pair(record).empty() || side_of(record) == DocumentSide::none) continue;
    Sides& sides = pairs[record.pair];
    if (!sides.first) sides.first = &record;
    sides.same_target = sides.same_target && record.target == sides.first->target;
    (side_of(record) == DocumentSide::with ? sides.with : sides.without) = true;
  }
  for (const auto& [pair, sides] : pairs)
    if (sides.same_target && sides.with && sides.without) return {};
  return "a pair with and without a document and with one target";
}

std::vector<ScoredUnit> document_gain(const SampleGroup& group) {
  struct Sides {
    int64_t first = -1;
    bool same_target = true;
    std::vector<double> with, without;
  };
  std::map<std::tuple<std::string, uint64_t, int64_t>, Sides> pairs;
  for (const Sample& sample : group.samples) {
    const Record& record = group.records[static_cast<size_t>(sample.record)];
    if (!lacks_pair(record).empty() || side_of(record) == DocumentSide::none || sample.logprobs.empty()) continue;
    Sides& sides = pairs[{record.pair, sample.seed, sample.sample}];
    if (sides.first < 0) sides.first = sample.record;
    sides.first = std::min(sides.first, sample.record);
    sides.same_target = sides.same_target && record.target == group.records[static_cast<size_t>(sides.first)].target;
    const double sum = std::accumulate(sample.logprobs.begin(), sample.logprobs.end(), 0.0);
    (side_of(record) == DocumentSide::with ? sides.with : sides.without).push_back(sum);
  }
  const auto mean = [](const std::vector<double>& values) {
    return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  };
  std::vector<ScoredUnit> out;
  for (const auto& [key, sides] : pairs)
    if (sides.same_target && !sides.with.empty() && !sides.without.empty())
      out.push_back({sides.first, mean(sides.with) - mean(sides.without)});
  std::stable_sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.record < b.record; });
  return out;
}

constexpr std::array groundedness_rows = {
    Scorer{.name = "grounded",
           .summary = "the final answer, or an answer of the record that it holds, stands in the document; 0 or 1",
           .needs = Needs::text,
           .lacks = lacks_document,
           .score = grounded},
    Scorer{.name = "grounded_elsewhere",
           .summary = "share of 20 other records' documents in which the same answer would count as grounded; 0 ... 1",
           .needs = Needs::text,
           .lacks = lacks_document,
           .lacks_all = lacks_other_documents,
           .score_group = grounded_elsewhere},
    Scorer{.name = "context_answer",
           .summary = "the text gives the document's answer and not the memorised one; 0 or 1",
           .needs = Needs::text,
           .lacks = lacks_memory,
           .score = context_answer},
    Scorer{.name = "memory_answer",
           .summary = "the text gives the memorised answer and not the document's; 0 or 1",
           .needs = Needs::text,
           .lacks = lacks_memory,
           .score = memory_answer},
    Scorer{.name = "document_gain",
           .summary = "sum of log p of the target with the document minus without, a pair; nats",
           .needs = Needs::logprobs,
           .lacks = lacks_pair,
           .lacks_all = lacks_whole_pair,
           .score_group = document_gain},
};

}  // namespace

std::span<const Scorer> groundedness_scorers() { return groundedness_rows; }

}  // namespace signalbox::eval
