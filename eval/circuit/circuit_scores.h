// How good a circuit is: faithfulness, completeness, minimality, and the curve over sizes.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/circuit/scorer.h"
#include "eval/statistics/resampling.h"

namespace signalbox::eval {

// (m(C) - m(none)) / (m(M) - m(none)), a ratio of means over pairs. Not clipped: below 0 and above 1 are real.
struct Faithfulness {
  double f = 0;
  Interval ci;  // 95 %, bootstrap of the ratio, pairs whole
};
// Whether the denominator is known: the mean of whole - none is at least two standard errors from 0.
bool denominator_known(std::span<const double> whole, std::span<const double> none);
double faithfulness(std::span<const double> circuit, std::span<const double> whole, std::span<const double> none);
Faithfulness faithfulness_with_interval(std::span<const double> circuit, std::span<const double> whole,
                                        std::span<const double> none, uint64_t seed, int64_t resamples);

// What a circuit does on one set of pairs.
struct SetScores {
  double whole = 0, none = 0, circuit = 0;  // means of the metric
  bool known = false;                       // whole - none is at least two standard errors from 0; else f is undefined
  Faithfulness faithfulness;
};
SetScores set_scores(std::span<const double> circuit, std::span<const double> whole, std::span<const double> none,
                     uint64_t seed, int64_t resamples);

// max over K of |F(C without K) - F(M without K)|, F as faithfulness; over nothing, each part alone, `draws` random
// halves of C and C itself. A lower bound of the maximum over all subsets.
struct Completeness {
  double gap = 0;
  std::vector<std::string> worst;  // parts of the K with that gap
};
// `alone` false: parts are not taken out one by one.
Completeness completeness(SubsetScorer& scorer, const NodeMask& circuit, uint64_t seed, int64_t draws,
                          bool alone = true);

// Of each part v of the circuit: max over K of |F(C without K and v) - F(C without K)|, K nothing and `draws` random
// halves of the rest: 0 = superfluous whatever else is out. [part of the circuit]
std::vector<double> minimality(SubsetScorer& scorer, const NodeMask& circuit, uint64_t seed, int64_t draws);

// The measures of the MIB benchmark over nested circuits: sizes as shares of all parts, ascending; the area below f and
// below |1 - f| by trapezoids over the share, from 0.001 on (f there that of the smallest).
struct SizeCurve {
  std::vector<double> shares, f;
  double cpr = 0, cmd = 0;
};
SizeCurve size_curve(CircuitScorer& scorer, std::span<const size_t> ranking);  // parts, the most important first
inline constexpr double curve_shares[] = {0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1};

}  // namespace signalbox::eval
