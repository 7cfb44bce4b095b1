#include "tools/serve/branches.h"

#include <algorithm>
#include <charconv>
#include <map>

#include "base/text.h"
#include "probes/edit_spec.h"
#include "tools/serve/api_error.h"
#include "tools/serve/engine_loop.h"
#include "tools/serve/event_stream.h"
#include "tools/serve/generation_plan.h"
#include "tools/serve/given_record.h"
#include "tools/serve/request_fields.h"
#include "tools/serve/request_ids.h"
#include "tools/serve/row_logprobs.h"

namespace signalbox::tools {

namespace {

constexpr size_t max_branches = 64;

int32_t slots_of(const ServedModel& model, const Job& job) {
  return std::max(job.plan ? job.plan->max_slots() : 0, model.session.shape.n_active());
}

// How the rows and alternatives of all branches are told.
struct BranchesForm {
  int32_t n_top = 0;
  std::string points;           // globs; empty: no rows
  std::vector<int32_t> layers;  // of rows; empty: all
  bool as_lists = false, as_ref = false;
};

class BranchesRun : public JobOwner, public std::enable_shared_from_this<BranchesRun> {
 public:
  struct Branch {
    std::string name, text, fresh, finish_reason, timeline;
    json::Value edits = json::Value::array();
    std::map<std::string, std::shared_ptr<const Timeline>> sources;
    std::shared_ptr<const ChoiceRules> choice;
    Job job;
    std::shared_ptr<RecordedRows> rows;
    std::vector<int32_t> ids;
    int64_t sent_rows = 0;
    uint64_t logits_hash = 0;
  };

