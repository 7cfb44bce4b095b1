// A rule or a judge against labels: counts of agreement, and the shares that are made of them with their intervals.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "base/no_number.h"

namespace signalbox::eval {

// A share or a coefficient with its 95 % interval; no_number where undefined.
struct Share {
  double value = no_number, lo = no_number, hi = no_number;
};

struct LabelledScore {
  bool label = false;   // what a person says
  double score = 0;     // what the rule says, 0 ... 1
  int64_t cluster = 0;  // lines of one cluster (a pair of records, a record) are not independent; any number
};

// Exact two-sided interval of Clopper and Pearson (1934) for x of n, at level 0.95; x and n need not be whole. n <= 0:
// undefined.
Share exact_share(double x, double n);

// The share of `hits[i]` of `of[i]` in all, over clusters i, 0 <= hits <= of. Where no cluster holds more than one it
// is exact_share. Else the exact interval at the effective number of Korn and Graubard (1998), n_eff = min(n,
// p(1-p)/v), with v the ratio estimator's variance between clusters, v = G/(G-1) sum (hits - p of)^2 / n^2; a share of
// 0 or 1 has as many as there are clusters with of > 0. Of a share between 0 and 1 in one cluster the interval is
// undefined.
Share clustered_share(std::span<const double> hits, std::span<const double> of);

struct Confusion {
  int64_t true_positive = 0, false_positive = 0, false_negative = 0, true_negative = 0;
  int64_t n_clusters = 0;
  int64_t n() const { return true_positive + false_positive + false_negative + true_negative; }
  int64_t n_wrong() const { return false_positive + false_negative; }
  Share label_rate, rule_rate;     // of all
  Share sensitivity, specificity;  // right among those with the label, and among those without
  Share precision;                 // with the label among those that the rule says
  // 2 TP / (2 TP + FP + FN). Its interval is that of the share TP / (TP + FP + FN), of which it is a rising function.
  Share f1;
  // Cohen's kappa, (p_o - p_e) / (1 - p_e); percentile bootstrap over clusters. Undefined where chance alone agrees
  // always; the interval too where no line is wrong, since then no replicate differs.
  Share kappa;
};

// The rule says yes where score >= threshold. Draws are functions of (seed, replicate, cluster), clusters in the order
// of their first lines.
Confusion confusion(std::span<const LabelledScore> lines, double threshold, uint64_t seed, int64_t resamples);

}  // namespace signalbox::eval
