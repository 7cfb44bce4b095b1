// POST /signalbox/v1/branches and /score: one record under several lists of edits at once.
#pragma once
#include <memory>
#include <string>

#include "base/json.h"
#include "base/namespaces.h"
#include "tools/serve/exchange.h"
#include "tools/serve/served_model.h"
#include "tools/serve/timelines.h"

namespace signalbox::tools {

// Both read the body, hand the jobs to the engine and answer when they end. Throw ApiError.
void run_branches(ServedModel& model, Timelines& timelines, const json::Value& body, int key,
                  std::shared_ptr<Exchange> exchange);
void run_score(ServedModel& model, const json::Value& body, std::shared_ptr<Exchange> exchange);

// GET /signalbox/v1/timelines/ID/export: what reproduces it.
json::Value export_timeline(const ServedModel& model, const Timeline& timeline);
// GET /signalbox/v1/timelines/ID/trace: answers with a safetensors file of rows [from, to); runs the job again where
// its rows are not there. `to` < 0: all.
void answer_trace(ServedModel& model, Timelines& timelines, const std::string& id, const Timeline& timeline,
                  int64_t from, int64_t to, std::shared_ptr<Exchange> exchange);

}  // namespace signalbox::tools
