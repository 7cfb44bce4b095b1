#include "engine/session.h"

#include <algorithm>

#include "base/error.h"

namespace signalbox::engine {

int32_t widest_route(const std::vector<Job>& jobs) {
  int32_t slots = 0;
  for (const Job& job : jobs)
    if (job.plan && !job.plan->empty()) slots = std::max(slots, job.plan->max_slots());
  return slots;
}

std::string Session::label_with_adapters() const {
  std::string text = label;
  for (const AdapterFacts& adapter : adapters) text += " + " + adapter.path;
  return text;
}

std::shared_ptr<const EditPlan> Session::edits(const json::Ref& edits, const std::filesystem::path& base_dir,
                                               uint64_t seed) const {
  return EditPlan::parse(edits, base_dir, shape, seed);
}

std::shared_ptr<const EditPlan> Session::load_edits(const std::filesystem::path& file, uint64_t seed) const {
  return EditPlan::load(file, shape, seed);
}

void Session::check(const std::string& where, const Job& job) const {
  check_length(where, job.n_given(), job.max_new(), model.max_positions);
  if (job.plan && !job.plan->empty()) job.plan->check(sequence_info(job));
}

bool Session::run(const std::vector<Job>& jobs, const RunOptions& run, const RunEvents& events, ProbeSink* sink) const {
  Forward running = forward(widest_route(jobs));
  return run_jobs(running, jobs, run, events, sink);
}

TraceOptions Session::trace_options(const TraceRequest& request) const {
  const EditPlan* plan = request.plan.get();
  TraceOptions options;
  options.dir = request.dir;
  options.shape = shape;
  options.points = request.points;
  options.n_slots = plan && !plan->empty() ? plan->max_slots() : 0;
  options.original_ids = plan && plan->has_router_edits();
  options.compact = request.compact;
  options.span_names = request.span_names;
  options.metadata = {{"model", label_with_adapters()},
                      {"model_hash", model_hash},
                      {"tokenizer", tokenizer ? label + " " + tokenizer->hash() : ""},
                      {"numerics", numerics},
                      {"isa", backend->isa()},
                      {"device", backend->name()},
                      {"signalbox_version", SIGNALBOX_VERSION},
                      {"edits", plan ? json::dump(json::Value::object().set("edits", plan->source())) : ""}};
  return options;
}

std::unique_ptr<TraceWriter> Session::open_trace(const TraceRequest& request) const {
  return std::make_unique<TraceWriter>(trace_options(request));
}

bool Session::trace(const std::vector<Job>& jobs, const RunOptions& run, const TraceRequest& request,
                    const std::function<json::Value(int64_t)>& record, const RunEvents& events) const {
  const std::unique_ptr<TraceWriter> writer = open_trace(request);
  if (!this->run(jobs, run, events, writer.get())) return false;
  finish_trace(*writer, jobs, record);
  return true;
}

void finish_trace(TraceWriter& trace, const std::vector<Job>& jobs, const std::function<json::Value(int64_t)>& record) {
  std::vector<std::string> ids;
  for (const Job& job : jobs) ids.push_back(job.prompt->id);
  trace.finish(ids, record);
}

}  // namespace signalbox::engine
