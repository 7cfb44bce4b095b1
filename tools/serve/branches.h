// POST /signalbox/v1/branches and /score, one record under several lists of edits at once, and what timelines give out.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "tools/serve/exchange.h"
#include "tools/serve/served_model.h"
#include "tools/serve/timelines.h"

namespace signalbox::tools {

// Both read the body, hand the jobs to the engine and answer when they end. Throw ApiError, and NeedsRows.
void run_branches(ServedModel& model, const json::Value& body, int key, std::shared_ptr<Exchange> exchange);
void run_score(ServedModel& model, const json::Value& body, int key, std::shared_ptr<Exchange> exchange);

// GET /signalbox/v1/timelines/ID/export: what reproduces it.
json::Value export_timeline(const ServedModel& model, const Timeline& timeline);

// "2-4,7" of a body or a query, among the layers of these points; empty: all of them. Throws Error.
std::vector<int32_t> read_layers(const json::Ref& ref, const ServedModel& model, const PointSet& points);

// What is wanted of a timeline's rows.
struct TraceQuery {
  int64_t from = 0, to = 0;     // rows [from, to)
  std::vector<int32_t> layers;  // empty: all that were recorded
  std::string points;           // globs; empty: those that the timeline was asked for
};
// GET /signalbox/v1/timelines/ID/trace: answers with a safetensors file; runs the job again where rows are not there.
void answer_trace(ServedModel& model, const std::string& id, const Timeline& timeline, const TraceQuery& query,
                  std::shared_ptr<Exchange> exchange);
// Runs a timeline again for rows of these points (globs), keeps them, and calls `then` where owners of jobs are called;
// what goes wrong is the answer. Throws ApiError.
void record_rows(ServedModel& model, const std::string& id, const Timeline& timeline, const std::string& points,
                 std::shared_ptr<Exchange> exchange, std::function<void(const Timeline&)> then);
// For edits that take rows of timelines.
OpenTimeline timeline_opener(ServedModel& model, int key);

}  // namespace signalbox::tools
