// A model with planted circuits, its truth and its records, and what edits do to it.
#pragma once
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "eval/causal/effects.h"
#include "eval/data/record_jobs.h"
#include "loaders/open.h"
#include "loaders/synthetic/make_model.h"
#include "tests/support.h"

namespace signalbox::test {

struct Planted {
  TemporaryDirectory dir;
  json::Value truth;
  std::unique_ptr<Session> session;

  explicit Planted(const std::string& spec) {
    synthetic::make_model(json::parse(spec, "spec"), "spec", dir / "m");
    truth = *json::parse_file(dir / "m/make-model.json").find("truth")->find("circuits");
    session = std::make_unique<Session>(open_session((dir / "m").string(), {}));
  }
  const json::Value& circuit(size_t i) const { return truth.items()[i]; }
  std::vector<Record> records(size_t circuit, const std::string& condition) const {
    std::vector<Record> kept;
    for (Record& record : read_records((dir / "m" / ("circuit-" + std::to_string(circuit) + ".jsonl")).string()))
      if (record.condition == condition) kept.push_back(std::move(record));
    return kept;
  }
  std::shared_ptr<const EditPlan> plan(const std::string& edits) const {
    const json::Value parsed = json::parse(edits, "edits");
    return session->edits(json::Ref(parsed, "edits"), dir.path(), 0);
  }
  // Of the first record: what edits do, in units of what a flip of the answer would do.
  EffectsRow effect(const std::vector<Record>& all, const std::string& edits) const {
    const std::vector<Record> records(all.begin(), all.begin() + 1);
    EffectsRequest request;
    request.metric = Metric::logit_diff;
    request.edits_dir = dir.path();
    EffectsRow row =
        measure_effects(*session, records, make_jobs(*session, records, Generate{}, plan(edits)), request).rows.front();
    for (double* part : {&row.total, &row.direct, &row.routes, &row.interaction}) *part /= std::fabs(2 * row.base);
    return row;
  }
  // What stands at these points on these records, under `name`.
  void trace(const std::vector<Record>& records, const std::string& name,
             const std::string& points = "*.expert.out,*.router.ids", const std::string& edits = "") const {
    const auto edited = edits.empty() ? nullptr : plan(edits);
    const RecordJobs made = make_jobs(*session, records, Generate{}, edited);
    TraceRequest request;
    request.dir = dir / name;
    request.points = PointSet::parse(points, session->shape);
    request.plan = edited;
    session->trace(made.jobs, session->options, request,
                   [&](int64_t i) { return records[static_cast<size_t>(i)].source; }, {});
  }
};

}  // namespace signalbox::test
