#include "tools/serve/branches.h"

#include <algorithm>

#include "base/text.h"
#include "eval/data/records.h"
#include "tools/serve/api_error.h"
#include "tools/serve/engine_loop.h"
#include "tools/serve/event_stream.h"
#include "tools/serve/generation_plan.h"
#include "tools/serve/request_fields.h"
#include "tools/serve/request_ids.h"
#include "tools/serve/row_logprobs.h"

namespace signalbox::tools {

namespace {

constexpr size_t max_branches = 64;

// The record of a body, encoded; edits may name its spans.
struct GivenRecord {
  EncodedRecord encoded;
  std::vector<std::string> span_names;
};

GivenRecord read_record(const ServedModel& model, const json::Ref& ref) {
  ref.expect_object();
  json::Value value = ref.value();
  if (!value.find("id")) value.set("id", "prompt");
  const Record record = parse_record(value, "record");
  GivenRecord out;
  out.span_names = span_names({record});
  out.encoded = encode_record(record, model.session.encode, out.span_names);
  if (out.encoded.prompt->tokens.empty()) throw Error("record", "expected tokens, found none");
  return out;
}

Job job_of(const ServedModel& model, const GivenRecord& record, const std::shared_ptr<const EditPlan>& plan,
           std::variant<Generate, Score> task) {
  Job job;
  job.prompt = record.encoded.prompt;
  job.task = std::move(task);
  job.adapters = model.session.beside;
  if (plan && !plan->empty()) {
    job.plan = plan;
    job.spans = record.encoded.spans;
  }
  const int64_t n = job.max_positions();
  if (n > model.max_model_len)
    throw ApiError(400,
                   "record: expected at most " + std::to_string(model.max_model_len) + " tokens, found " +
                       std::to_string(n) + " given and to be generated",
                   "record", "context_length_exceeded");
  model.session.check("record", job);
  return job;
}

int32_t slots_of(const ServedModel& model, const Job& job) {
  return std::max(job.plan ? job.plan->max_slots() : 0, model.session.shape.n_active());
}

json::Value ids_list(const std::vector<int32_t>& ids) {
  json::Value out = json::Value::array();
  for (const int32_t id : ids) out.push_back(int64_t{id});
  return out;
}

class BranchesRun : public JobOwner, public std::enable_shared_from_this<BranchesRun> {
 public:
  struct Branch {
    std::string name, text, fresh, finish_reason, timeline;
    json::Value edits = json::Value::array();
    Job job;
    std::shared_ptr<RecordedRows> rows;
    std::vector<int32_t> ids;
    int64_t sent_rows = 0;
    uint64_t logits_hash = 0;
  };

  BranchesRun(ServedModel& model, Timelines& timelines, std::vector<Branch> branches, int32_t n_top, bool as_lists,
              int key, std::shared_ptr<Exchange> exchange)
      : model_(model),
        timelines_(timelines),
        branches_(std::move(branches)),
        n_top_(n_top),
        as_lists_(as_lists),
        key_(key),
        stream_(std::move(exchange)),
        n_open_(branches_.size()) {}

  void submit() {
    JobGroupRequest request;
    request.owner = shared_from_this();
    request.watch.held = stream_.held();
    for (const Branch& branch : branches_) {
      request.jobs.push_back(branch.job);
      JobWishes wishes;
      wishes.shows_logits = true;
      request.watch.wishes.push_back(std::move(wishes));
      if (branch.rows) request.rows.push_back(branch.rows);
    }
    const EngineLoop::Ticket ticket = model_.engine.submit(std::move(request));
    stream_.exchange().on_gone([engine = &model_.engine, ticket] { engine->cancel(ticket, "client_gone"); });
  }

  void token(size_t place, int32_t id, const std::string& text) override {
    branches_[place].ids.push_back(id);
    branches_[place].text += text;
    branches_[place].fresh = text;
  }

