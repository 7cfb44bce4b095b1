// The rows of a timeline: its trace, for a client or for an edit that takes them, and how rows that are gone come back.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "base/safetensors.h"
#include "base/text.h"
#include "probes/trace_schema.h"
#include "tools/serve/api_error.h"
#include "tools/serve/branches.h"
#include "tools/serve/engine_loop.h"
#include "tools/serve/generation_plan.h"

namespace signalbox::tools {

namespace {

template <class T>
AnswerTensor column(const std::string& name, const char* dtype, const std::vector<T>& values) {
  AnswerTensor out{name, dtype, {static_cast<int64_t>(values.size())}, std::string(values.size() * sizeof(T), '\0')};
  if (!values.empty()) std::memcpy(out.bytes.data(), values.data(), out.bytes.size());
  return out;
}

// A safetensors file of rows [from, to), with `only` of these layers alone.
std::string trace_file(const ServedModel& model, const Timeline& timeline, int64_t from, int64_t to,
                       const std::vector<int32_t>& only) {
  const int64_t n_rows = timeline.rows->n_rows(), n_given = timeline.job.n_given();
  to = to < 0 ? n_rows : std::min(to, n_rows);
  from = std::min(from, to);
  std::vector<int32_t> tokens, positions;
  std::vector<uint8_t> phase;
  for (int64_t row = from; row < to; ++row) {
    const auto at = static_cast<size_t>(row);
    const auto given = static_cast<size_t>(n_given);
    tokens.push_back(row < n_given ? timeline.job.prompt->tokens[at] : timeline.tokens[at - given]);
    positions.push_back(static_cast<int32_t>(row));
    phase.push_back(row >= n_given);
  }
  std::vector<AnswerTensor> tensors = {column("tokens", "I32", tokens),
                                       column("positions", "I32", positions),
                                       column("phase", "U8", phase),
                                       column("sample_offsets", "I64", std::vector<int64_t>{0, to - from}),
                                       column("spans", "U32", std::vector<uint32_t>(tokens.size(), 0)),
                                       column("layers", "I32", timeline.rows->layers_among(only))};
  for (AnswerTensor& tensor : timeline.rows->tensors(from, to, only)) tensors.push_back(std::move(tensor));
  std::vector<safetensors::TensorHeader> headers;
  for (const AnswerTensor& tensor : tensors) headers.push_back({tensor.name, tensor.dtype, tensor.shape});
  const ModelShape& shape = model.session.shape;
  json::Value samples = json::Value::array();
  samples.push_back(timeline.job.prompt->id);
  // As a trace on disk has it, but for the model's place in the file system.
  TraceRequest request;
  request.plan = timeline.job.plan;
  std::map<std::string, std::string> metadata;
  for (const auto& [name, value] : model.session.trace_options(request).metadata) metadata[name] = value;
  metadata["model"] = model.name;
  metadata["tokenizer"] = model.session.tokenizer ? model.name + " " + model.session.tokenizer->hash() : "";
  metadata["schema"] = trace_schema;
  if (timeline.job.plan) metadata["edits"] = json::dump(json::Value::object().set("edits", timeline.edits));
  metadata["n_experts"] = std::to_string(shape.n_experts());
  metadata["n_active"] = std::to_string(shape.n_active());
  metadata["samples"] = json::dump(samples);
  metadata["spans"] = "[]";
  std::string file = safetensors::make_header(headers, metadata);
  for (const AnswerTensor& tensor : tensors) file += tensor.bytes;
  return file;
}

// The job once more, for its rows.
class RebuildRun : public JobOwner {
 public:
  RebuildRun(ServedModel& model, std::string id, Timeline timeline, std::shared_ptr<RecordedRows> rows,
             std::string points, std::shared_ptr<Exchange> exchange, std::function<void(const Timeline&)> then)
      : model_(model),
        id_(std::move(id)),
        timeline_(std::move(timeline)),
        rows_(std::move(rows)),
        points_(std::move(points)),
        exchange_(std::move(exchange)),
        then_(std::move(then)) {}
  void done(size_t, Result result) override {
    if (result.logits_hash != timeline_.logits_hash)
      return exchange_->answer(
          error_answer(ApiError(500, "timeline: expected the bits of its first run, found others")));
    timeline_.rows = rows_;
    timeline_.points = points_;
    model_.timelines.put_rows(id_, rows_, points_);
    then_(timeline_);
  }
  void failed(size_t, const std::string& message) override { exchange_->answer(error_answer(ApiError(500, message))); }
  void cancelled(size_t, const std::string& why) override {
    exchange_->answer(error_answer(ApiError(503, "the request was cancelled: " + why, "", why)));
  }

