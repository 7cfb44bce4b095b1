#include "eval/rationale/eraser_scores.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <tuple>

#include "base/error.h"
#include "base/no_number.h"
#include "base/text.h"
#include "eval/compress/assignment.h"

namespace signalbox::eval {

namespace {

using Span = std::pair<int64_t, int64_t>;
using InstanceKey = std::pair<std::string, std::string>;  // annotation and document
using Spans = std::map<InstanceKey, std::set<Span>>;

double f1_of(double precision, double recall) {
  return precision == 0 || recall == 0 ? 0 : 2 * precision * recall / (precision + recall);
}
double share_of(double part, double of) { return of > 0 ? part / of : 0; }
double mean_of(const std::vector<double>& values) {
  return values.empty() ? no_number
                        : std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

json::Value prf_json(double precision, double recall, double f1) {
  return json::Value::object().set("p", precision).set("r", recall).set("f1", f1);
}

Spans evidence_spans(const std::vector<EraserAnnotation>& annotations) {
  Spans spans;
  for (const EraserAnnotation& annotation : annotations)
    for (const EraserEvidence& one : annotation.evidences)
      spans[{annotation.id, one.docid}].insert({one.start_token, one.end_token});
  return spans;
}

Spans predicted_spans(const std::vector<EraserResult>& results) {
  Spans spans;
  for (const EraserResult& result : results)
    for (const EraserRationale& rationale : result.rationales)
      if (rationale.hard)
        for (const Span& span : *rationale.hard) spans[{result.id, rationale.docid}].insert(span);
  return spans;
}

Spans single_tokens(const Spans& spans) {
  Spans tokens;
  for (const auto& [key, of] : spans)
    for (const auto& [begin, end] : of)
      for (int64_t t = begin; t < end; ++t) tokens[key].insert({t, t + 1});
  return tokens;
}

int64_t count_spans(const Spans& spans) {
  int64_t n = 0;
  for (const auto& [key, of] : spans) n += static_cast<int64_t>(of.size());
  return n;
}

std::set<InstanceKey> keys_of(const Spans& a, const Spans& b) {
  std::set<InstanceKey> keys;
  for (const Spans* spans : {&a, &b})
    for (const auto& [key, of] : *spans) keys.insert(key);
  return keys;
}

const std::set<Span>& spans_at(const Spans& spans, const InstanceKey& key) {
  static const std::set<Span> none;
  const auto found = spans.find(key);
  return found == spans.end() ? none : found->second;
}

double iou_of(const Span& a, const Span& b) {
  const int64_t both = std::max<int64_t>(0, std::min(a.second, b.second) - std::max(a.first, b.first));
  const int64_t any = (a.second - a.first) + (b.second - b.first) - both;
  return any > 0 ? static_cast<double>(both) / static_cast<double>(any) : 0;
}

// Hits of each instance: predictions with some evidence at the threshold.
int64_t iou_hits(const std::set<Span>& gold, const std::set<Span>& predicted, double threshold) {
  return std::count_if(predicted.begin(), predicted.end(), [&](const Span& span) {
    double best = 0;
    for (const Span& evidence : gold) best = std::max(best, iou_of(span, evidence));
    return best >= threshold;
  });
}

// The most pairs of different predictions and evidences at the threshold.
int64_t matched_hits(const std::set<Span>& gold, const std::set<Span>& predicted, double threshold) {
  const auto n = static_cast<int64_t>(std::max(gold.size(), predicted.size()));
  if (n == 0) return 0;
  std::vector<float> fits(static_cast<size_t>(n * n), 0.f);
  int64_t row = 0;
  for (const Span& span : predicted) {
    int64_t column = 0;
    for (const Span& evidence : gold) {
      const double iou = iou_of(span, evidence);
      fits[static_cast<size_t>(row * n + column++)] = iou > 0 && iou >= threshold ? 1.f : 0.f;
    }
    ++row;
  }
  const std::vector<int32_t> best = best_assignment(fits, n);
  int64_t hits = 0;
  for (int64_t r = 0; r < n; ++r) hits += fits[static_cast<size_t>(r * n + best[static_cast<size_t>(r)])] > 0;
  return hits;
}

json::Value iou_json(const Spans& gold, const Spans& predicted, double threshold) {
  int64_t hits = 0;
  std::map<InstanceKey, int64_t> of;
  for (const InstanceKey& key : keys_of(gold, predicted))
    hits += of[key] = iou_hits(spans_at(gold, key), spans_at(predicted, key), threshold);
  const double precision = share_of(static_cast<double>(hits), static_cast<double>(count_spans(predicted))),
               recall = share_of(static_cast<double>(hits), static_cast<double>(count_spans(gold)));
  const auto macro = [&](const Spans& spans) {
    std::vector<double> shares;
    for (const auto& [key, list] : spans)
      shares.push_back(share_of(static_cast<double>(of[key]), static_cast<double>(list.size())));
    return shares.empty() ? 0 : mean_of(shares);
  };
  const double macro_p = macro(predicted), macro_r = macro(gold);
  return json::Value::object()
      .set("threshold", threshold)
      .set("micro", prf_json(precision, recall, f1_of(precision, recall)))
      .set("macro", prf_json(macro_p, macro_r, f1_of(macro_p, macro_r)));
}

// Micro of pooled counts, macro as means over instances; `hits_of` counts the hits of an instance.
json::Value instance_json(const Spans& gold, const Spans& predicted,
                          const std::function<int64_t(const std::set<Span>&, const std::set<Span>&)>& hits_of) {
  double hits = 0;
  std::vector<double> precisions, recalls, f1s;
  for (const InstanceKey& key : keys_of(gold, predicted)) {
    const std::set<Span>&g = spans_at(gold, key), &p = spans_at(predicted, key);
    const auto here = static_cast<double>(hits_of(g, p));
    hits += here;
    precisions.push_back(share_of(here, static_cast<double>(p.size())));
    recalls.push_back(share_of(here, static_cast<double>(g.size())));
    f1s.push_back(f1_of(precisions.back(), recalls.back()));
  }
  const double precision = share_of(hits, static_cast<double>(count_spans(predicted))),
               recall = share_of(hits, static_cast<double>(count_spans(gold)));
  return json::Value::object()
      .set("instance_micro", prf_json(precision, recall, f1_of(precision, recall)))
      .set("instance_macro", prf_json(mean_of(precisions), mean_of(recalls), mean_of(f1s)));
}

int64_t equal_spans(const std::set<Span>& gold, const std::set<Span>& predicted) {
  return std::count_if(predicted.begin(), predicted.end(), [&](const Span& span) { return gold.contains(span); });
}

// Truths and scores of one document of an annotation.
struct SoftDocument {
  std::vector<bool> truth;
  std::vector<double> scores;
  bool one_class() const { return std::find(truth.begin() + 1, truth.end(), !truth.front()) == truth.end(); }
};

std::vector<SoftDocument> soft_documents(const std::vector<EraserAnnotation>& annotations,
                                         const std::vector<EraserResult>& results, EraserDocuments& documents,
                                         bool sentences) {
  std::map<std::string, const EraserAnnotation*> by_id;
  for (const EraserAnnotation& annotation : annotations) by_id[annotation.id] = &annotation;
  std::vector<SoftDocument> made;
  for (const EraserResult& result : results)
    for (const EraserRationale& rationale : result.rationales) {
      const auto& scores = sentences ? rationale.soft_sentences : rationale.soft;
      if (!scores) continue;
      const EraserDocument& document = documents.at(rationale.docid, result.where);
      const auto n = sentences ? static_cast<int64_t>(document.size()) : count_tokens(document);
      SoftDocument one{std::vector<bool>(static_cast<size_t>(n), false), *scores};
      const EraserAnnotation& annotation = *by_id.at(result.id);
      for (const EraserEvidence& evidence : annotation.evidences) {
        if (evidence.docid != rationale.docid) continue;
        const int64_t begin = sentences ? evidence.start_sentence : evidence.start_token,
                      end = sentences ? evidence.end_sentence : evidence.end_token;
        if (begin < end && (begin < 0 || end > n))
          throw Error(annotation.where, "expected evidence within [0, " + std::to_string(n) + ") of " +
                                            in_quotes(rationale.docid) + ", found [" + std::to_string(begin) + ", " +
                                            std::to_string(end) + ")");
        for (int64_t t = begin; t < end; ++t) one.truth[static_cast<size_t>(t)] = true;
      }
      if (n > 0) made.push_back(std::move(one));
    }
  return made;
}

json::Value soft_json(const std::vector<SoftDocument>& documents, bool one_class_counts) {
  std::vector<double> areas, precisions, roc;
  for (const SoftDocument& document : documents) {
    const bool skipped = document.one_class();
    if (!skipped || one_class_counts) areas.push_back(auprc(document.truth, document.scores));
    if (skipped) continue;
    precisions.push_back(average_precision(document.truth, document.scores));
    roc.push_back(roc_auc(document.truth, document.scores));
  }
  return json::Value::object()
      .set("auprc", mean_of(areas))
      .set("average_precision", mean_of(precisions))
      .set("roc_auc_score", mean_of(roc));
}

double score_of(const ClassScores& scores, const std::string& name) {
  const auto found = std::find_if(scores.begin(), scores.end(), [&](const auto& one) { return one.first == name; });
  return found->second;  // read_eraser_results has seen that it is there
}

// Precision, recall and F1 of each class, and their means, as scikit-learn's classification_report.
json::Value report_json(const std::vector<std::pair<std::string, std::string>>& pairs) {
  std::map<std::string, std::array<double, 3>> counts;  // hits, predicted, gold
  double right = 0;
  for (const auto& [gold, predicted] : pairs) {
    ++counts[gold][2];
    ++counts[predicted][1];
    if (gold == predicted) {
      ++counts[gold][0];
      ++right;
    }
  }
  json::Value report = json::Value::object();
  std::array<double, 3> macro{}, weighted{};
  const auto n = static_cast<double>(pairs.size());
  const auto entry = [](const std::array<double, 3>& of, double support) {
    return json::Value::object()
        .set("precision", of[0])
        .set("recall", of[1])
        .set("f1-score", of[2])
        .set("support", support);
  };
  for (const auto& [name, of] : counts) {
    const double precision = share_of(of[0], of[1]), recall = share_of(of[0], of[2]);
    const std::array<double, 3> row = {precision, recall, share_of(2 * of[0], of[1] + of[2])};
    report.set(name, entry(row, of[2]));
    for (size_t i = 0; i < 3; ++i) {
      macro[i] += row[i] / static_cast<double>(counts.size());
      weighted[i] += row[i] * of[2] / n;
    }
  }
  return report.set("accuracy", right / n).set("macro avg", entry(macro, n)).set("weighted avg", entry(weighted, n));
}

// [instances][thresholds] p(c) - p(c) at each threshold, in ascending order.
std::vector<std::vector<double>> threshold_drops(const std::vector<EraserResult>& results,
                                                 const EraserSettings& settings, bool sufficiency) {
  std::vector<double> wanted = settings.aopc_thresholds;
  std::sort(wanted.begin(), wanted.end());
  std::vector<std::vector<double>> drops;
  for (const EraserResult& result : results) {
    std::vector<double> row;
    for (const double threshold : wanted) {
      const auto found = std::find_if(result.thresholds->begin(), result.thresholds->end(),
                                      [&](const EraserThreshold& at) { return at.threshold == threshold; });
      if (found == result.thresholds->end())
        throw Error(result.where + ": thresholded_scores",
                    "expected the threshold " + short_number(threshold) + " (--thresholds names others), found none");
      row.push_back(score_of(*result.scores, *result.classification) -
                    score_of(sufficiency ? found->sufficiency : found->comprehensiveness, *result.classification));
    }
    drops.push_back(std::move(row));
  }
  return drops;
}

json::Value numbers(const std::vector<double>& values) {
  json::Value list = json::Value::array();
  for (const double x : values) list.push_back(x);
  return list;
}

void set_aopc(json::Value& to, const std::vector<EraserResult>& results, const EraserSettings& settings,
              bool sufficiency) {
  const std::string name = sufficiency ? "sufficiency" : "comprehensiveness";
  const auto drops = threshold_drops(results, settings, sufficiency);
  std::vector<double> points(drops.front().size(), 0);
  for (const auto& row : drops)
    for (size_t i = 0; i < row.size(); ++i) points[i] += row[i] / static_cast<double>(drops.size());
  to.set(name + "_aopc", mean_of(points)).set(name + "_aopc_points", numbers(points));
}

std::vector<double> drops_of(const std::vector<EraserResult>& results,
                             std::optional<ClassScores> EraserResult::*reduced) {
  std::vector<double> drops;
  for (const EraserResult& result : results)
    drops.push_back(score_of(*result.scores, *result.classification) -
                    score_of(*(result.*reduced), *result.classification));
  return drops;
}

json::Value classification_json(const std::vector<EraserAnnotation>& annotations,
                                const std::vector<EraserResult>& results, EraserDocuments& documents,
                                const EraserSettings& settings) {
  std::map<std::string, const EraserResult*> by_id;
  for (const EraserResult& result : results) by_id[result.id] = &result;
  std::vector<std::pair<std::string, std::string>> pairs;
  std::vector<double> flips;
  for (const EraserAnnotation& annotation : annotations) {
    const auto found = by_id.find(annotation.id);
    if (found == by_id.end())
      throw Error(annotation.where, "expected a result of the annotation " + in_quotes(annotation.id) + ", found none");
    const EraserResult& result = *found->second;
    pairs.emplace_back(annotation.classification, *result.classification);
    if (!result.tokens_to_flip) continue;
    std::set<std::string> docids;
    for (const EraserEvidence& evidence : annotation.evidences) docids.insert(evidence.docid);
    int64_t length = 0;
    for (const std::string& docid : docids) length += count_tokens(documents.at(docid, annotation.where));
    if (length == 0)
      throw Error(annotation.where, "expected evidence of a document with tokens for tokens_to_flip, found none");
    flips.push_back(*result.tokens_to_flip / static_cast<double>(length));
  }
  json::Value value = json::Value::object();
  json::Value report = report_json(pairs);
  value.set("accuracy", *report.find("accuracy")).set("prf", std::move(report));
  using Field = std::optional<ClassScores> EraserResult::*;
  for (const auto& [name, field] :
       {std::pair<std::string, Field>("comprehensiveness", &EraserResult::comprehensiveness),
        std::pair<std::string, Field>("sufficiency", &EraserResult::sufficiency)}) {
    if (!(results.front().*field)) {
      value.set(name, nullptr).set(name + "_entropy", nullptr).set(name + "_kl", nullptr);
      continue;
    }
    std::vector<double> entropies, divergences;
    for (const EraserResult& result : results) {
      entropies.push_back(entropy_of(*result.scores) - entropy_of(*(result.*field)));
      divergences.push_back(kl_of(*(result.*field), *result.scores));
    }
    value.set(name, mean_of(drops_of(results, field)))
        .set(name + "_entropy", mean_of(entropies))
        .set(name + "_kl", mean_of(divergences));
  }
  if (results.front().thresholds) {
    std::vector<double> sorted = settings.aopc_thresholds;
    std::sort(sorted.begin(), sorted.end());
    value.set("aopc_thresholds", numbers(sorted));
    set_aopc(value, results, settings, false);
    set_aopc(value, results, settings, true);
  } else {
    value.set("aopc_thresholds", nullptr);
    for (const char* name : {"comprehensiveness", "sufficiency"})
      value.set(std::string(name) + "_aopc", nullptr).set(std::string(name) + "_aopc_points", nullptr);
  }
  return value.set("tokens_to_flip", flips.empty() ? json::Value() : json::Value(mean_of(flips)));
}

void require_annotations(const std::vector<EraserAnnotation>& annotations, const std::vector<EraserResult>& results) {
  std::set<std::string> ids;
  for (const EraserAnnotation& annotation : annotations) ids.insert(annotation.id);
  for (const EraserResult& result : results)
    if (!ids.contains(result.id))
      throw Error(result.where, "expected an annotation_id of the split, found " + in_quotes(result.id));
}

bool any_rationale(const std::vector<EraserResult>& results, const std::function<bool(const EraserRationale&)>& has) {
  return std::any_of(results.begin(), results.end(), [&](const EraserResult& result) {
    return std::any_of(result.rationales.begin(), result.rationales.end(), has);
  });
}
bool has_hard(const EraserRationale& r) { return r.hard.has_value(); }
bool has_soft(const EraserRationale& r) { return r.soft.has_value(); }
bool has_soft_sentences(const EraserRationale& r) { return r.soft_sentences.has_value(); }

// Groups of equal scores, from the highest down: how many tokens and how many true ones so far.
struct CurvePoint {
  double tokens = 0, hits = 0;
};
std::vector<CurvePoint> curve_of(const std::vector<bool>& truth, const std::vector<double>& scores) {
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  std::vector<CurvePoint> points;
  CurvePoint at;
  for (size_t i = 0; i < order.size(); ++i) {
    ++at.tokens;
    at.hits += truth[order[i]];
    if (i + 1 == order.size() || scores[order[i + 1]] != scores[order[i]]) points.push_back(at);
  }
  return points;
}

}  // namespace

double auprc(const std::vector<bool>& truth, const std::vector<double>& scores) {
  const std::vector<CurvePoint> points = curve_of(truth, scores);
  const double gold = points.back().hits;
  double area = 0, recall = 0, precision = 1;
  for (const CurvePoint& at : points) {
    const double next_recall = gold > 0 ? at.hits / gold : 1, next_precision = at.hits / at.tokens;
    area += (next_recall - recall) * (next_precision + precision) / 2;
    recall = next_recall;
    precision = next_precision;
  }
  return area;
}

double average_precision(const std::vector<bool>& truth, const std::vector<double>& scores) {
  const std::vector<CurvePoint> points = curve_of(truth, scores);
  double sum = 0, hits = 0;
  for (const CurvePoint& at : points) {
    sum += (at.hits - hits) / points.back().hits * at.hits / at.tokens;
    hits = at.hits;
  }
  return sum;
}

double roc_auc(const std::vector<bool>& truth, const std::vector<double>& scores) {
  const std::vector<CurvePoint> points = curve_of(truth, scores);
  const double gold = points.back().hits, others = points.back().tokens - gold;
  double area = 0, x = 0, y = 0;
  for (const CurvePoint& at : points) {
    const double next_x = (at.tokens - at.hits) / others, next_y = at.hits / gold;
    area += (next_x - x) * (next_y + y) / 2;
    x = next_x;
    y = next_y;
  }
  return area;
}

double entropy_of(const ClassScores& scores) {
  double sum = 0, entropy = 0;
  for (const auto& [name, score] : scores) sum += score;
  for (const auto& [name, score] : scores)
    if (const double p = score / sum; p > 0) entropy -= p * std::log(p);
  return entropy;
}

double kl_of(const ClassScores& reduced, const ClassScores& full) {
  std::vector<double> p, q;
  for (const auto& of_class : full) {
    const std::string& name = of_class.first;
    q.push_back(of_class.second);
    const auto found = std::find_if(reduced.begin(), reduced.end(), [&](const auto& one) { return one.first == name; });
    if (found == reduced.end())
      throw Error("classification scores",
                  "expected the class " + in_quotes(name) + " in the reduced scores too, found none");
    p.push_back(found->second);
  }
  const double sum_p = std::accumulate(p.begin(), p.end(), 0.0), sum_q = std::accumulate(q.begin(), q.end(), 0.0);
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double a = p[i] / sum_p, b = q[i] / sum_q;
    if (a > 0) sum += b > 0 ? a * std::log(a / b) : std::numeric_limits<double>::infinity();
  }
  return sum;
}

json::Value eraser_scores(const std::vector<EraserAnnotation>& annotations, const std::vector<EraserResult>& results,
                          EraserDocuments& documents, const EraserSettings& settings) {
  require_annotations(annotations, results);
  json::Value value = json::Value::object();
  if (any_rationale(results, has_hard)) {
    const Spans gold = evidence_spans(annotations), predicted = predicted_spans(results);
    if (predicted.empty()) {
      value.set("iou_scores", nullptr).set("rationale_prf", nullptr).set("token_prf", nullptr);
    } else {
      json::Value iou = json::Value::array();
      for (const double threshold : settings.iou_thresholds) iou.push_back(iou_json(gold, predicted, threshold));
      value.set("iou_scores", std::move(iou)).set("rationale_prf", instance_json(gold, predicted, equal_spans));
      value.set("token_prf", instance_json(single_tokens(gold), single_tokens(predicted), equal_spans));
    }
  }
  if (any_rationale(results, has_soft))
    value.set("token_soft_metrics", soft_json(soft_documents(annotations, results, documents, false), true));
  if (any_rationale(results, has_soft_sentences))
    value.set("sentence_soft_metrics", soft_json(soft_documents(annotations, results, documents, true), true));
  if (results.front().classification)
    value.set("classification_scores", classification_json(annotations, results, documents, settings));
  return value;
}

json::Value one_to_one_scores(const std::vector<EraserAnnotation>& annotations,
                              const std::vector<EraserResult>& results, EraserDocuments& documents,
                              const EraserSettings& settings) {
  require_annotations(annotations, results);
  json::Value value = json::Value::object();
  if (any_rationale(results, has_hard)) {
    const Spans gold = evidence_spans(annotations), predicted = predicted_spans(results);
    json::Value iou = json::Value::array();
    for (const double threshold : settings.iou_thresholds) {
      json::Value scores = instance_json(gold, predicted, [&](const std::set<Span>& g, const std::set<Span>& p) {
        return matched_hits(g, p, threshold);
      });
      iou.push_back(json::Value::object()
                        .set("threshold", threshold)
                        .set("micro", *scores.find("instance_micro"))
                        .set("macro", *scores.find("instance_macro")));
    }
    value.set("iou_scores", std::move(iou));
    value.set("token_prf", instance_json(single_tokens(gold), single_tokens(predicted), equal_spans));
  }
  for (const bool sentences : {false, true}) {
    if (!any_rationale(results, sentences ? has_soft_sentences : has_soft)) continue;
    const std::vector<SoftDocument> all = soft_documents(annotations, results, documents, sentences);
    json::Value scores = soft_json(all, false);
    scores
        .set("documents", static_cast<int64_t>(std::count_if(all.begin(), all.end(),
                                                             [](const SoftDocument& d) { return !d.one_class(); })))
        .set("of_one_class", static_cast<int64_t>(std::count_if(all.begin(), all.end(),
                                                                [](const SoftDocument& d) { return d.one_class(); })));
    value.set(sentences ? "sentence_soft_metrics" : "token_soft_metrics", std::move(scores));
  }
  return value;
}

json::Value eraser_intervals(const std::vector<EraserResult>& results, const EraserSettings& settings, uint64_t seed,
                             int64_t resamples) {
  json::Value value = json::Value::object();
  const auto add = [&](const std::string& name, const std::vector<double>& values) {
    const MeanEstimate estimate = bootstrap_mean(values, {}, seed, resamples);
    value.set(name, json::Value::object()
                        .set("mean", estimate.mean)
                        .set("ci_lo", estimate.ci.lo)
                        .set("ci_hi", estimate.ci.hi)
                        .set("n", estimate.n));
  };
  const EraserResult& first = results.front();
  if (first.comprehensiveness) add("comprehensiveness", drops_of(results, &EraserResult::comprehensiveness));
  if (first.sufficiency) add("sufficiency", drops_of(results, &EraserResult::sufficiency));
  if (first.thresholds)
    for (const bool sufficiency : {false, true}) {
      std::vector<double> means;
      for (const auto& row : threshold_drops(results, settings, sufficiency)) means.push_back(mean_of(row));
      add(sufficiency ? "sufficiency_aopc" : "comprehensiveness_aopc", means);
    }
  return value;
}

}  // namespace signalbox::eval
