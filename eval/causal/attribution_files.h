// The tables of an attribution, written as the rows come, and what they add up to.
#pragma once
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>

#include "base/csv.h"
#include "base/files.h"
#include "base/namespaces.h"
#include "eval/causal/attribute.h"
#include "eval/store/staged_files.h"

namespace signalbox::eval {

// Without finish() the directory is as it was.
class AttributionFiles {
 public:
  explicit AttributionFiles(const AttributionRequest& request);
  void add(const AttributionRow& row);
  void add(const std::string& id, const Crossing& crossing);
  void end_record();  // all rows of a record have been added
  // Fills in result.totals and result.rows, and writes summary.json.
  void finish(const engine::Session& session, AttributionResult& result);

 private:
  struct Sum {
    double now = 0, cells_now = 0;
    bool in_record = false;
    int64_t records = 0, tested = 0;
    double sum = 0, absolute = 0, cells = 0, flips = 0;
  };
  void write_totals(const std::vector<AttributionTotal>& totals, int64_t records);
  const AttributionRequest& request_;
  StagedFiles staged_;
  AtomicFile rows_;
  CsvWriter table_, crossings_;
  int64_t n_rows_ = 0;
  std::map<std::tuple<int32_t, std::string, std::string>, Sum> sums_;  // by layer, point, unit
};

}  // namespace signalbox::eval