  // The row that the last token was chosen from.
  void logits(size_t place, int64_t, std::span<const float> logits) override {
    Branch& branch = branches_[place];
    if (branch.ids.empty()) return;
    const RowLogProbs found = row_log_probs(logits, branch.ids.back(), n_top_);
    json::Value event = event_of(branch);
    event.set("logprob", found.chosen);
    json::Value top = json::Value::array();
    for (const auto& [id, log_prob] : found.top)
      top.push_back(json::Value::object()
                        .set("token", int64_t{id})
                        .set("text", model_.engine_texts.name(id))
                        .set("logprob", log_prob));
    event.set("top", std::move(top)).set("rows", rows_of(branch));
    stream_.send(event);
  }

  void done(size_t place, Result result) override {
    Branch& branch = branches_[place];
    branch.text = result.text;
    branch.finish_reason = result.finish_reason.empty() ? "length" : result.finish_reason;
    branch.logits_hash = result.logits_hash;
    Timeline timeline;
    timeline.key = key_;
    timeline.job = branch.job;
    timeline.edits = branch.edits;
    timeline.tokens = branch.ids;
    timeline.logits_hash = result.logits_hash;
    timeline.rows = branch.rows;
    branch.timeline = timelines_.add(std::move(timeline));
    if (--n_open_ == 0 && !over_) finish();
  }

  void failed(size_t, const std::string& message) override { give_up(ApiError(500, message)); }
  void cancelled(size_t, const std::string& why) override {
    give_up(ApiError(503, "the request was cancelled: " + why, "", why));
  }
  bool tick() override { return over_ || stream_.tick(true); }

 private:
  json::Value event_of(const Branch& branch) const {
    const auto index = static_cast<int64_t>(branch.ids.size()) - 1;
    return json::Value::object()
        .set("branch", branch.name)
        .set("index", index)
        .set("position", branch.job.n_given() + index)
        .set("token", int64_t{branch.ids.back()})
        .set("text", branch.fresh);
  }

  // Those that have come since the last event; null: none were asked for.
  json::Value rows_of(Branch& branch) {
    if (!branch.rows) return nullptr;
    const int64_t begin = branch.sent_rows, end = branch.rows->n_rows();
    branch.sent_rows = end;
    json::Value points = json::Value::object(), layers = json::Value::array();
    for (const int32_t layer : branch.rows->layers()) layers.push_back(int64_t{layer});
    for (const AnswerTensor& tensor : branch.rows->tensors(begin, end))
      points.set(tensor.name, tensor_json(tensor, as_lists_));
    return json::Value::object()
        .set("positions", json::Value::array().push_back(begin).push_back(end))
        .set("layers", std::move(layers))
        .set("points", std::move(points));
  }

  // The first position whose token is not the first branch's; null: there is none.
  json::Value diverges_at(const Branch& branch) const {
    const std::vector<int32_t>&a = branches_.front().ids, &b = branch.ids;
    const auto [at, other] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
    if (at == a.end() && other == b.end()) return nullptr;
    return branch.job.n_given() + static_cast<int64_t>(at - a.begin());
  }

  void finish() {
    over_ = true;
    json::Value list = json::Value::array();
    int64_t n_generated = 0;
    for (Branch& branch : branches_) {
      n_generated += static_cast<int64_t>(branch.ids.size());
      list.push_back(json::Value::object()
                         .set("branch", branch.name)
                         .set("timeline", branch.timeline)
                         .set("seed", static_cast<int64_t>(branch.job.generate()->sampling.seed))
                         .set("id", branch.job.prompt->id)
                         .set("prompt_token_ids", ids_list(branch.job.prompt->tokens))
                         .set("token_ids", ids_list(branch.ids))
                         .set("text", branch.text)
                         .set("stopped_by", branch.finish_reason)
                         .set("finish_reason", branch.finish_reason == "length" ? "length" : "stop")
                         .set("logits_hash", hex64(branch.logits_hash))
                         .set("diverges_at", diverges_at(branch))
                         .set("rows", rows_of(branch)));
    }
    stream_.exchange().tell_tokens(branches_.front().job.n_given(), n_generated);
    model_.metrics.add("prompt_tokens_total", branches_.front().job.n_given());
    model_.metrics.add("generation_tokens_total", n_generated);
    stream_.send(json::Value::object().set("branches", std::move(list)));
    stream_.end();
  }

