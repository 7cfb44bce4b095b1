// A pair of records in a tiny model, patched by request or run under edits.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "eval/causal/patch.h"
#include "eval/causal/recorded_run.h"
#include "eval/data/record_jobs.h"
#include "loaders/open.h"
#include "probes/edit_memory.h"
#include "tests/support.h"

namespace signalbox::test {

using namespace eval;
using namespace probes;

inline const std::vector<std::string> equal_pair = {
    R"({"id":"a","pair":"p","condition":"clean","tokens":[5,9,33,17,40,12,61],"answer":7,"foil":9})",
    R"({"id":"b","pair":"p","condition":"corrupt","tokens":[5,9,8,17,41,12,61],"answer":7,"foil":9})"};

struct PatchInput {
  Session session;
  std::vector<Record> records;
  RecordJobs made;
  PatchInput(const std::string& name, const std::vector<std::string>& lines = equal_pair)
      : session(tools::open_session((test::goldens_dir() / name / "model").string(), {})) {
    for (size_t i = 0; i < lines.size(); ++i)
      records.push_back(parse_record(json::parse(lines[i], "records"), "records:" + std::to_string(i + 1)));
    made = make_jobs(session, records, Generate{}, nullptr);
  }
  std::vector<CausalPair> pairs(Metric metric) const { return causal_pairs(metric, records, made, session.encode); }
  PatchRequest request(const std::string& points, PatchBy by, bool denoising = true) const {
    PatchRequest request;
    request.denoising = denoising;
    request.by = by;
    request.points = patch_points(points, session.shape).points;
    return request;
  }
  PatchedPair patch(const PatchRequest& request) const {
    const std::vector<CausalPair> found = pairs(request.metric);
    check_patch(request, records, found, made, session.shape);
    return patch_pair(session, made, found.front(), request, 0);
  }
  RecordedRun run(size_t record, const std::string& name, const std::string& points, const std::string& edits = "",
                  const EditMemory& memory = EditMemory()) const {
    std::shared_ptr<const EditPlan> plan;
    if (!edits.empty()) {
      const json::Value list = json::parse(edits, "edits");
      plan = EditPlan::parse(json::Ref(list, "edits"), ".", session.shape, 0, &memory);
    }
    return record_run(session, made.jobs[record], 1, PointSet::parse(points, session.shape), name, plan.get());
  }
  double logit_diff(const RecordedRun& run) const {
    return static_cast<double>(run.logits.data[7]) - static_cast<double>(run.logits.data[9]);
  }
};

// {unit, effect} of a point by its full name.
inline std::map<std::string, PatchRow> rows_of(const PatchedPair& patched, const PatchRequest& request,
                                               const std::string& point) {
  std::map<std::string, PatchRow> rows;
  for (const PatchRow& row : patched.rows)
    if (point_name(request.points[row.point].point, request.points[row.point].layer) == point) rows[row.unit] = row;
  return rows;
}

inline std::string positions(int64_t t) {
  return R"(,"tokens":{"positions":")" + std::to_string(t) + ":" + std::to_string(t + 1) + "\"}";
}
inline std::string numbers(int64_t first, int64_t count) {
  std::string text;
  for (int64_t i = first; i < first + count; ++i) text += (text.empty() ? "[" : ",") + std::to_string(i);
  return text + "]";
}

}  // namespace signalbox::test
