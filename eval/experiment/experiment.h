// An experiment before a model is opened: its spec and its data, checked against each other.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/data/records.h"
#include "eval/experiment/deals.h"
#include "eval/experiment/spec.h"
#include "eval/experiment/split.h"
#include "eval/findings/findings.h"

namespace signalbox::eval {

struct Experiment {
  ExperimentSpec spec;              // with its metrics chosen
  std::vector<Record> records;      // after prompt programs
  std::vector<int64_t> program_of;  // [records] index into spec.programs, or empty
  Splits splits;                    // all records are tested where there are deals
  std::vector<Deal> deals;          // of a spec with cross_fit
  DataFacts data;
  std::optional<RecordLimit> limit;  // of the data's records, before prompt programs
  std::vector<std::string> notes;    // sentences for standard error and the log
};

// Reads the data, and refuses all that can be refused without a model. With `limit` above 0 it goes on with the first
// records of each split and condition (limit.h), once splits of all of them have been checked. Throws Error.
Experiment open_experiment(ExperimentSpec spec, int64_t limit = 0);

}  // namespace signalbox::eval