  void give_up(const ApiError& error) {
    --n_open_;
    if (over_) return;
    over_ = true;
    stream_.fail(error);
  }

  ServedModel& model_;
  Timelines& timelines_;
  std::vector<Branch> branches_;
  const int32_t n_top_;
  const bool as_lists_;
  const int key_;
  EventStream stream_;
  size_t n_open_;
  bool over_ = false;
};

Generate read_generate(const std::optional<json::Ref>& ref, const ServedModel& model) {
  Generate out;
  out.max_tokens = 64;
  bool ignore_eos = false;
  if (ref) {
    ref->reject_unknown({"max_tokens", "temperature", "top_p", "top_k", "seed", "ignore_eos"});
    if (const auto value = ref->find("max_tokens")) out.max_tokens = value->integer(1, int64_t{1} << 31);
    if (const auto value = ref->find("temperature")) {
      out.sampling.temperature = value->number();
      if (out.sampling.temperature < 0) value->fail_type("a number from 0 on");
    }
    if (const auto value = ref->find("top_p")) {
      out.sampling.top_p = value->number();
      if (!(out.sampling.top_p > 0 && out.sampling.top_p <= 1)) value->fail_type("a number above 0, up to 1");
    }
    if (const auto value = ref->find("top_k")) out.sampling.top_k = static_cast<int32_t>(value->integer(0, INT32_MAX));
    if (const auto value = ref->find("seed"))
      out.sampling.seed = static_cast<uint64_t>(value->integer());
    else if (out.sampling.temperature > 0)
      out.sampling.seed = random_seed();
    if (const auto value = ref->find("ignore_eos")) ignore_eos = value->boolean();
  }
  auto stop = std::make_shared<StopRule>();
  stop->stop_tokens = model.session.stop_tokens;
  stop->ignore_eos = ignore_eos;
  out.stop = std::move(stop);
  return out;
}

}  // namespace

void run_branches(ServedModel& model, Timelines& timelines, const json::Value& body, int key,
                  std::shared_ptr<Exchange> exchange) {
  std::vector<BranchesRun::Branch> branches;
  int32_t n_top = 0;
  bool as_lists = false;
  try {
    const json::Ref ref(body, "body");
    ref.reject_unknown({"model", "record", "generate", "branches", "points", "format", "top"});
    if (const auto name = ref.find("model")) check_model_name(model, name->string());
    const GivenRecord record = read_record(model, ref.at("record"));
    const Generate generate = read_generate(ref.find("generate"), model);
    if (const auto top = ref.find("top")) n_top = static_cast<int32_t>(top->integer(0, 20));
    if (const auto format = ref.find("format")) {
      if (format->string() != "base64" && format->string() != "json") format->fail_type("\"base64\" or \"json\"");
      as_lists = format->string() == "json";
    }
    std::optional<PointSet> points;
    if (const auto globs = ref.find("points")) points = plan_points(model, globs->string());
    const json::Ref list = ref.at("branches");
    if (list.length() == 0 || list.length() > max_branches) list.fail("expected 1 to 64 branches");
    for (const json::Ref& one : list.items()) {
      one.reject_unknown({"name", "edits"});
      BranchesRun::Branch branch;
      branch.name = one.at("name").string();
      for (const auto& other : branches)
        if (other.name == branch.name)
          one.at("name").fail("expected a name of its own, found " + in_quotes(branch.name) + " twice");
      std::shared_ptr<const EditPlan> plan;
      if (const auto edits = one.find("edits")) branch.edits = edits->value();
      if (const auto edits = one.find("edits"))
        plan = plan_edits(model, *edits, generate.sampling.seed, record.span_names);
      branch.job = job_of(model, record, plan, generate);
      if (points)
        branch.rows = std::make_shared<RecordedRows>(model.session.shape, *points, slots_of(model, branch.job),
                                                     plan && plan->has_router_edits());
      branches.push_back(std::move(branch));
    }
  } catch (const Error& error) {
    refuse_field(error);
  }
  std::make_shared<BranchesRun>(model, timelines, std::move(branches), n_top, as_lists, key, std::move(exchange))
      ->submit();
}

namespace {

class ScoreRun : public JobOwner, public std::enable_shared_from_this<ScoreRun> {
 public:
  ScoreRun(ServedModel& model, GivenRecord record, std::vector<Job> jobs, std::shared_ptr<Exchange> exchange)
      : model_(model), record_(std::move(record)), jobs_(std::move(jobs)), exchange_(std::move(exchange)) {}

