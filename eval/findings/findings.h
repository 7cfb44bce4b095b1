// The findings of a run, typed: what the statistics return, and what metrics.json, tables, audits and reports are made
// of.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "base/no_number.h"
#include "engine/edit_counts.h"
#include "eval/findings/data_facts.h"
#include "eval/findings/intervention.h"

namespace signalbox::eval {

// A mean or a difference with its 95 % interval, of n values; no_number where undefined. Never infinite.
struct Estimate {
  double value = no_number, lo = no_number, hi = no_number;
  int64_t n = 0;
};

// With fewer sets than this, even the first place among them could be chance in more than one of twenty cases.
inline constexpr int64_t enough_controls = 19;

// Where a difference stands among those of its controls.
struct ControlBand {
  Estimate differences;         // of the controls: mean, 2.5 and 97.5 percentile, how many are defined
  std::optional<int64_t> rank;  // 1 + the number of controls with at least this |difference|: 1 = larger than all
  bool few() const { return differences.n > 0 && differences.n < enough_controls; }
};

// A difference of effects, or of interventions, with its 95 % interval and the p of none; no_number where undefined.
struct Versus {
  double difference = no_number, lo = no_number, hi = no_number, p = no_number;
};

// Whether a difference is shown to lie within a margin.
struct Equivalence {
  double margin = 0;
  double p = no_number;  // of the difference being at least that far from 0; below 0.05: it is shown
  bool shown() const { return p < 0.05; }
};

// One intervention against the baseline, in one metric.
struct Contrast {
  Estimate difference;            // mean of value - baseline's value, over the records that have both
  int64_t units = 0;              // pairs, or records, that these records belong to
  double p = no_number;           // by sign flips over units
  double q = no_number;           // Benjamini-Hochberg over the family that the contrast is in; none: undefined
  double detectable = no_number;  // the smallest effect that a test of this many units finds with 80 % power
  double mcnemar_p = no_number;
  ControlBand random;  // of no controls where there are none
  std::optional<ControlBand> frequency_matched;
  std::optional<double> bottom;       // difference of the bottom control; no_number where undefined
  std::optional<Versus> vs_controls;  // the difference minus the mean difference of the random controls
  std::optional<Equivalence> equivalence;
  std::vector<std::pair<std::string, Versus>> versus;        // this intervention minus another main one, by its name
  std::vector<std::pair<std::string, Versus>> by_condition;  // "A - B": the difference under A minus that under B
};

// The contrasts that a run is about: these interventions in these metrics are one family of q.
struct PrimaryContrasts {
  std::vector<std::string> interventions, metrics;
  bool has(std::string_view intervention, std::string_view metric) const;
};

// What the edits of an intervention did, over its samples of some records.
struct EditTotals {
  int64_t n_edits = 0;  // in its list
  bool routes = false;  // some of them edits routes, so that slots may change
  EditCounts counts;
  int64_t records = 0;    // whose samples were counted
  int64_t untouched = 0;  // of these, records without an edited token
};

// The findings over some of a run's records.
struct RecordFindings {
  std::vector<std::vector<Estimate>> means;      // [intervention][metric] of values
  std::vector<std::vector<Contrast>> contrasts;  // [intervention][metric]; those of the baseline are undefined
  std::vector<std::optional<EditTotals>> edits;  // [intervention], or empty; none: it was not counted

  const EditTotals* edits_of(size_t intervention) const {
    return intervention < edits.size() && edits[intervention] ? &*edits[intervention] : nullptr;
  }
};

struct ConditionFindings {
  std::string condition;  // of the records
  RecordFindings found;
};

// Rank correlations between how much the use of the audited experts differs and what ablating them does.
struct AuditCorrelation {
  std::string metric;
  std::optional<double> spearman;         // of |rd| with |effect|; nullopt for fewer than 3 experts
  std::optional<double> spearman_signed;  // of rd with effect
  int64_t n = 0;                          // experts with a defined effect
};

// An effect on the test half of one deal of a cross-fitted run.
struct DealEffect {
  Estimate difference;
  double p = no_number;
};

// In how many deals an intervention took an expert.
struct SelectedExpert {
  std::string intervention;
  ExpertId expert;
  int64_t deals = 0;      // that took it
  double rd = no_number;  // mean over the deals of the risk difference in the ranking it was taken from
};

// How a result over several deals of the records into detection and test came about.
struct CrossFitFindings {
  int64_t deals = 0;
  double share = 0;  // of the examples, for detection
  std::vector<std::vector<std::vector<DealEffect>>>
      effects;                            // [intervention][metric][deal]; undefined where not tested
  std::vector<SelectedExpert> selection;  // every expert of the rankings, by intervention, layer and expert
};

// How far a run had come when its findings were made, where it was not finished.
struct PartialRun {
  int64_t samples = 0, of = 0;    // finished, of all
  int64_t records = 0;            // that the run tests
  std::vector<int64_t> compared;  // [intervention] records that it and the baseline have finished: those that count
};

// A run of the first records only (--limit).
struct RecordLimit {
  int64_t n = 0;                   // of each split and condition
  int64_t records = 0, whole = 0;  // that are tested, and that would be without it
};

struct RunFindings {
  std::string baseline;  // name
  int64_t resamples = 0;
  uint64_t seed = 0;                        // of resampling
  std::vector<std::string> metrics;         // in the order of the spec
  std::vector<Intervention> interventions;  // in the order of the run, baseline included
  PrimaryContrasts primary;
  RecordFindings all;                         // over all records; primary contrasts and audit are families of q
  std::vector<ConditionFindings> conditions;  // where records have at least two; the same families over all of them
  std::vector<AuditCorrelation> audit;        // by metric; empty: no audit
  std::optional<DataFacts> data;              // none: of a run before they were written
  std::vector<std::string> curves;            // entries whose points choose experts differently: specification_curve.h
  std::optional<CrossFitFindings> cross_fit;  // of a run that deals its records several times
  std::optional<PartialRun> partial;          // none: all samples were there
  std::optional<RecordLimit> limit;           // none: of all records

  // Throw Error naming metrics.json when there is none of that name.
  size_t intervention_index(const std::string& name) const;
  size_t metric_index(const std::string& name) const;
  size_t baseline_index() const { return intervention_index(baseline); }
  const RecordFindings& of_condition(const std::string& condition) const;  // empty: all records

  // Mean of an intervention's own values over all records.
  const Estimate& mean(const std::string& intervention, const std::string& metric) const {
    return all.means[intervention_index(intervention)][metric_index(metric)];
  }
};

}  // namespace signalbox::eval
