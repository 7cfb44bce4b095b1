#include "eval/rationale/eraser.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <set>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"

namespace signalbox::eval {

namespace {

std::vector<std::string> split_tokens(std::string_view line, bool keep_empty) {
  std::vector<std::string> tokens;
  size_t begin = 0;
  while (begin <= line.size()) {
    const size_t end = std::min(line.find(' ', begin), line.size());
    if (end > begin || keep_empty) tokens.emplace_back(line.substr(begin, end - begin));
    begin = end + 1;
  }
  return tokens;
}

// `docs/ID`: empty lines and runs of spaces count for nothing. In docs.jsonl they make empty tokens, as the benchmark
// reads it.
EraserDocument parse_document(std::string_view text, bool keep_empty) {
  EraserDocument sentences;
  size_t begin = 0;
  while (begin <= text.size()) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = trimmed(text.substr(begin, end - begin));
    if (!line.empty() || keep_empty) sentences.push_back(split_tokens(line, keep_empty));
    begin = end + 1;
  }
  return sentences;
}

int64_t optional_index(const json::Ref& of, const char* key) {
  const auto found = of.find(key);
  return found ? found->integer() : -1;
}

ClassScores class_scores(const json::Ref& of) {
  ClassScores scores;
  for (const auto& [name, value] : of.members()) scores.emplace_back(name, value.number());
  return scores;
}

std::optional<ClassScores> optional_scores(const json::Ref& of, const char* key) {
  const auto found = of.find(key);
  return found ? std::optional(class_scores(*found)) : std::nullopt;
}

std::optional<std::vector<double>> optional_numbers(const json::Ref& of, const char* key) {
  const auto found = of.find(key);
  if (!found || found->length() == 0) return std::nullopt;
  std::vector<double> numbers;
  for (const json::Ref& item : found->items()) numbers.push_back(item.number());
  return numbers;
}

EraserResult parse_result(const json::Ref& of) {
  of.expect_object();
  EraserResult result;
  result.where = of.where();
  result.id = of.at("annotation_id").string();
  for (const json::Ref& rationale : of.at("rationales").items()) {
    EraserRationale made;
    made.docid = rationale.at("docid").string();
    if (const auto hard = rationale.find("hard_rationale_predictions")) {
      made.hard.emplace();
      for (const json::Ref& span : hard->items())
        made.hard->emplace_back(span.at("start_token").integer(), span.at("end_token").integer());
    }
    made.soft = optional_numbers(rationale, "soft_rationale_predictions");
    made.soft_sentences = optional_numbers(rationale, "soft_sentence_predictions");
    result.rationales.push_back(std::move(made));
  }
  if (const auto found = of.find("classification")) result.classification = found->string();
  result.scores = optional_scores(of, "classification_scores");
  result.comprehensiveness = optional_scores(of, "comprehensiveness_classification_scores");
  result.sufficiency = optional_scores(of, "sufficiency_classification_scores");
  if (const auto found = of.find("tokens_to_flip")) result.tokens_to_flip = found->number();
  if (const auto found = of.find("thresholded_scores")) {
    result.thresholds.emplace();
    for (const json::Ref& item : found->items())
      result.thresholds->push_back({item.at("threshold").number(),
                                    class_scores(item.at("comprehensiveness_classification_scores")),
                                    class_scores(item.at("sufficiency_classification_scores"))});
  }
  return result;
}

std::string span_text(const std::pair<int64_t, int64_t>& span) {
  return "[" + std::to_string(span.first) + ", " + std::to_string(span.second) + ")";
}

void check_rationale(const EraserResult& result, const EraserRationale& of, const EraserDocument& document) {
  const std::string where = result.where + ": " + in_quotes(of.docid);
  const int64_t n = count_tokens(document);
  if (of.hard) {
    std::vector<std::pair<int64_t, int64_t>> spans = *of.hard;
    std::sort(spans.begin(), spans.end());
    for (size_t i = 0; i < spans.size(); ++i) {
      if (spans[i].first < 0 || spans[i].second <= spans[i].first || spans[i].second > n)
        throw Error(where,
                    "expected a range of tokens within [0, " + std::to_string(n) + "), found " + span_text(spans[i]));
      if (i > 0 && spans[i] != spans[i - 1] && spans[i].first < spans[i - 1].second)
        throw Error(where, "expected predictions that do not overlap, found " + span_text(spans[i - 1]) + " and " +
                               span_text(spans[i]));
    }
  }
  if (of.soft && static_cast<int64_t>(of.soft->size()) != n)
    throw Error(where + ": soft_rationale_predictions",
                "expected one for each of " + std::to_string(n) + " tokens, found " + std::to_string(of.soft->size()));
  if (of.soft_sentences && of.soft_sentences->size() != document.size())
    throw Error(where + ": soft_sentence_predictions", "expected one for each of " + std::to_string(document.size()) +
                                                           " sentences, found " +
                                                           std::to_string(of.soft_sentences->size()));
}

void require_class(const EraserResult& result, const ClassScores& scores, const char* key) {
  for (const auto& [name, score] : scores)
    if (name == *result.classification) return;
  throw Error(result.where + ": " + key,
              "expected a score of the predicted class " + in_quotes(*result.classification) + ", found none");
}

void check_classes(const EraserResult& result) {
  const auto needs = [&](bool has, const char* key, bool other, const char* needed) {
    if (has && !other)
      throw Error(result.where + ": " + key, std::string("expected ") + needed + " beside it, found none");
  };
  needs(result.classification.has_value(), "classification", result.scores.has_value(), "classification_scores");
  needs(result.scores.has_value(), "classification_scores", result.classification.has_value(), "classification");
  needs(result.comprehensiveness.has_value(), "comprehensiveness_classification_scores", result.scores.has_value(),
        "classification_scores");
  needs(result.sufficiency.has_value(), "sufficiency_classification_scores", result.scores.has_value(),
        "classification_scores");
  needs(result.thresholds.has_value(), "thresholded_scores", result.comprehensiveness && result.sufficiency,
        "comprehensiveness_classification_scores and sufficiency_classification_scores");
  if (!result.scores) return;
  require_class(result, *result.scores, "classification_scores");
  if (result.comprehensiveness)
    require_class(result, *result.comprehensiveness, "comprehensiveness_classification_scores");
  if (result.sufficiency) require_class(result, *result.sufficiency, "sufficiency_classification_scores");
  if (result.thresholds)
    for (const EraserThreshold& at : *result.thresholds) {
      require_class(result, at.comprehensiveness, "thresholded_scores");
      require_class(result, at.sufficiency, "thresholded_scores");
    }
}

std::set<double> thresholds_of(const EraserResult& result) {
  std::set<double> thresholds;
  if (result.thresholds)
    for (const EraserThreshold& at : *result.thresholds) thresholds.insert(at.threshold);
  return thresholds;
}

// A field that some instance has all have.
void check_same_fields(const std::vector<EraserResult>& results) {
  const auto all_or_none = [&](const char* key, const auto& has) {
    const bool first = has(results.front());
    for (const EraserResult& result : results)
      if (has(result) != first)
        throw Error(result.where + ": " + key, std::string("expected it in every instance or in none, found ") +
                                                   (first ? "none here" : "it here and not in the first"));
  };
  const auto any = [](const EraserResult& result, const auto& member) {
    const auto count =
        static_cast<size_t>(std::count_if(result.rationales.begin(), result.rationales.end(),
                                          [&](const EraserRationale& r) { return (r.*member).has_value(); }));
    if (count > 0 && count != result.rationales.size())
      throw Error(result.where, "expected scores of every document of the instance or of none, found " +
                                    std::to_string(count) + " of " + std::to_string(result.rationales.size()));
    return count > 0;
  };
  all_or_none("classification", [](const EraserResult& r) { return r.classification.has_value(); });
  all_or_none("comprehensiveness_classification_scores",
              [](const EraserResult& r) { return r.comprehensiveness.has_value(); });
  all_or_none("sufficiency_classification_scores", [](const EraserResult& r) { return r.sufficiency.has_value(); });
  all_or_none("thresholded_scores", [](const EraserResult& r) { return r.thresholds.has_value(); });
  all_or_none("tokens_to_flip", [](const EraserResult& r) { return r.tokens_to_flip.has_value(); });
  all_or_none("soft_rationale_predictions", [&](const EraserResult& r) { return any(r, &EraserRationale::soft); });
  all_or_none("soft_sentence_predictions",
              [&](const EraserResult& r) { return any(r, &EraserRationale::soft_sentences); });
  for (const EraserResult& result : results)
    if (thresholds_of(result) != thresholds_of(results.front()))
      throw Error(result.where + ": thresholded_scores", "expected the thresholds of the first instance, found others");
}

json::Value scores_json(const ClassScores& scores) {
  json::Value value = json::Value::object();
  for (const auto& [name, score] : scores) value.set(name, score);
  return value;
}

json::Value numbers_json(const std::vector<double>& numbers) {
  json::Value value = json::Value::array();
  for (const double x : numbers) value.push_back(x);
  return value;
}

}  // namespace

