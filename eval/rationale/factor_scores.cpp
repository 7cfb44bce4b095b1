#include "eval/rationale/factor_scores.h"

#include <algorithm>
#include <map>

#include "eval/data/dice.h"
#include "eval/statistics/paired.h"

namespace signalbox::eval {

namespace {

struct SentenceCounts {
  int64_t hits = 0, predicted = 0, gold = 0;
};

double ratio(int64_t part, int64_t of) { return of == 0 ? 0 : static_cast<double>(part) / static_cast<double>(of); }

FactorScore score_pair(const FactorUnits& units, int32_t factor, int32_t label, int64_t n_factors, uint64_t seed,
                       int64_t resamples, int threads) {
  FactorScore score;
  score.factor = factor;
  score.label = label;
  std::map<int64_t, SentenceCounts> sentences;
  for (size_t i = 0; i < units.n(); ++i) {
    const bool predicted = units.factor[i] == factor, gold = label >= 0 && units.label[i] == label;
    if (!predicted && !gold) continue;
    SentenceCounts& counts = sentences[units.sentence[i]];
    counts.hits += predicted && gold;
    counts.predicted += predicted;
    counts.gold += gold;
  }
  ClusteredValues ratios;
  for (const auto& [sentence, counts] : sentences) {
    score.hits += counts.hits;
    score.predicted += counts.predicted;
    score.gold += counts.gold;
    ratios.sums.push_back(2.0 * static_cast<double>(counts.hits));
    ratios.counts.push_back(static_cast<double>(counts.predicted + counts.gold));
    score.f1_sentences += ratio(2 * counts.hits, counts.predicted + counts.gold);
  }
  if (!sentences.empty()) score.f1_sentences /= static_cast<double>(sentences.size());
  score.precision = ratio(score.hits, score.predicted);
  score.recall = ratio(score.hits, score.gold);
  score.f1 = ratio(2 * score.hits, score.predicted + score.gold);
  // A ratio of sums over sentences, as a mean with counts is.
  score.ci = bootstrap_means({&ratios, 1}, seed, resamples, threads).front().ci;
  score.base = base_rates(ratio(score.gold, static_cast<int64_t>(units.n())), n_factors);
  return score;
}

double macro_f1_of(const Contingency& table, const std::vector<int32_t>& matched, int64_t n_labels) {
  double sum = 0;
  for (int64_t k = 0; k < table.n_rows; ++k)
    if (const int32_t label = matched[static_cast<size_t>(k)]; label >= 0) sum += pair_f1(table, k, label);
  return n_labels > 0 ? sum / static_cast<double>(n_labels) : 0;
}

// The labels of whole sentences in another order, laid over the same units.
std::vector<int32_t> exchanged_labels(const FactorUnits& units, Dice& dice) {
  std::vector<std::pair<size_t, size_t>> sentences;  // [begin, end)
  for (size_t i = 0; i < units.n(); ++i) {
    if (i == 0 || units.sentence[i] != units.sentence[i - 1]) sentences.push_back({i, i});
    sentences.back().second = i + 1;
  }
  dice.shuffle(sentences);
  std::vector<int32_t> labels;
  for (const auto& [begin, end] : sentences)
    labels.insert(labels.end(), units.label.begin() + static_cast<std::ptrdiff_t>(begin),
                  units.label.begin() + static_cast<std::ptrdiff_t>(end));
  return labels;
}

}  // namespace

FactorReport score_factors(const FactorUnits& fitted_on, const FactorUnits& units, int64_t n_factors, int64_t n_labels,
                           uint64_t seed, int64_t resamples, int64_t permutations, int threads) {
  const auto table_of = [&](const FactorUnits& of, const std::vector<int32_t>& labels) {
    return Contingency(of.factor, labels, n_factors, n_labels + 1);
  };
  const Contingency fitted = table_of(fitted_on, fitted_on.label), table = table_of(units, units.label);
  const std::vector<int32_t> matched = match_rows(fitted, 1);
  FactorReport report;
  FactorScore pooled;
  std::vector<bool> taken(static_cast<size_t>(n_labels + 1), false);
  const auto add = [&](int32_t factor, int32_t label) {
    report.rows.push_back(score_pair(units, factor, label, n_factors, seed, resamples, threads));
    const FactorScore& row = report.rows.back();
    if (label < 0) return;
    pooled.hits += row.hits;
    pooled.predicted += row.predicted;
    pooled.gold += row.gold;
  };
  for (int32_t k = 0; k < n_factors; ++k) {
    add(k, matched[static_cast<size_t>(k)]);
    if (matched[static_cast<size_t>(k)] >= 0) taken[static_cast<size_t>(matched[static_cast<size_t>(k)])] = true;
  }
  for (int32_t label = 1; label <= n_labels; ++label)
    if (!taken[static_cast<size_t>(label)]) add(-1, label);
  report.macro_f1 = macro_f1_of(table, matched, n_labels);
  report.micro_f1 = ratio(2 * pooled.hits, pooled.predicted + pooled.gold);
  const std::vector<int32_t> majority = majority_columns(fitted);
  for (int32_t label = 1; label <= n_labels; ++label) {
    int64_t hits = 0, predicted = 0;
    for (int64_t k = 0; k < n_factors; ++k)
      if (majority[static_cast<size_t>(k)] == label) {
        hits += table.at(k, label);
        predicted += table.row_sum(k);
      }
    report.many_to_one_f1 += ratio(2 * hits, predicted + table.column_sum(label)) / static_cast<double>(n_labels);
  }
  if (units.n() > 0) report.information = information_scores(table);
  report.adjusted_rand = adjusted_rand(table);
  std::vector<double> permuted;
  int64_t as_high = 0;
  for (int64_t r = 0; r < permutations; ++r) {
    Dice dice(seed, "labels exchanged " + std::to_string(r));
    const Contingency first = table_of(fitted_on, exchanged_labels(fitted_on, dice));
    permuted.push_back(macro_f1_of(table_of(units, exchanged_labels(units, dice)), match_rows(first, 1), n_labels));
    report.permuted_mean += permuted.back() / static_cast<double>(permutations);
    as_high += permuted.back() >= report.macro_f1;
  }
  std::sort(permuted.begin(), permuted.end());
  report.permuted_high = quantile(permuted, 0.95);
  report.permuted_p = static_cast<double>(1 + as_high) / static_cast<double>(1 + permutations);
  report.permutations = permutations;
  return report;
}

}  // namespace signalbox::eval
