#include "train/rationale/factor_corpus.h"

#include <algorithm>
#include <map>
#include <set>
#include <string_view>

#include "base/error.h"
#include "base/files.h"
#include "base/near_names.h"
#include "base/text.h"
#include "eval/causal/recorded_run.h"
#include "eval/data/dice.h"
#include "eval/data/record_jobs.h"
#include "eval/rationale/word_places.h"
#include "train/rationale/factor_tensors.h"

namespace signalbox::train {

using namespace engine;
using namespace probes;

namespace {

std::vector<std::string> words_of(const Record& record) {
  std::vector<std::string> words;
  if (const auto found = json::Ref(record.source, record.where).find("words"))
    for (const json::Ref& word : found->items()) words.push_back(word.string());
  return words;
}

// [prompt tokens] the word of each.
std::vector<int32_t> words_of_tokens(const Session& session, const Record& record, int64_t n_tokens) {
  std::vector<int32_t> words(static_cast<size_t>(n_tokens), -1);
  if (record.kind == Record::Kind::tokens) {
    for (size_t t = 0; t < record.tokens.size(); ++t) words[t] = static_cast<int32_t>(t);
    return words;
  }
  const EncodedText text = record.kind == Record::Kind::prompt ? encode_prompt(record.prompt, session.encode)
                                                               : encode_messages(record.messages, session.encode);
  const std::vector<std::string> given = words_of(record);
  const std::vector<CharRange> places = places_of_words(record.where, text.text, 0, given);
  int32_t next = 0;
  for (size_t t = 0; t < text.tokens.size(); ++t) {
    const CharRange range = text.offsets[t];
    if (!given.empty())
      words[t] = word_of(range, places);
    else if (range.end > range.begin)
      words[t] = next++;
  }
  return words;
}

// Name of a label; empty: none; "-": does not count.
std::string label_name(const json::Ref& tag) {
  if (tag.is_null()) return "";
  if (!tag.value().is_string()) {
    const int64_t number = tag.integer();
    return number < 0 ? "-" : number == 0 ? "" : std::to_string(number);
  }
  std::string name = tag.string();
  if (name == "O" || name == "o") return "";
  if (name.size() > 2 && name[1] == '-' && std::string_view("BIESLU").find(name[0]) != std::string_view::npos)
    name.erase(0, 2);
  return name;
}

int32_t label_index(FactorCorpus& corpus, const std::string& name) {
  if (name.empty()) return 0;
  if (name == "-") return -1;
  const auto found = std::find(corpus.label_names.begin(), corpus.label_names.end(), name);
  if (found == corpus.label_names.end()) {
    corpus.label_names.push_back(name);
    return static_cast<int32_t>(corpus.label_names.size());
  }
  return static_cast<int32_t>(found - corpus.label_names.begin()) + 1;
}

std::optional<json::Ref> tags_of(const Record& record) {
  const json::Ref source(record.source, record.where);
  const auto tags = source.find("tags"), labels = source.find("labels");
  if (tags && labels) source.fail("expected one of \"tags\" and \"labels\", found both");
  return tags ? tags : labels;
}

int64_t n_words(const FactorCorpus& corpus, int64_t s) {
  int32_t last = -1;
  for (int64_t r = corpus.offsets[static_cast<size_t>(s)]; r < corpus.offsets[static_cast<size_t>(s) + 1]; ++r)
    last = std::max(last, corpus.words[static_cast<size_t>(r)]);
  return last + 1;
}

void add_targets(FactorCorpus& corpus, bool last) {
  corpus.d_target = corpus.d_hidden;
  const auto d = static_cast<size_t>(corpus.d_hidden);
  for (size_t s = 0; s + 1 < corpus.offsets.size(); ++s) {
    std::vector<double> sum(d, 0);
    const int64_t begin = last ? corpus.offsets[s + 1] - 1 : corpus.offsets[s];
    for (int64_t r = begin; r < corpus.offsets[s + 1]; ++r)
      for (size_t i = 0; i < d; ++i) sum[i] += static_cast<double>(corpus.hidden[static_cast<size_t>(r) * d + i]);
    for (const double x : sum)
      corpus.target.push_back(static_cast<float>(x / static_cast<double>(corpus.offsets[s + 1] - begin)));
  }
}

}  // namespace

std::vector<Record> read_factor_records(const std::string& file, bool text_required) {
  if (text_required || file == "-" || file.ends_with(".csv")) return read_records(file);
  std::vector<Record> records;
  std::set<std::string> ids;
  LineReader lines(file);
  for (std::string_view line; lines.next(line);) {
    if (trimmed(line).empty()) continue;
    json::Value object = json::parse(line, lines.where());
    json::Ref(object, lines.where()).expect_object();
    const bool text = object.find("prompt") || object.find("messages") || object.find("tokens");
    json::Value with_text = object;
    if (!text) with_text.set("prompt", "");
    records.push_back(parse_record(with_text, lines.where()));
    records.back().source = std::move(object);
    if (!ids.insert(records.back().id).second)
      throw Error(lines.where(), "expected an id of its own, found " + in_quotes(records.back().id) + " again");
  }
  if (records.empty()) throw Error(file, "expected at least one record, found none");
  return records;
}

FactorCorpus read_factor_corpus(const std::filesystem::path& path, const std::vector<Record>& records,
                                bool mean_target) {
  const auto file = safetensors::File::open(path);
  for (const safetensors::TensorInfo& tensor : file->tensors())
    if (tensor.name != "hidden" && tensor.name != "offsets" && tensor.name != "target" && tensor.name != "words")
      throw Error(path.string(),
                  "expected the tensors hidden, offsets, target and words, found " + in_quotes(tensor.name));
  FactorCorpus corpus;
  for (const Record& record : records) corpus.ids.push_back(record.id);
  corpus.d_hidden = dimension(*file, "hidden", 1, 2);
  const std::vector<double> hidden = read_doubles(*file, "hidden", {-1, corpus.d_hidden});
  corpus.hidden.assign(hidden.begin(), hidden.end());
  const auto n_rows = static_cast<int64_t>(hidden.size()) / corpus.d_hidden;
  corpus.offsets = read_offsets(*file, n_rows);
  if (corpus.offsets.size() != records.size() + 1)
    throw Error(path.string() + ": offsets", "expected the " + std::to_string(records.size()) +
                                                 " records of the data, found " +
                                                 std::to_string(corpus.offsets.size() - 1) + " sentences");
  if (mean_target) {
    add_targets(corpus, false);
  } else {
    corpus.d_target = dimension(*file, "target", 1, 2);
    const std::vector<double> target = read_doubles(*file, "target", {corpus.n_sentences(), corpus.d_target});
    corpus.target.assign(target.begin(), target.end());
  }
  if (file->find("words")) {
    for (const int64_t word : read_integers(*file, "words", n_rows)) {
      if (word < -1 || word > INT32_MAX)
        throw Error(path.string() + ": words", "expected numbers from -1 on, found " + std::to_string(word));
      corpus.words.push_back(static_cast<int32_t>(word));
    }
    return corpus;
  }
  for (size_t s = 0; s < records.size(); ++s)
    for (int64_t r = corpus.offsets[s]; r < corpus.offsets[s + 1]; ++r)
      corpus.words.push_back(static_cast<int32_t>(r - corpus.offsets[s]));
  return corpus;
}

FactorCorpus record_factor_corpus(const Session& session, const std::string& point, const std::vector<Record>& records,
                                  FactorTarget target, const std::function<void(int64_t)>& on_record) {
  const PointSet points = PointSet::parse(point, session.shape);
  const std::vector<PointAt> all = points.all();
  if (all.size() != 1)
    throw Error("--encoder",
                "expected one point, found " + std::to_string(all.size()) + " that " + in_quotes(point) + " matches");
  const PointAt at = all.front();
  const PointInfo& info = point_info(at.point);
  if (at.point == Point::router_ids || info.slots() || info.positions())
    throw Error("--encoder", "expected a point with one row of numbers a token, found " + in_quotes(point));
  FactorCorpus corpus;
  corpus.offsets.push_back(0);
  const RecordJobs made = make_jobs(session, records, Generate{}, nullptr);
  corpus.span_names = made.span_names;
  for (size_t s = 0; s < records.size(); ++s) {
    const Job& job = made.jobs[s];
    const RecordedRun run = record_run(session, job, 0, points, "encoder");
    corpus.ids.push_back(records[s].id);
    for (int64_t t = 0; t < job.n_given(); ++t) {
      const std::span<const float> row = run.store->row(at.point, at.layer, 0, t);
      corpus.d_hidden = static_cast<int64_t>(row.size());
      corpus.hidden.insert(corpus.hidden.end(), row.begin(), row.end());
    }
    corpus.offsets.push_back(corpus.offsets.back() + job.n_given());
    const std::vector<int32_t> words = words_of_tokens(session, records[s], job.n_given());
    corpus.words.insert(corpus.words.end(), words.begin(), words.end());
    corpus.spans.insert(corpus.spans.end(), job.prompt->spans.begin(), job.prompt->spans.end());
    corpus.spans.resize(corpus.words.size(), 0);
    if (on_record) on_record(static_cast<int64_t>(s) + 1);
  }
  add_targets(corpus, target == FactorTarget::last);
  return corpus;
}

void add_factor_labels(FactorCorpus& corpus, const std::vector<Record>& records,
                       const std::vector<std::string>& span_names) {
  const bool tagged =
      std::any_of(records.begin(), records.end(), [](const Record& r) { return tags_of(r).has_value(); });
  if (tagged && !span_names.empty())
    throw Error("--label-spans", "expected records without tags of their own, found some with");
  if (!tagged && span_names.empty()) return;
  corpus.labels.resize(records.size());
  for (size_t s = 0; s < records.size(); ++s) {
    const Record& record = records[s];
    const int64_t n = n_words(corpus, static_cast<int64_t>(s));
    std::vector<int32_t>& labels = corpus.labels[s];
    if (tagged) {
      const auto tags = tags_of(record);
      if (!tags) throw Error(record.where, "expected tags, as other records have, found none");
      if (const auto words = json::Ref(record.source, record.where).find("words");
          words && words->length() != tags->length())
        tags->fail("expected one for each of the " + std::to_string(words->length()) + " words, found " +
                   std::to_string(tags->length()));
      for (const json::Ref& tag : tags->items()) labels.push_back(label_index(corpus, label_name(tag)));
      if (static_cast<int64_t>(labels.size()) < n)
        tags->fail("expected one for each of the " + std::to_string(n) + " words or rows, found " +
                   std::to_string(labels.size()));
      continue;
    }
    labels.assign(static_cast<size_t>(n), 0);
    for (const std::string& name : span_names) {
      const auto found = std::find(corpus.span_names.begin(), corpus.span_names.end(), name);
      if (found == corpus.span_names.end())
        throw UsageError("--label-spans", wrong_name("a span of the records", name, corpus.span_names));
      const int32_t label = label_index(corpus, name);
      for (int64_t r = corpus.offsets[s]; r < corpus.offsets[s + 1]; ++r)
        if (const int32_t word = corpus.words[static_cast<size_t>(r)];
            word >= 0 && (corpus.spans[static_cast<size_t>(r)] >> (found - corpus.span_names.begin()) & 1) &&
            labels[static_cast<size_t>(word)] == 0)
          labels[static_cast<size_t>(word)] = label;
    }
  }
  if (!tagged) return;
  const bool row_tags =
      std::none_of(records.begin(), records.end(), [](const Record& r) { return r.source.find("words"); });
  for (size_t s = 0; row_tags && s < records.size(); ++s)
    if (static_cast<int64_t>(corpus.labels[s].size()) != n_words(corpus, static_cast<int64_t>(s)))
      throw Error(records[s].where, "expected a tag for each of the " +
                                        std::to_string(n_words(corpus, static_cast<int64_t>(s))) + " rows, found " +
                                        std::to_string(corpus.labels[s].size()));
}

void add_factor_splits(FactorCorpus& corpus, const std::vector<Record>& records, uint64_t seed) {
  static const std::map<std::string, FactorSplit> names = {
      {"", FactorSplit::train},           {"train", FactorSplit::train},
      {"detect", FactorSplit::train},     {"validation", FactorSplit::validation},
      {"valid", FactorSplit::validation}, {"val", FactorSplit::validation},
      {"dev", FactorSplit::validation},   {"tune", FactorSplit::validation},
      {"test", FactorSplit::test}};
  corpus.splits.clear();
  for (const Record& record : records) {
    const auto found = names.find(record.split);
    if (found == names.end())
      throw Error(
          record.where + ": split",
          "expected train, validation or test (or detect, tune, valid, val, dev), found " + in_quotes(record.split));
    corpus.splits.push_back(found->second);
  }
  const auto count = [&](FactorSplit split) { return std::count(corpus.splits.begin(), corpus.splits.end(), split); };
  if (count(FactorSplit::train) == 0) throw Error("data", "expected at least one record to train on, found none");
  std::vector<size_t> order;
  for (size_t s = 0; s < records.size(); ++s)
    if (corpus.splits[s] == FactorSplit::train) order.push_back(s);
  Dice(seed, "splits of sentences").shuffle(order);
  const size_t n = order.size(), share = std::max<size_t>(1, n / 10);
  if (n < 3) return;
  for (const FactorSplit split : {FactorSplit::validation, FactorSplit::test}) {
    if (count(split) > 0) continue;
    for (size_t i = 0; i < share; ++i) {
      corpus.splits[order.back()] = split;
      order.pop_back();
    }
  }
}

}  // namespace signalbox::train
