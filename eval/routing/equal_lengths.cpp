#include "eval/routing/equal_lengths.h"

#include <algorithm>

namespace signalbox::eval {

namespace {

double below_and_half(double less, double equal) { return less + 0.5 * equal; }

// P(X < x) + P(X = x) / 2 for the number X of uses among n tokens drawn from `all`.
double below(Uses all, int64_t n, int64_t x) {
  const int64_t low = std::max<int64_t>(0, n - (all.tokens - all.uses)), high = std::min(all.uses, n);
  if (low == high) return below_and_half(low < x ? 1 : 0, low == x ? 1 : 0);
  // Probabilities relative to the one of the mode, from ratios of neighbours: nothing overflows, and what is left out
  // is below 1e-20 of the whole.
  const auto uses = static_cast<double>(all.uses), tokens = static_cast<double>(all.tokens),
             drawn = static_cast<double>(n);
  const auto ratio = [&](int64_t i) {  // of i + 1 to i
    const auto at = static_cast<double>(i);
    return (uses - at) * (drawn - at) / ((at + 1) * (tokens - uses - drawn + at + 1));
  };
  const auto mode = std::clamp(static_cast<int64_t>((drawn + 1) * (uses + 1) / (tokens + 2)), low, high);
  double sum = 0, less = 0, equal = 0;
  const auto see = [&](int64_t i, double p) {
    sum += p;
    if (i < x) less += p;
    if (i == x) equal += p;
  };
  see(mode, 1);
  double p = 1;
  for (int64_t i = mode; i < high && p > 1e-20; ++i) see(i + 1, p *= ratio(i));
  p = 1;
  for (int64_t i = mode; i > low && p > 1e-20; --i) see(i - 1, p /= ratio(i - 1));
  return below_and_half(less, equal) / sum;
}

}  // namespace

double used_more(Uses a, Uses b) {
  if (a.tokens < b.tokens) return below(b, a.tokens, a.uses);
  return 1 - below(a, b.tokens, b.uses);
}

}  // namespace signalbox::eval