int64_t count_tokens(const EraserDocument& document) {
  int64_t n = 0;
  for (const auto& sentence : document) n += static_cast<int64_t>(sentence.size());
  return n;
}

EraserDocuments::EraserDocuments(std::filesystem::path dir) : dir_(std::move(dir)) {
  in_one_file_ = std::filesystem::exists(dir_ / "docs.jsonl");
  if (in_one_file_ && std::filesystem::exists(dir_ / "docs"))
    throw Error(dir_.string(), "expected docs or docs.jsonl, found both");
  if (!in_one_file_) {
    if (!std::filesystem::is_directory(dir_ / "docs"))
      throw Error((dir_ / "docs").string(), "expected a directory of documents (or docs.jsonl beside it), found none");
    return;
  }
  LineReader lines(dir_ / "docs.jsonl");
  for (std::string_view line; lines.next(line);) {
    if (trimmed(line).empty()) continue;
    const json::Value value = json::parse(line, lines.where());
    const json::Ref ref(value, lines.where());
    read_[ref.at("docid").string()] = parse_document(ref.at("document").string(), true);
  }
}

const EraserDocument& EraserDocuments::at(const std::string& docid, const std::string& where) {
  if (const auto found = read_.find(docid); found != read_.end()) return found->second;
  const std::filesystem::path name(docid);
  const bool plain = !docid.empty() && name.is_relative() &&
                     std::none_of(name.begin(), name.end(), [](const auto& part) { return part == ".."; });
  if (in_one_file_ || !plain)
    throw Error(where, "expected a document of " + dir_.string() + ", found " + in_quotes(docid));
  std::ifstream in(dir_ / "docs" / name, std::ios::binary);
  if (!in || !std::filesystem::is_regular_file(dir_ / "docs" / name))
    throw Error(where, "expected the document " + (dir_ / "docs" / name).string() + ", found no such file");
  const std::string text((std::istreambuf_iterator<char>(in)), {});
  return read_[docid] = parse_document(text, false);
}

