// Data and results in the formats of the ERASER benchmark (DeYoung et al. 2020; jayded/eraserbenchmark at 36467f1).
//
//   DIR/docs/ID         sentences by line, tokens by space; or DIR/docs.jsonl with {"docid", "document"} a line
//   DIR/SPLIT.jsonl     {"annotation_id", "query", "classification", "evidences": [[{"docid", "start_token", ...}]],
//                        "query_type"?, "docids"?}; groups of evidence are alternatives, which scores put together
//   results.jsonl       {"annotation_id", "rationales": [{"docid", "hard_rationale_predictions": [{"start_token",
//                        "end_token"}], "soft_rationale_predictions": [...], "soft_sentence_predictions": [...]}],
//                        "classification", "classification_scores", "comprehensiveness_classification_scores",
//                        "sufficiency_classification_scores", "tokens_to_flip", "thresholded_scores": [...]}
//
// Spans are half-open ranges of tokens of a document.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"

namespace signalbox::eval {

struct EraserEvidence {
  std::string docid;
  int64_t start_token = -1, end_token = -1, start_sentence = -1, end_sentence = -1;  // -1: not given
};

struct EraserAnnotation {
  std::string where;  // "file:line"
  std::string id, query, classification;
  std::vector<EraserEvidence> evidences;  // of all groups
};

using EraserDocument = std::vector<std::vector<std::string>>;  // sentences of tokens
int64_t count_tokens(const EraserDocument& document);

// Reads documents when they are asked for. Throws Error naming the file.
class EraserDocuments {
 public:
  explicit EraserDocuments(std::filesystem::path dir);
  const EraserDocument& at(const std::string& docid, const std::string& where);

 private:
  std::filesystem::path dir_;
  bool in_one_file_ = false;
  std::map<std::string, EraserDocument> read_;
};

// Throws Error at the line: a missing or repeated annotation_id, a wrong type, an evidence without docid.
std::vector<EraserAnnotation> read_eraser_annotations(const std::filesystem::path& file);

using ClassScores = std::vector<std::pair<std::string, double>>;  // by class, in the order of the file

struct EraserRationale {
  std::string docid;
  std::optional<std::vector<std::pair<int64_t, int64_t>>> hard;
  std::optional<std::vector<double>> soft, soft_sentences;
};

struct EraserThreshold {
  double threshold = 0;
  ClassScores comprehensiveness, sufficiency;
};

struct EraserResult {
  std::string where;
  std::string id;
  std::vector<EraserRationale> rationales;
  std::optional<std::string> classification;
  std::optional<ClassScores> scores, comprehensiveness, sufficiency;
  std::optional<double> tokens_to_flip;
  std::optional<std::vector<EraserThreshold>> thresholds;
};

// Reads and checks a whole file against the documents, as the benchmark's scorer does before it scores: predictions of
// an instance do not overlap (equal ones are one) and lie in their document, lists of scores are as long as it, a field
// that one instance has all have, thresholds are the same everywhere, and scores of classes have the predicted class.
// Throws Error at the line.
std::vector<EraserResult> read_eraser_results(const std::filesystem::path& file, EraserDocuments& documents);

// A line of results.jsonl, keys in the order above; absent fields are left out.
json::Value eraser_result_json(const EraserResult& result);

}  // namespace signalbox::eval
