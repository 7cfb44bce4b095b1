// The scores of the ERASER benchmark, by its own scorer's definitions and with one prediction for one evidence.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "eval/rationale/eraser.h"
#include "eval/statistics/resampling.h"

namespace signalbox::eval {

struct EraserSettings {
  std::vector<double> iou_thresholds = {0.5};
  std::vector<double> aopc_thresholds = {0.01, 0.05, 0.1, 0.2, 0.5};
};

// Under the names of the scorer's own file (iou_scores, rationale_prf, token_prf, token_soft_metrics,
// sentence_soft_metrics, classification_scores), number for number, with what it prints of tokens_to_flip; parts whose
// fields no result has are left out. Its definitions, some of which surprise:
//   - iou_scores: a prediction is a hit where its best IoU with an evidence of the instance is at least the threshold;
//     recall divides hits by evidences, so several predictions on one evidence make it exceed 1. Macro F1 is that of
//     the mean precision and mean recall.
//   - rationale_prf, token_prf: macro F1 is the mean of the instances' own.
//   - auprc: trapezoids under the curve, documents of one class too; average_precision and roc_auc_score leave these
//   out.
//   - comprehensiveness and sufficiency: of the probability of the *predicted* class; kl is KL(reduced || full).
//   - aopc: the mean over thresholds of p - p_k, nothing added for none.
// A part that the scorer cannot make (no prediction anywhere, no document of two classes) is null. Throws Error where a
// result's annotation is not of the split, or classification scores lack an annotation's result.
json::Value eraser_scores(const std::vector<EraserAnnotation>& annotations, const std::vector<EraserResult>& results,
                          EraserDocuments& documents, const EraserSettings& settings);

// Spans matched one to one: of all assignments within an instance that with the most hits, so that precision, recall
// and F1 stay within 1; macro: means over instances of their own. Soft scores leave out documents of one class
// throughout.
json::Value one_to_one_scores(const std::vector<EraserAnnotation>& annotations,
                              const std::vector<EraserResult>& results, EraserDocuments& documents,
                              const EraserSettings& settings);

// 95 % bootstrap intervals over instances of the means under classification_scores.
json::Value eraser_intervals(const std::vector<EraserResult>& results, const EraserSettings& settings, uint64_t seed,
                             int64_t resamples);

// The curves, of truths and scores of one document. Ties in scores are one step. Without a positive recall counts as 1
// everywhere (as scikit-learn has it): 1/2.
double auprc(const std::vector<bool>& truth, const std::vector<double>& scores);
double average_precision(const std::vector<bool>& truth, const std::vector<double>& scores);
double roc_auc(const std::vector<bool>& truth, const std::vector<double>& scores);

// Natural logarithms; both are divided by their sums first, as scipy does.
double entropy_of(const ClassScores& scores);
double kl_of(const ClassScores& reduced, const ClassScores& full);  // KL(reduced || full), by the keys of `full`

}  // namespace signalbox::eval
