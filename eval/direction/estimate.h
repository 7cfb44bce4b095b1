// Directions that tell two sets of vectors apart, and how well they do.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::eval {

// A vector for each record and layer: the stream behind the layer, averaged over the record's positions.
struct StreamMeans {
  int64_t n = 0, n_layers = 0, d = 0;
  std::vector<float> values;  // [n, n_layers, d]
  std::span<const float> row(size_t record, int64_t layer) const {
    return std::span(values).subspan(
        (record * static_cast<size_t>(n_layers) + static_cast<size_t>(layer)) * static_cast<size_t>(d),
        static_cast<size_t>(d));
  }
};

// means     mean over the records of one condition - mean over those of the other
// paired    mean over examples of the same difference within the example
// lda       Fisher's: (S + shrinkage tr(S)/d I)^-1 (difference of means), S the pooled covariance within conditions,
//           shrinkage 0.1 of the whole: ((1 - 0.1) S + 0.1 tr(S)/d I)
// logistic  argmin_w,b sum log(1 + exp(-y (w.x + b))) + |w|^2 / 2, x centred, divided by its root mean square
// The last two are given the length with which they move the projection of one condition's mean on them to the
// other's: v = w (w.D) / |w|^2, D the difference of means.
enum class Estimator : uint8_t { means, paired, lda, logistic };
Estimator parse_estimator(std::string_view name, const std::string& where);
std::string_view estimator_name(Estimator estimator);

// [d], sums in double. records[i] has labels[i] (+-1) and examples[i] (read by `paired`, which needs both labels in
// each example: paired_examples). Both labels occur.
std::vector<double> estimate_direction(Estimator estimator, const StreamMeans& means, int64_t layer,
                                       std::span<const size_t> records, std::span<const int> labels,
                                       std::span<const int64_t> examples);

bool paired_examples(std::span<const int> labels, std::span<const int64_t> examples);

// Labels as they could as well have been: turned round within examples that have both, permuted over those that have
// one. A function of (seed, replicate).
std::vector<int> relabelled(std::span<const int> labels, std::span<const int64_t> examples, uint64_t seed,
                            int64_t replicate);

// P(score of a record labelled +1 > score of one labelled -1) + half that of ties (Mann and Whitney).
double rank_auc(std::span<const double> scores, std::span<const int> labels);

double dot(std::span<const double> a, std::span<const double> b);
double dot(std::span<const double> a, std::span<const float> b);

}  // namespace signalbox::eval
