// Differences between effects: of an intervention and its controls, of two interventions, of one under two conditions.
#pragma once
#include <cstdint>
#include <span>

#include "eval/statistics/paired.h"

namespace signalbox::eval {

struct EffectDifference {
  double diff;  // NaN where one of the two has no value
  Interval ci;  // 95 %; NaN where too few units give no spread
  double p;     // two-sided; NaN as ci
  int64_t n_units;
};

// An effect minus the mean effect of its control sets: of each, `sums` are its values (differences to the baseline) and
// `counts` their number, by unit; unit i is the same records everywhere, and a count may be 0. Both records and sets
// are a sample: a replicate draws units with replacement, the same for the effect and all sets, and sets with
// replacement. ci: percentiles, levels widened for few units and few sets (widened_interval) with Satterthwaite's
// degrees of freedom of the two variances; p: the level at which that interval ends at 0. Undefined with fewer than two
// units or two sets. Drawing both keeps the interval at its level or above it (Owen 2007 on the pigeonhole bootstrap):
// what units and sets have between them is counted twice.
EffectDifference effect_over_controls(const ClusteredValues& effect, std::span<const ClusteredValues> controls,
                                      uint64_t seed, int64_t resamples, int n_threads);

// The difference of two means, one - two. Units stand at the same index on both sides; a unit without values on a side
// has count 0 there. Units with both are shared (the same records under two interventions, or pairs with a record under
// either condition). ci: BCa with widened levels (corrected_interval), units drawn among their kind (shared, only in
// one, only in two). p: the difference divided by its own standard error, under relabelling: sides of shared units
// swapped, or, where none is shared, units permuted over the sides; beside shared units others take no part in p. Its
// null: the labels do not matter; by the division it holds for equal means where spreads or numbers differ.
EffectDifference difference_of_effects(const ClusteredValues& one, const ClusteredValues& two, uint64_t seed,
                                       int64_t resamples, int n_threads);

}  // namespace signalbox::eval
