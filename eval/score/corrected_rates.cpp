#include "eval/score/corrected_rates.h"

#include <algorithm>
#include <cmath>

#include "eval/statistics/binary.h"

namespace signalbox::eval {

namespace {

// Labels that nobody gave are clusters of their own, below 0.
enum Imagined : int64_t { missed = -1, invented = -2, right_yes = -3, wrong_yes = -4, right_no = -5, wrong_no = -6 };
constexpr int64_t own_imagined = -100;  // and further down by two for each intervention

struct Value {
  int64_t cluster = 0;
  double value = 0;
};

// A mean and how clusters move it; undefined for fewer than two clusters.
LinearEstimate mean_of(const std::vector<Value>& values) {
  LinearEstimate out;
  if (values.empty()) return out;
  const double n = static_cast<double>(values.size());
  double sum = 0;
  for (const Value& one : values) sum += one.value;
  const double mean = sum / n;
  for (const Value& one : values) out.influence[one.cluster] += (one.value - mean) / n;
  const double clusters = static_cast<double>(out.influence.size());
  if (clusters < 2) return {};
  for (auto& [cluster, part] : out.influence) part *= std::sqrt(clusters / (clusters - 1));
  out.value = mean;
  return out;
}

// An imagined label of this value beside n others.
void imagine(LinearEstimate& mean, int64_t cluster, double value, size_t n, double weight) {
  mean.influence[cluster] += std::sqrt(weight) * (value - mean.value) / static_cast<double>(n);
}

// into += factor part.
void add(LinearEstimate& into, const LinearEstimate& part, double factor) {
  into.value += factor * part.value;
  for (const auto& [cluster, value] : part.influence) into.influence[cluster] += factor * value;
}

LinearEstimate zero() {
  LinearEstimate out;
  out.value = 0;
  return out;
}

double tuned_lambda(std::span<const LabelledScore> labels, std::span<const double> rest) {
  const double n = static_cast<double>(labels.size()), all = n + static_cast<double>(rest.size());
  double y = 0, f = 0, whole = 0;
  for (const LabelledScore& one : labels) y += one.label / n, f += one.score / n, whole += one.score / all;
  for (const double score : rest) whole += score / all;
  double covariance = 0, variance = 0;
  for (const LabelledScore& one : labels) {
    covariance += (one.label - y) * (one.score - f) / n;
    variance += (one.score - whole) * (one.score - whole);
  }
  for (const double score : rest) variance += (score - whole) * (score - whole);
  if (rest.empty() || !(variance > 0)) return 0;
  variance /= all - 1;
  return std::clamp(covariance / ((1 + n / static_cast<double>(rest.size())) * variance), 0.0, 1.0);
}

// lambda mean(score of the rest) + mean(label - lambda score).
LinearEstimate powered(std::span<const LabelledScore> labels, const std::vector<Value>& rest, double lambda,
                       int64_t imagined, double weight) {
  std::vector<Value> residuals;
  for (const LabelledScore& one : labels) residuals.push_back({one.cluster, one.label - lambda * one.score});
  LinearEstimate out = mean_of(residuals);
  const LinearEstimate imputed = lambda > 0 ? mean_of(rest) : zero();
  if (std::isnan(out.value) || std::isnan(imputed.value)) return {};
  imagine(out, imagined, 1, labels.size(), weight);
  imagine(out, imagined - 1, -lambda, labels.size(), weight);
  add(out, imputed, lambda);
  return out;
}

// Sensitivity or specificity: the share that the rule gets right among labels of this kind.
LinearEstimate right_share(std::span<const LabelledScore> labels, bool kind, const RateOptions& options) {
  std::vector<Value> values;
  for (const LabelledScore& one : labels)
    if (one.label == kind) values.push_back({one.cluster, (one.score >= options.threshold) == kind ? 1.0 : 0.0});
  LinearEstimate out = mean_of(values);
  if (std::isnan(out.value)) return out;
  imagine(out, kind ? right_yes : right_no, 1, values.size(), options.imagined);
  imagine(out, kind ? wrong_yes : wrong_no, 0, values.size(), options.imagined);
  return out;
}

LinearEstimate rogan_gladen(const LinearEstimate& positive, const LinearEstimate& se, const LinearEstimate& sp) {
  const double youden = se.value + sp.value - 1;
  if (!(youden > 0) || std::isnan(positive.value)) return {};
  LinearEstimate out = zero();
  out.value = (positive.value + sp.value - 1) / youden;
  const double rate = out.value;
  add(out, positive, 1 / youden);
  add(out, sp, (1 - rate) / youden);
  add(out, se, -rate / youden);
  out.value = rate;
  return out;
}

}  // namespace

Share LinearEstimate::share() const {
  double variance = 0;
  for (const auto& [cluster, part] : influence) variance += part * part;
  const double half = normal_quantile * std::sqrt(variance);
  return {value, value - half, value + half};
}

LinearEstimate operator-(const LinearEstimate& a, const LinearEstimate& b) {
  if (std::isnan(a.value) || std::isnan(b.value)) return {};
  LinearEstimate out = a;
  add(out, b, -1);
  return out;
}

std::vector<CorrectedRate> corrected_rates(std::span<const std::vector<ScoredLine>> interventions,
                                           std::span<const LabelledScore> pooled, bool own,
                                           const RateOptions& options) {
  const LinearEstimate se = right_share(pooled, true, options), sp = right_share(pooled, false, options);
  std::vector<CorrectedRate> out;
  for (size_t i = 0; i < interventions.size(); ++i) {
    std::vector<Value> all, positive, rest;
    std::vector<double> rest_scores;
    std::vector<LabelledScore> labels;
    if (!own) labels.assign(pooled.begin(), pooled.end());
    for (const ScoredLine& line : interventions[i]) {
      all.push_back({line.cluster, line.score});
      positive.push_back({line.cluster, line.score >= options.threshold ? 1.0 : 0.0});
      if (own && line.label) {
        labels.push_back({*line.label, line.score, line.cluster});
      } else {
        rest.push_back(all.back());
        rest_scores.push_back(line.score);
      }
    }
    CorrectedRate rate;
    rate.n = static_cast<int64_t>(all.size());
    rate.n_labels = static_cast<int64_t>(labels.size());
    for (const LabelledScore& one : labels) rate.n_wrong += one.label != (one.score >= options.threshold);
    rate.rule = mean_of(all);
    rate.rogan_gladen = rogan_gladen(mean_of(positive), se, sp);
    const int64_t imagined = own ? own_imagined - 2 * static_cast<int64_t>(i) : missed;
    if (!rest.empty()) rate.ppi = powered(labels, rest, 1, imagined, options.imagined);
    if (!labels.empty()) {
      rate.lambda = tuned_lambda(labels, rest_scores);
      rate.tuned = powered(labels, rest, rate.lambda, imagined, options.imagined);
    }
    out.push_back(std::move(rate));
  }
  return out;
}

CorrectedRate rate_difference(const CorrectedRate& a, const CorrectedRate& b) {
  CorrectedRate out = a;
  out.rule = a.rule - b.rule;
  out.ppi = a.ppi - b.ppi;
  out.tuned = a.tuned - b.tuned;
  out.rogan_gladen = a.rogan_gladen - b.rogan_gladen;
  return out;
}

}  // namespace signalbox::eval