std::vector<EraserAnnotation> read_eraser_annotations(const std::filesystem::path& file) {
  std::vector<EraserAnnotation> annotations;
  std::set<std::string> ids;
  LineReader lines(file);
  for (std::string_view line; lines.next(line);) {
    if (trimmed(line).empty()) continue;
    const json::Value value = json::parse(line, lines.where());
    const json::Ref ref(value, lines.where());
    ref.expect_object();
    EraserAnnotation annotation;
    annotation.where = lines.where();
    annotation.id = ref.at("annotation_id").string();
    if (const auto query = ref.find("query"); query && query->value().is_string()) annotation.query = query->string();
    annotation.classification = ref.at("classification").string();
    for (const json::Ref& group : ref.at("evidences").items())
      for (const json::Ref& one : group.items())
        annotation.evidences.push_back({one.at("docid").string(), optional_index(one, "start_token"),
                                        optional_index(one, "end_token"), optional_index(one, "start_sentence"),
                                        optional_index(one, "end_sentence")});
    if (!ids.insert(annotation.id).second)
      throw Error(lines.where(), "expected an annotation_id of its own, found " + in_quotes(annotation.id) + " again");
    annotations.push_back(std::move(annotation));
  }
  if (annotations.empty()) throw Error(file.string(), "expected at least one annotation, found none");
  return annotations;
}

