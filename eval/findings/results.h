// The findings of a run: a value for every example, metric and intervention, and the statistics made of them.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/json.h"
#include "eval/statistics/resampling.h"

namespace signalbox {

// Values of one metric under one intervention: one for each example (record) for which it is defined, samples and seeds
// averaged. `records` ascending.
struct MetricValues {
  std::vector<int64_t> records;
  std::vector<double> values;
};

enum class ControlKind : uint8_t { none, random, frequency_matched, bottom };

struct InterventionValues {
  std::string name;
  std::string description;  // for tables: "ban 8 experts in layers 1-5"
  std::string control_of;   // name of the intervention that this one is a control of; empty: not a control
  ControlKind control = ControlKind::none;
  std::vector<std::pair<std::string, json::Value>> grid;  // keys and values of its point in a grid, in order
  std::map<std::string, MetricValues> metrics;
};

struct RunValues {
  std::vector<std::string> metrics;               // in the order of the spec
  std::vector<InterventionValues> interventions;  // in the order of the run, baseline included
  std::string baseline;
  std::vector<std::string> clusters;    // [record] pair, else id: what is resampled whole
  std::vector<std::string> conditions;  // [record] condition, else empty
  uint64_t seed = 0;
  int64_t resamples = default_resamples;
};

// metrics.json as in the contract, deterministic to the byte (json::dump of it), whatever n_threads (0: as many as the
// machine has). Undefined numbers are null. Keys, beyond "schema", "baseline", "resamples", "seed" and "metrics":
//   interventions.NAME.METRIC = {mean, ci_lo, ci_hi, n}: mean over records, 95 % percentile bootstrap over clusters
//   contrasts.NAME.METRIC = {diff, ci_lo, ci_hi, p, q, control_*, n, ...}, the baseline left out:
//     diff: mean over the n records that have a value on both sides of value - baseline's value; ci by bootstrap and p
//     by sign flips over clusters; q Benjamini-Hochberg over all contrasts of the run, controls included control_mean,
//     control_lo, control_hi: mean, 2.5 and 97.5 percentile of the diffs of its n_controls random controls;
//     control_rank = 1 + the number of them with |diff| at least this |diff|: 1 is larger than all, of n_controls + 1
//     frequency_matched = {mean, lo, hi, rank, n}, bottom_diff: the other kinds of controls, where the run has them
//     mcnemar_p: exact McNemar test over records, where every value is 0 or 1 (not clustered)
//   conditions.CONDITION = {interventions, contrasts} over the records of one condition, where records have at least
//   two;
//     q there over the contrasts of all conditions
//   about.NAME = {description, control_of, control, grid}: what an intervention is
// Throws Error when the values do not fit together (no such baseline, a name twice, a record out of range or order).
json::Value metrics_json(const RunValues& run, int n_threads = 0);

}  // namespace signalbox
