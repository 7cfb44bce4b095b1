// What is kept of a record of an attribution, and the tables of all of them.
#pragma once
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "base/csv.h"
#include "base/files.h"
#include "base/json.h"
#include "base/namespaces.h"
#include "eval/causal/attribute.h"

namespace signalbox::eval {

struct RecordAttribution {
  std::string id;
  std::vector<AttributionRow> rows;  // of that id
  std::vector<Crossing> crossings;
  int64_t dropped_edges = 0;
};
// As one line, and back, bit by bit; Error for a line of another record.
json::Value attribution_line(const RecordAttribution& record);
RecordAttribution read_attribution_line(const json::Ref& line, const std::string& id);

// Of a directory of attributions, in the order in which they are written.
std::vector<std::string> attribution_files(AttributionMethod method);

// Adds records up, and writes the tables.
class AttributionTables {
 public:
  explicit AttributionTables(const AttributionRequest& request);
  void add(const RecordAttribution& record);
  // Fills in what `result` says of the records.
  void finish(AttributionResult& result);
  // After finish(): the last file is summary.json.
  void write(const engine::Session& session, const AttributionResult& result);

 private:
  struct Sum {
    double now = 0, cells_now = 0;
    bool in_record = false;
    int64_t records = 0, tested = 0;
    double sum = 0, absolute = 0, cells = 0, flips = 0;
  };
  void add(const AttributionRow& row);
  void end_record();
  const AttributionRequest& request_;
  AtomicFile rows_;
  CsvWriter table_, crossings_;
  AttributionResult result_;
  std::map<std::tuple<int32_t, std::string, std::string>, Sum> sums_;  // by layer, point, unit
};

}  // namespace signalbox::eval