std::vector<EraserResult> read_eraser_results(const std::filesystem::path& file, EraserDocuments& documents) {
  std::vector<EraserResult> results;
  std::set<std::string> ids;
  LineReader lines(file);
  for (std::string_view line; lines.next(line);) {
    if (trimmed(line).empty()) continue;
    const json::Value value = json::parse(line, lines.where());
    results.push_back(parse_result(json::Ref(value, lines.where())));
    const EraserResult& result = results.back();
    if (!ids.insert(result.id).second)
      throw Error(lines.where(), "expected an annotation_id of its own, found " + in_quotes(result.id) + " again");
    std::set<std::string> docids;
    for (const EraserRationale& rationale : result.rationales) {
      if (!docids.insert(rationale.docid).second)
        throw Error(lines.where(), "expected every document once, found " + in_quotes(rationale.docid) + " again");
      check_rationale(result, rationale, documents.at(rationale.docid, lines.where()));
    }
    check_classes(result);
  }
  if (results.empty()) throw Error(file.string(), "expected at least one result, found none");
  check_same_fields(results);
  return results;
}

json::Value eraser_result_json(const EraserResult& result) {
  json::Value rationales = json::Value::array();
  for (const EraserRationale& of : result.rationales) {
    json::Value one = json::Value::object();
    one.set("docid", of.docid);
    if (of.hard) {
      json::Value spans = json::Value::array();
      for (const auto& [start, end] : *of.hard)
        spans.push_back(json::Value::object().set("start_token", start).set("end_token", end));
      one.set("hard_rationale_predictions", std::move(spans));
    }
    if (of.soft) one.set("soft_rationale_predictions", numbers_json(*of.soft));
    if (of.soft_sentences) one.set("soft_sentence_predictions", numbers_json(*of.soft_sentences));
    rationales.push_back(std::move(one));
  }
  json::Value line = json::Value::object();
  line.set("annotation_id", result.id).set("rationales", std::move(rationales));
  if (result.classification) line.set("classification", *result.classification);
  if (result.scores) line.set("classification_scores", scores_json(*result.scores));
  if (result.comprehensiveness)
    line.set("comprehensiveness_classification_scores", scores_json(*result.comprehensiveness));
  if (result.sufficiency) line.set("sufficiency_classification_scores", scores_json(*result.sufficiency));
  if (result.tokens_to_flip) line.set("tokens_to_flip", static_cast<int64_t>(*result.tokens_to_flip));
  if (result.thresholds) {
    json::Value thresholds = json::Value::array();
    for (const EraserThreshold& at : *result.thresholds)
      thresholds.push_back(json::Value::object()
                               .set("threshold", at.threshold)
                               .set("comprehensiveness_classification_scores", scores_json(at.comprehensiveness))
                               .set("sufficiency_classification_scores", scores_json(at.sufficiency)));
    line.set("thresholded_scores", std::move(thresholds));
  }
  return line;
}

}  // namespace signalbox::eval