  BranchesRun(ServedModel& model, std::vector<Branch> branches, BranchesForm form, json::Value record, int key,
              std::shared_ptr<Exchange> exchange)
      : model_(model),
        branches_(std::move(branches)),
        form_(std::move(form)),
        record_(std::move(record)),
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
      wishes.choice = branch.choice;
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
    const RowLogProbs found = row_log_probs(logits, branch.ids.back(), form_.n_top);
    json::Value event = event_of(branch);
    event.set("logprob", found.chosen);
    json::Value top = json::Value::array();
    for (const auto& [id, log_prob] : found.top)
      top.push_back(json::Value::object()
                        .set("token", int64_t{id})
                        .set("text", model_.telling_texts.name(id))
                        .set("logprob", log_prob));
    event.set("top", std::move(top)).set("rows", rows_of(branch, false));
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
    timeline.points = form_.points;
    timeline.seed = branch.job.generate()->sampling.seed;
    timeline.choice = branch.choice;
    timeline.sources = branch.sources;
    timeline.record = record_;
    branch.timeline = model_.timelines.add(std::move(timeline));
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
  // A ref stands for all of them, in the end.
  json::Value rows_of(Branch& branch, bool last) {
    if (!branch.rows || (form_.as_ref && !last)) return nullptr;
    const int64_t begin = branch.sent_rows, end = branch.rows->n_rows();
    branch.sent_rows = end;
    json::Value points = json::Value::object(), layers = json::Value::array();
    for (const int32_t layer : branch.rows->layers_among(form_.layers)) layers.push_back(int64_t{layer});
    if (form_.as_ref)
      points.set("ref", branch.timeline);
    else
      for (const AnswerTensor& tensor : branch.rows->tensors(begin, end, form_.layers))
        points.set(tensor.name, tensor_json(tensor, form_.as_lists));
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
                         .set("rows", rows_of(branch, true)));
    }
    stream_.exchange().tell_tokens(branches_.front().job.n_given(), n_generated);
    model_.metrics.add("prompt_tokens_total", branches_.front().job.n_given());
    model_.metrics.add("generation_tokens_total", n_generated);
    model_.metrics.set("timelines", static_cast<int64_t>(model_.timelines.size()));
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
  std::vector<Branch> branches_;
  const BranchesForm form_;
  const json::Value record_;
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
    refuse_unknown_fields(*ref, {"max_tokens", "temperature", "top_p", "top_k", "seed", "ignore_eos"});
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

// {"12": 5}: the token at position 12, which must be one that is generated.
std::shared_ptr<const ChoiceRules> read_force(const json::Ref& ref, const ServedModel& model, const GivenRecord& record,
                                              const Generate& generate) {
  const auto n_given = static_cast<int64_t>(record.encoded.prompt->tokens.size());
  auto rules = std::make_shared<ChoiceRules>();
  for (const auto& [name, value] : ref.members()) {
    int64_t position = -1;
    const auto [end, failed] = std::from_chars(name.data(), name.data() + name.size(), position);
    if (failed != std::errc() || end != name.data() + name.size() || position < n_given ||
        position >= n_given + generate.max_tokens)
      value.fail("expected positions of tokens to be generated as keys, " + std::to_string(n_given) + " to " +
                 std::to_string(n_given + generate.max_tokens - 1) + ", found " + in_quotes(name));
    rules->forced[position] = static_cast<int32_t>(value.integer(0, model.session.model.n_vocab - 1));
  }
  return rules->empty() ? nullptr : rules;
}

BranchesForm read_form(const json::Ref& ref, const ServedModel& model, std::optional<PointSet>& points) {
  BranchesForm form;
  if (const auto top = ref.find("top")) form.n_top = static_cast<int32_t>(top->integer(0, 20));
  if (const auto format = ref.find("format")) {
    const std::string& word = format->string();
    if (word != "base64" && word != "json" && word != "ref") format->fail_type("\"base64\", \"json\" or \"ref\"");
    form.as_lists = word == "json";
    form.as_ref = word == "ref";
  }
  if (const auto globs = ref.find("points")) {
    form.points = globs->string();
    points = plan_points(model, form.points, "points");
  }
  if (const auto layers = ref.find("layers")) {
    if (!points) layers->fail("expected points beside it, found none");
    form.layers = read_layers(*layers, model, *points);
  }
  return form;
}

}  // namespace

std::vector<int32_t> read_layers(const json::Ref& ref, const ServedModel& model, const PointSet& points) {
  const std::vector<PointAt> all = points.all();
  const auto recorded = [&](int32_t layer) {
    return std::any_of(all.begin(), all.end(), [&](const PointAt& at) { return at.layer == layer; });
  };
  std::vector<int32_t> out;
  const LayerList list = LayerList::parse(ref);
  if (list.all) return out;
  for (const auto& item : list.items)
    for (int32_t layer = item.first; layer <= item.last; ++layer) {
      if (layer >= model.session.shape.n_layers())
        ref.fail("expected layers below " + std::to_string(model.session.shape.n_layers()) + ", found " +
                 std::to_string(layer));
      // As in edits: one without a router is skipped in a range, and refused by its own name.
      if (!recorded(layer) && !item.range)
        ref.fail("expected layers with recorded points, found " + std::to_string(layer));
      if (recorded(layer)) out.push_back(layer);
    }
  if (out.empty()) ref.fail("expected layers with recorded points, found none");
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

void run_branches(ServedModel& model, const json::Value& body, int key, std::shared_ptr<Exchange> exchange) {
  std::vector<BranchesRun::Branch> branches;
  BranchesForm form;
  GivenRecord record;
  try {
    const json::Ref ref(body, "body");
    refuse_unknown_fields(ref, {"model", "record", "generate", "branches", "points", "layers", "format", "top"});
    if (const auto name = ref.find("model")) check_model_name(model, name->string());
    record = read_record(model, ref.at("record"));
    const Generate generate = read_generate(ref.find("generate"), model);
    std::optional<PointSet> points;
    form = read_form(ref, model, points);
    const json::Ref list = ref.at("branches");
    if (list.length() == 0 || list.length() > max_branches) list.fail("expected 1 to 64 branches");
    for (const json::Ref& one : list.items()) {
      one.expect_object();
      refuse_unknown_fields(one, {"name", "edits", "force"});
      BranchesRun::Branch branch;
      branch.name = one.at("name").string();
      for (const auto& other : branches)
        if (other.name == branch.name)
          one.at("name").fail("expected a name of its own, found " + in_quotes(branch.name) + " twice");
      std::shared_ptr<const EditPlan> plan;
      if (const auto edits = one.find("edits")) {
        branch.edits = edits->value();
        plan = plan_edits(model, *edits, generate.sampling.seed, key, record.span_names);
        branch.sources = model.timelines.sources(branch.edits, key);
      }
      branch.job = job_of(model, record, plan, generate, one.path() + ".edits");
      if (const auto force = one.find("force")) branch.choice = read_force(*force, model, record, generate);
      if (points)
        branch.rows = std::make_shared<RecordedRows>(model.session.shape, *points, slots_of(model, branch.job),
                                                     plan && plan->has_router_edits());
      branches.push_back(std::move(branch));
    }
    if (points)
      check_recording(model, *points, static_cast<int64_t>(branches.size()) * branches.front().job.max_positions(),
                      "points");
    for (const auto& branch : branches) count_edits(model, branch.job.plan.get());
  } catch (const Error& error) {
    refuse_field(error);
  }
  std::make_shared<BranchesRun>(model, std::move(branches), std::move(form), std::move(record.source), key,
                                std::move(exchange))
      ->submit();
}

}  // namespace signalbox::tools
