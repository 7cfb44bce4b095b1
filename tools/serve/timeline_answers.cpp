// What a timeline gives out: the commands that reproduce it, and its trace.
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

json::Value list_of(const std::vector<int32_t>& ids) {
  json::Value out = json::Value::array();
  for (const int32_t id : ids) out.push_back(int64_t{id});
  return out;
}

template <class T>
AnswerTensor column(const std::string& name, const char* dtype, const std::vector<T>& values) {
  AnswerTensor out{name, dtype, {static_cast<int64_t>(values.size())}, std::string(values.size() * sizeof(T), '\0')};
  if (!values.empty()) std::memcpy(out.bytes.data(), values.data(), out.bytes.size());
  return out;
}

HttpAnswer trace_answer(const ServedModel& model, const Timeline& timeline, int64_t from, int64_t to) {
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
                                       column("layers", "I32", timeline.rows->layers())};
  for (AnswerTensor& tensor : timeline.rows->tensors(from, to)) tensors.push_back(std::move(tensor));
  std::vector<safetensors::TensorHeader> headers;
  for (const AnswerTensor& tensor : tensors) headers.push_back({tensor.name, tensor.dtype, tensor.shape});
  const ModelShape& shape = model.session.shape;
  json::Value samples = json::Value::array();
  samples.push_back(timeline.job.prompt->id);
  HttpAnswer answer;
  answer.content_type = "application/octet-stream";
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
  answer.body = safetensors::make_header(headers, metadata);
  for (const AnswerTensor& tensor : tensors) answer.body += tensor.bytes;
  return answer;
}

// The job once more, for its rows.
class RebuildRun : public JobOwner {
 public:
  RebuildRun(ServedModel& model, Timelines& timelines, std::string id, Timeline timeline,
             std::shared_ptr<RecordedRows> rows, int64_t from, int64_t to, std::shared_ptr<Exchange> exchange)
      : model_(model),
        timelines_(timelines),
        id_(std::move(id)),
        timeline_(std::move(timeline)),
        rows_(std::move(rows)),
        from_(from),
        to_(to),
        exchange_(std::move(exchange)) {}
  void done(size_t, Result result) override {
    if (result.logits_hash != timeline_.logits_hash)
      return exchange_->answer(
          error_answer(ApiError(500, "timeline: expected the bits of its first run, found others")));
    timeline_.rows = rows_;
    timelines_.put_rows(id_, rows_);
    exchange_->answer(trace_answer(model_, timeline_, from_, to_));
  }
  void failed(size_t, const std::string& message) override { exchange_->answer(error_answer(ApiError(500, message))); }
  void cancelled(size_t, const std::string& why) override {
    exchange_->answer(error_answer(ApiError(503, "the request was cancelled: " + why, "", why)));
  }

 private:
  ServedModel& model_;
  Timelines& timelines_;
  const std::string id_;
  Timeline timeline_;
  const std::shared_ptr<RecordedRows> rows_;
  const int64_t from_, to_;
  const std::shared_ptr<Exchange> exchange_;
};

}  // namespace

json::Value export_timeline(const ServedModel& model, const Timeline& timeline) {
  const Job& job = timeline.job;
  json::Value record = json::Value::object(), argv = json::Value::array(), out = json::Value::object();
  record.set("id", job.prompt->id).set("tokens", list_of(job.prompt->tokens));
  const Generate* generate = job.generate();
  const auto number = [](double value) { return json::dump(json::Value(value)); };
  argv.push_back("signalbox").push_back(generate ? "generate" : "score").push_back(model.session.name);
  argv.push_back("--input").push_back("record.jsonl");
  if (generate) {
    argv.push_back("--max-tokens").push_back(std::to_string(generate->max_tokens));
    argv.push_back("--temperature").push_back(number(generate->sampling.temperature));
    argv.push_back("--top-p").push_back(number(generate->sampling.top_p));
    argv.push_back("--top-k").push_back(std::to_string(generate->sampling.top_k));
    argv.push_back("--samples").push_back(std::to_string(job.sample + 1));
    if (generate->stop) {
      for (const std::string& text : generate->stop->stop_strings) argv.push_back("--stop").push_back(text);
      if (generate->stop->ignore_eos) argv.push_back("--ignore-eos");
    }
  }
  argv.push_back("--seed").push_back(std::to_string(generate ? generate->sampling.seed : 0));
  if (job.plan) argv.push_back("--edits").push_back("edits.json");
  argv.push_back("--json");
  out.set("record", std::move(record))
      .set("edits", timeline.edits)
      .set("seed", static_cast<int64_t>(generate ? generate->sampling.seed : 0))
      .set("sample", int64_t{job.sample})
      // The command line has no bias.
      .set("argv", timeline.bias ? json::Value() : std::move(argv))
      .set(
          "expect",
          json::Value::object().set("tokens", list_of(timeline.tokens)).set("logits_hash", hex64(timeline.logits_hash)))
      .set("model_hash", model.session.model_hash)
      .set("version", SIGNALBOX_VERSION);
  return out;
}

void answer_trace(ServedModel& model, Timelines& timelines, const std::string& id, const Timeline& timeline,
                  int64_t from, int64_t to, std::shared_ptr<Exchange> exchange) {
  if (timeline.rows) return exchange->answer(trace_answer(model, timeline, from, to));
  const Job& job = timeline.job;
  const bool edited = job.plan && job.plan->has_router_edits();
  auto rows = std::make_shared<RecordedRows>(
      model.session.shape, plan_points(model, std::string(default_points)),
      std::max(job.plan ? job.plan->max_slots() : 0, model.session.shape.n_active()), edited);
  JobGroupRequest request;
  request.jobs.push_back(job);
  request.rows.push_back(rows);
  JobWishes wishes;
  wishes.bias = timeline.bias;
  request.watch.wishes.push_back(std::move(wishes));
  request.owner = std::make_shared<RebuildRun>(model, timelines, id, timeline, rows, from, to, exchange);
  const EngineLoop::Ticket ticket = model.engine.submit(std::move(request));
  exchange->on_gone([engine = &model.engine, ticket] { engine->cancel(ticket, "client_gone"); });
}

}  // namespace signalbox::tools
