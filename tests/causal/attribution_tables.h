// Runs of attribute() in a directory of their own, and its table.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "base/csv.h"
#include "eval/causal/attribute.h"
#include "tests/causal/tiny_models.h"

namespace signalbox::test {

// Two sequences that differ at three positions, as tests/goldens/attribution_goldens.py has them.
inline const std::vector<std::string> attribution_pair = {
    R"({"id":"x","pair":"p","condition":"clean","tokens":[5,9,33,17,40,12,61,8,25,30],"answer":7,"foil":9})",
    R"({"id":"y","pair":"p","condition":"corrupt","tokens":[5,9,20,17,40,71,61,8,3,30],"answer":7,"foil":9})"};

struct AttributionRun {
  eval::AttributionResult result;
  std::map<std::string, double> scores;  // by "position|layer|point|unit"
  double sum = 0;                        // of all of them but the whole path's
  std::string table;
  double at(const std::string& key) const { return scores.at(key); }
};

class Attributions {
 public:
  explicit Attributions(const std::string& model, const std::vector<std::string>& lines = attribution_pair)
      : setup(model, lines) {}

  eval::AttributionRequest request(eval::AttributionMethod method, eval::InPlace in_place) {
    eval::AttributionRequest made;
    made.method = method;
    made.metric = eval::Metric::logit_diff;
    made.in_place = in_place;
    if (in_place == eval::InPlace::pairs)
      made.pairs = eval::select_pairs(setup.session, setup.made,
                                      eval::causal_pairs(made.metric, setup.records, setup.made, setup.session.encode),
                                      true, "input");
    return made;
  }
  AttributionRun run(eval::AttributionRequest made) {
    const TemporaryDirectory dir;
    made.dir = dir / "attribution";
    AttributionRun run;
    run.result = eval::attribute(setup.session, setup.records, setup.made, made);
    run.table = read_file(made.dir / "attribution.csv");
    const CsvTable table = CsvTable::parse(run.table, "attribution.csv");
    for (size_t row = 0; row < table.n_rows(); ++row) {
      run.sum += table.text(row, 3) == "path" ? 0 : table.number(row, 5);
      run.scores[table.text(row, 1) + "|" + table.text(row, 2) + "|" + table.text(row, 3) + "|" + table.text(row, 4)] =
          table.number(row, 5);
    }
    return run;
  }

  TinyRecords setup;
};

}  // namespace signalbox::test
