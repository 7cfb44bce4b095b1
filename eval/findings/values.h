// What findings are made of: a value for every record, metric and intervention of a run.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/findings/data_facts.h"
#include "eval/findings/findings.h"
#include "eval/findings/intervention.h"
#include "eval/statistics/resampling.h"

namespace signalbox::eval {

// Values of one metric under one intervention: one for each example (record) for which it is defined, samples and seeds
// averaged. `records` ascending.
struct MetricValues {
  std::vector<int64_t> records;
  std::vector<double> values;
};

struct InterventionValues : Intervention {
  std::map<std::string, MetricValues> metrics;
  int64_t n_edits = 0;                  // in its list
  bool edits_routes = false;            // with some of them
  std::map<int64_t, EditCounts> edits;  // by record, over samples and seeds; a record that is not there was not counted
};

struct RunValues {
  std::vector<std::string> metrics;               // in the order of the spec
  std::vector<InterventionValues> interventions;  // in the order of the run, baseline included
  std::string baseline;
  std::vector<std::string> clusters;        // [record] its independent example: what is resampled whole
  std::vector<std::string> conditions;      // [record] condition, else empty
  std::optional<PrimaryContrasts> primary;  // none: all main interventions in all metrics whose null is possible
  std::map<std::string, double> margins;    // of equivalence, by metric
  DataFacts data;
  std::optional<PartialRun> partial;
  std::optional<RecordLimit> limit;
  uint64_t seed = 0;
  int64_t resamples = default_resamples;
};

}  // namespace signalbox::eval
