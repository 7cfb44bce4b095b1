// POST /signalbox/v1/score: the log p of a record's tokens under edits, or of several targets, beside a baseline.
#include <algorithm>

#include "base/text.h"
#include "tools/serve/api_error.h"
#include "tools/serve/branches.h"
#include "tools/serve/engine_loop.h"
#include "tools/serve/generation_plan.h"
#include "tools/serve/given_record.h"
#include "tools/serve/request_fields.h"

namespace signalbox::tools {

namespace {

constexpr size_t max_targets = 1024;

// One line of the answer: the record as it is, or with one of the targets.
struct ScoredRecord {
  GivenRecord record;
  size_t job = 0;         // in the group
  int64_t baseline = -1;  // the job that it is compared with; -1: none
};

class ScoreRun : public JobOwner, public std::enable_shared_from_this<ScoreRun> {
 public:
  ScoreRun(ServedModel& model, std::vector<ScoredRecord> lines, std::vector<Job> jobs, bool several, Timeline like,
           std::shared_ptr<Exchange> exchange)
      : model_(model),
        lines_(std::move(lines)),
        jobs_(std::move(jobs)),
        several_(several),
        like_(std::move(like)),
        exchange_(std::move(exchange)),
        results_(jobs_.size()) {}

  void submit() {
    JobGroupRequest request;
    request.owner = shared_from_this();
    request.jobs = jobs_;
    n_open_ = jobs_.size();
    const EngineLoop::Ticket ticket = model_.engine.submit(std::move(request));
    exchange_->on_gone([engine = &model_.engine, ticket] { engine->cancel(ticket, "client_gone"); });
  }

  void done(size_t place, Result result) override {
    results_[place] = std::move(result);
    if (--n_open_ > 0 || over_) return;
    over_ = true;
    int64_t n_given = 0;
    json::Value list = json::Value::array();
    for (const ScoredRecord& line : lines_) {
      n_given += jobs_[line.job].n_given();
      list.push_back(line_of(line));
    }
    exchange_->tell_tokens(n_given, 0);
    model_.metrics.add("prompt_tokens_total", n_given);
    model_.metrics.set("timelines", static_cast<int64_t>(model_.timelines.size()));
    HttpAnswer answer;
    answer.body = json::dump(several_ ? json::Value::object().set("targets", std::move(list)) : list.items().front());
    answer.body += "\n";
    exchange_->answer(std::move(answer));
  }
  void failed(size_t, const std::string& message) override { give_up(ApiError(500, message)); }
  void cancelled(size_t, const std::string& why) override {
    give_up(ApiError(503, "the request was cancelled: " + why, "", why));
  }

 private:
  json::Value line_of(const ScoredRecord& of) {
    const Result& result = results_[of.job];
    const EncodedRecord& encoded = of.record.encoded;
    json::Value logprobs = json::Value::array(), line = json::Value::object();
    const auto& start = encoded.target_start;
    const int64_t first = start ? std::max<int64_t>(*start - 1, 0) : 0;
    double sum = 0;
    for (size_t i = 0; i < result.logprobs.size(); ++i) {
      logprobs.push_back(result.logprobs[i]);
      if (static_cast<int64_t>(i) >= first) sum += result.logprobs[i];
    }
    line.set("id", encoded.prompt->id)
        .set("tokens", ids_list(encoded.prompt->tokens))
        .set("logprobs", std::move(logprobs));
    if (start) line.set("target_start", *start);
    line.set("sum_logprob", sum).set("logits_hash", hex64(result.logits_hash));
    if (of.baseline >= 0) {
      json::Value kl = json::Value::array(), same = json::Value::array();
      for (const double one : result.divergence) kl.push_back(one);
      for (const uint8_t one : result.same_top) same.push_back(one != 0);
      line.set("kl", std::move(kl)).set("same_top", std::move(same));
    }
    Timeline timeline = like_;
    timeline.job = jobs_[of.job];
    timeline.job.task = Score{};
    timeline.record = of.record.source;
    timeline.logits_hash = result.logits_hash;
    return line.set("timeline", model_.timelines.add(std::move(timeline)));
  }