  void submit() {
    JobGroupRequest request;
    request.owner = shared_from_this();
    request.jobs = jobs_;
    n_open_ = jobs_.size();
    const EngineLoop::Ticket ticket = model_.engine.submit(std::move(request));
    exchange_->on_gone([engine = &model_.engine, ticket] { engine->cancel(ticket, "client_gone"); });
  }

  // The last job is the one that was asked for; one before it is what it is compared with.
  void done(size_t place, Result result) override {
    if (place + 1 == jobs_.size()) result_ = std::move(result);
    if (--n_open_ > 0 || over_) return;
    over_ = true;
    json::Value logprobs = json::Value::array(), line = json::Value::object();
    const auto& start = record_.encoded.target_start;
    const int64_t first = start ? std::max<int64_t>(*start - 1, 0) : 0;
    double sum = 0;
    for (size_t i = 0; i < result_.logprobs.size(); ++i) {
      logprobs.push_back(result_.logprobs[i]);
      if (static_cast<int64_t>(i) >= first) sum += result_.logprobs[i];
    }
    line.set("id", record_.encoded.prompt->id)
        .set("tokens", ids_list(record_.encoded.prompt->tokens))
        .set("logprobs", std::move(logprobs));
    if (start) line.set("target_start", *start);
    line.set("sum_logprob", sum).set("logits_hash", hex64(result_.logits_hash));
    if (jobs_.size() > 1) {
      json::Value kl = json::Value::array(), same = json::Value::array();
      for (const double one : result_.divergence) kl.push_back(one);
      for (const uint8_t one : result_.same_top) same.push_back(one != 0);
      line.set("kl", std::move(kl)).set("same_top", std::move(same));
    }
    exchange_->tell_tokens(static_cast<int64_t>(record_.encoded.prompt->tokens.size()), 0);
    HttpAnswer answer;
    answer.body = json::dump(line) + "\n";
    exchange_->answer(std::move(answer));
  }
  void failed(size_t, const std::string& message) override { give_up(ApiError(500, message)); }
  void cancelled(size_t, const std::string& why) override {
    give_up(ApiError(503, "the request was cancelled: " + why, "", why));
  }

 private:
  void give_up(const ApiError& error) {
    --n_open_;
    if (!over_) exchange_->answer(error_answer(error));
    over_ = true;
  }
  ServedModel& model_;
  const GivenRecord record_;
  const std::vector<Job> jobs_;
  const std::shared_ptr<Exchange> exchange_;
  Result result_;
  size_t n_open_ = 0;
  bool over_ = false;
};

}  // namespace

void run_score(ServedModel& model, const json::Value& body, std::shared_ptr<Exchange> exchange) {
  GivenRecord record;
  std::vector<Job> jobs;
  try {
    const json::Ref ref(body, "body");
    ref.reject_unknown({"model", "record", "edits", "baseline", "seed"});
    if (const auto name = ref.find("model")) check_model_name(model, name->string());
    record = read_record(model, ref.at("record"));
    const auto seed = ref.find("seed");
    const uint64_t number = seed ? static_cast<uint64_t>(seed->integer()) : 0;
    const auto add = [&](const std::optional<json::Ref>& edits, Score score) {
      jobs.push_back(
          job_of(model, record, edits ? plan_edits(model, *edits, number, record.span_names) : nullptr, score));
    };
    const auto baseline = ref.find("baseline");
    if (baseline) add(baseline, Score{});
    add(ref.find("edits"), baseline ? Score{0, 0} : Score{});  // compared with the group's first job
  } catch (const Error& error) {
    refuse_field(error);
  }
  std::make_shared<ScoreRun>(model, std::move(record), std::move(jobs), std::move(exchange))->submit();
}

}  // namespace signalbox::tools
