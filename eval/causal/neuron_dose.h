// "What if this neuron had fired differently": the effect on a metric of other values of one neuron of one expert, at
// every token that selects the expert (docs/causal-effects.md).
//
//   set    the neuron is the dose
//   add    the dose is added to what it was
//   scale  it is multiplied by the dose
//
// Each dose is one set of edits, whose effects are measured as those of any others (effects.h): in all, with later
// routes held, through later routes alone.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "engine/session.h"
#include "eval/causal/effects.h"
#include "eval/data/record_jobs.h"
#include "eval/statistics/resampling.h"

namespace signalbox::eval {

enum class DoseKind : uint8_t { set, add, scale };

struct NeuronPlace {
  int32_t layer = 0, expert = 0, neuron = 0;
};

// What a neuron was at a token that selected its expert.
struct NeuronValue {
  int64_t position = 0;
  float value = 0;
};

// Throws Error for a place that the model does not have: "--neuron: ...".
void check_neuron(const engine::Session& session, const NeuronPlace& place);

// [jobs]: of each, by position. Runs them unedited. Throws Error as check_neuron.
std::vector<std::vector<NeuronValue>> neuron_values(const engine::Session& session,
                                                    const std::vector<engine::Job>& jobs, const NeuronPlace& place);

struct Dose {
  std::string name;  // "p99", or the number
  double value = 0;
};
// 0, the mean, and quantiles p01, p25, p50, p75, p99 (linear between values, as numpy's default) of these values, in
// ascending order of value. Throws Error where there is none.
std::vector<Dose> quantile_doses(const std::vector<std::vector<NeuronValue>>& values);

// The jobs with the edits that give a dose, and what these name memory:NAME. Records without a token that selects the
// expert have none.
struct DosedJobs {
  RecordJobs made;
  std::vector<probes::EditMemory> memories;  // [records]
};
DosedJobs dosed_jobs(const engine::Session& session, const RecordJobs& made,
                     const std::vector<std::vector<NeuronValue>>& values, const NeuronPlace& place, DoseKind kind,
                     double dose);

// Means over the records in which some token selects the expert, with intervals (bootstrap, pairs whole).
struct DoseRow {
  Dose dose;
  int64_t records = 0, tokens = 0;  // tokens that were changed
  MeanEstimate total, direct, routes;
};
DoseRow dose_row(const Dose& dose, const Effects& effects, const std::vector<Record>& records,
                 const std::vector<std::vector<NeuronValue>>& values, uint64_t seed);

// dose.csv: dose, value, metric, records, tokens, and mean, ci_lo, ci_hi of total, direct and routes.
std::string dose_table(const std::vector<DoseRow>& rows, Metric metric);

}  // namespace signalbox::eval