  void give_up(const ApiError& error) {
    --n_open_;
    if (!over_) exchange_->answer(error_answer(error));
    over_ = true;
  }
  ServedModel& model_;
  const std::vector<ScoredRecord> lines_;
  const std::vector<Job> jobs_;
  const bool several_;
  const Timeline like_;  // its key, edits, seed and sources
  const std::shared_ptr<Exchange> exchange_;
  std::vector<Result> results_;
  size_t n_open_ = 0;
  bool over_ = false;
};

// The record with each target in turn; without targets as it is.
std::vector<ScoredRecord> read_lines(const ServedModel& model, const json::Ref& record,
                                     const std::optional<json::Ref>& targets) {
  std::vector<ScoredRecord> lines;
  if (!targets) {
    lines.push_back({read_record(model, record)});
    return lines;
  }
  record.expect_object();
  if (record.find("target")) record.at("target").fail("expected none beside targets");
  const size_t n = targets->length();
  if (n == 0 || n > max_targets) targets->fail("expected 1 to 1024 targets");
  for (const json::Ref& target : targets->items()) {
    if (target.string().empty()) target.fail_type("some text");
    json::Value with = record.value();
    with.set("target", target.string());
    lines.push_back({read_record(model, json::Ref(with, "body", record.path()))});
  }
  return lines;
}

}  // namespace

void run_score(ServedModel& model, const json::Value& body, int key, std::shared_ptr<Exchange> exchange) {
  std::vector<ScoredRecord> lines;
  std::vector<Job> jobs;
  Timeline like;
  bool several = false;
  try {
    const json::Ref ref(body, "body");
    refuse_unknown_fields(ref, {"model", "record", "targets", "edits", "baseline", "seed"});
    if (const auto name = ref.find("model")) check_model_name(model, name->string());
    const auto seed = ref.find("seed"), targets = ref.find("targets"), edits = ref.find("edits");
    const auto baseline = ref.find("baseline");
    several = targets.has_value();
    lines = read_lines(model, ref.at("record"), targets);
    like.key = key;
    like.seed = seed ? static_cast<uint64_t>(seed->integer()) : 0;
    if (edits) like.edits = edits->value();
    like.sources = model.timelines.sources(like.edits, key);
    const std::vector<std::string>& spans = lines.front().record.span_names;
    std::shared_ptr<const EditPlan> plan, other;
    if (edits) plan = plan_edits(model, *edits, like.seed, key, spans);
    if (baseline) {
      // The edits of a branch, or edits.
      const std::string id = timeline_name(baseline->value());
      const std::optional<Timeline> branch = id.empty() ? std::nullopt : model.timelines.find(id, key);
      if (!id.empty() && !branch) baseline->fail("expected a timeline that this key has made, found none of this name");
      if (branch)
        other = plan_edits(model, json::Ref(branch->edits, "body", "baseline"), branch->seed, key, spans);
      else
        other = plan_edits(model, *baseline, like.seed, key, spans);
    }
    for (ScoredRecord& line : lines) {
      if (baseline) {
        line.baseline = static_cast<int64_t>(jobs.size());
        jobs.push_back(job_of(model, line.record, other, Score{}, "baseline"));
      }
      line.job = jobs.size();
      // Compared by its place in the group.
      const Score score = baseline ? Score{0, line.baseline} : Score{};
      jobs.push_back(job_of(model, line.record, plan, score, "edits"));
    }
    count_edits(model, plan.get());
  } catch (const Error& error) {
    refuse_field(error);
  }
  std::make_shared<ScoreRun>(model, std::move(lines), std::move(jobs), several, std::move(like), std::move(exchange))
      ->submit();
}

}  // namespace signalbox::tools