 private:
  ServedModel& model_;
  const std::string id_;
  Timeline timeline_;
  const std::shared_ptr<RecordedRows> rows_;
  const std::string points_;
  const std::shared_ptr<Exchange> exchange_;
  const std::function<void(const Timeline&)> then_;
};

bool has_points(const Timeline& timeline, const PointSet& points) {
  if (!timeline.rows) return false;
  const std::vector<PointAt> wanted = points.all();
  return std::all_of(wanted.begin(), wanted.end(),
                     [&](const PointAt& at) { return timeline.rows->points().wants(at.point, at.layer); });
}

// The globs that a timeline was asked for, and these.
std::string with_points(const Timeline& timeline, const std::string& more) {
  const std::string own = timeline.points.empty() ? std::string(default_points) : timeline.points;
  return more.empty() || more == own ? own : own + "," + more;
}

// A file in memory alone, which can be read through its descriptor.
int memory_file(const std::string& bytes) {
  const int descriptor = ::memfd_create("trace", MFD_CLOEXEC);
  for (size_t at = 0; descriptor >= 0 && at < bytes.size();) {
    const ssize_t n = ::write(descriptor, bytes.data() + at, bytes.size() - at);
    if (n <= 0) {
      ::close(descriptor);
      return -1;
    }
    at += static_cast<size_t>(n);
  }
  return descriptor;
}

}  // namespace

OpenTimeline timeline_opener(ServedModel& model, int key) {
  return [&model, key](const std::string& id, const std::string& wanted, const json::Ref& where) {
    const std::optional<Timeline> timeline = model.timelines.find(id, key);
    if (!timeline) where.fail("expected a timeline that this key has made, found none of this name");
    // A point that there is not is the edit's to refuse.
    std::string globs = wanted;
    try {
      static_cast<void>(PointSet::parse(globs, model.session.shape));
    } catch (const Error&) {
      globs = default_points;
    }
    if (!has_points(*timeline, plan_points(model, globs, where.path())))
      throw NeedsRows{id, with_points(*timeline, globs)};
    const int descriptor = memory_file(trace_file(model, *timeline, 0, timeline->rows->n_rows(), {}));
    if (descriptor < 0) where.fail("expected memory for a trace, found none");
    return TimelineTrace{descriptor, timeline->job.prompt->id};
  };
}

void record_rows(ServedModel& model, const std::string& id, const Timeline& timeline, const std::string& points,
                 std::shared_ptr<Exchange> exchange, std::function<void(const Timeline&)> then) {
  const Job& job = timeline.job;
  const bool edited = job.plan && job.plan->has_router_edits();
  auto rows = std::make_shared<RecordedRows>(
      model.session.shape, plan_points(model, points, "points"),
      std::max(job.plan ? job.plan->max_slots() : 0, model.session.shape.n_active()), edited);
  check_recording(model, rows->points(), job.max_positions(), "points");
  JobGroupRequest request;
  request.jobs.push_back(job);
  request.rows.push_back(rows);
  JobWishes wishes;
  wishes.choice = timeline.choice;
  request.watch.wishes.push_back(std::move(wishes));
  request.owner = std::make_shared<RebuildRun>(model, id, timeline, rows, points, exchange, std::move(then));
  const EngineLoop::Ticket ticket = model.engine.submit(std::move(request));
  exchange->on_gone([engine = &model.engine, ticket] { engine->cancel(ticket, "client_gone"); });
}

void answer_trace(ServedModel& model, const std::string& id, const Timeline& timeline, const TraceQuery& query,
                  std::shared_ptr<Exchange> exchange) {
  const auto answer = [&model, query, exchange](const Timeline& found) {
    HttpAnswer out;
    try {
      out.content_type = "application/octet-stream";
      out.body = trace_file(model, found, query.from, query.to, query.layers);
    } catch (const Error& error) {
      out = error_answer(ApiError(400, error.what(), error.where()));
    }
    exchange->answer(std::move(out));
  };
  const std::string points = with_points(timeline, query.points);
  if (has_points(timeline, plan_points(model, points, "points"))) return answer(timeline);
  record_rows(model, id, timeline, points, exchange, answer);
}

}  // namespace signalbox::tools
