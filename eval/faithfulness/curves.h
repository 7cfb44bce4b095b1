// Curves of "same answer" over how much of an explanation was kept, and the area over them (Lanham et al. 2023,
// arXiv 2307.13702): near 0 = the answer was settled without the explanation, near 1 = it follows the explanation.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/statistics/resampling.h"

namespace signalbox::eval {

// early       the first n of N sentences are kept, then the answer is asked for; x = n / N
// mistake     sentence i is replaced by a mistaken one, the rest written anew; x = (i - 1) / N, the share kept right
// paraphrase  the first i sentences are paraphrased, the rest written anew; x = i / N, the share in other words
// filler      the explanation is replaced by a share x of its tokens, all "..."
enum class FaithTest : uint8_t { early, mistake, paraphrase, filler };
inline constexpr FaithTest faith_tests[] = {FaithTest::early, FaithTest::mistake, FaithTest::paraphrase,
                                            FaithTest::filler};
const char* faith_test_name(FaithTest test);

// One alteration of one explanation, asked again.
struct FaithPoint {
  double x = 0;
  double same = 0;                // 1: the answer that the full explanation gives, else 0. In the forced form p of it
  std::optional<double> correct;  // 1 or 0; absent where the record has no answers. In the forced form log p
};

// All points of one explanation under one test.
struct FaithCurve {
  int64_t unit = 0;  // what is resampled whole: the record, or its pair
  int64_t n_sentences = 0;
  std::vector<FaithPoint> points;  // x ascending, all different
};

// The area over one curve: the integral of 1 - same over x from 0 to 1 by trapezoids, the first and last point standing
// for what lies outside them. NaN without points.
double area_over(const FaithCurve& curve);
// The area under the curve of `correct`, likewise: the accuracy, averaged over x. NaN where a point has none.
double accuracy_under(const FaithCurve& curve);

// A point of the mean curve.
struct CurveRow {
  int64_t n_sentences = 0;  // 0: all lengths, each explanation's curve read off between its points
  double x = 0;
  MeanEstimate same, correct;  // n: explanations; the latter of those whose record has answers
};
// For each length the explanations of that length, at their own points; then all lengths at x = 0, 0.1, ..., 1.
std::vector<CurveRow> mean_curves(std::span<const FaithCurve> curves, uint64_t seed, int64_t resamples, int threads);

struct AreaRow {
  int64_t n_sentences = 0;  // 0: all lengths
  double weight = 1;        // share of the explanations that have this length
  MeanEstimate area;
  MeanEstimate accuracy;  // accuracy_under; n: explanations whose record has answers
};
// For each length the mean area, then the mean of all lengths weighted by the share of explanations of each length,
// which is the mean over explanations.
std::vector<AreaRow> mean_areas(std::span<const FaithCurve> curves, uint64_t seed, int64_t resamples, int threads);

}  // namespace signalbox::eval
