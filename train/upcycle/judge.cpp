#include "train/upcycle/judge.h"

#include <numeric>
#include <optional>

#include "base/error.h"
#include "base/files.h"
#include "base/no_number.h"
#include "base/text.h"
#include "eval/data/examples.h"
#include "probes/activation_store.h"
#include "probes/edit_memory.h"

namespace signalbox::train {

namespace {

namespace fs = std::filesystem;

class RouteSink final : public ProbeSink {
 public:
  RouteSink(RouteCounts& counts, const std::vector<size_t>& kind_of) : counts_(counts), kind_of_(kind_of) {}
  bool wants(Point point, int32_t) const override { return point == Point::router_ids; }
  void begin(const StepRows& rows) override {
    ranges_.assign(rows.ranges.begin(), rows.ranges.end());
    for (const RowRange& range : ranges_) counts_.tokens[kind_of_[static_cast<size_t>(range.sample)]] += range.n_rows;
  }
  void take(Point, int32_t, const float*, int64_t) override {}
  void take_ids(int32_t layer, const int32_t* ids, const int32_t*, int64_t n_slots) override {
    for (const RowRange& range : ranges_) {
      auto& selected = counts_.selected[kind_of_[static_cast<size_t>(range.sample)]][static_cast<size_t>(layer)];
      for (int64_t i = range.batch_row * n_slots; i < (range.batch_row + range.n_rows) * n_slots; ++i)
        if (ids[i] >= 0) ++selected[static_cast<size_t>(ids[i])];
    }
  }
  void end() override {}

 private:
  RouteCounts& counts_;
  const std::vector<size_t>& kind_of_;
  std::vector<RowRange> ranges_;
};

json::Value interval_json(const Interval& interval) {
  return json::Value::array().push_back(interval.lo).push_back(interval.hi);
}

Interval interval_of(const json::Ref& value) {
  const auto bound = [&](size_t i) { return value[i].is_null() ? no_number : value[i].number(); };
  return {bound(0), bound(1)};
}

json::Value kept_json(const PlanQuality& plan, const RouteCounts* routes) {
  json::Value kinds = json::Value::array(), out = json::Value::object();
  for (const Quality& quality : plan.kinds)
    kinds.push_back(json::Value::object()
                        .set("tokens", quality.tokens)
                        .set("ppl", quality.ppl)
                        .set("kl", quality.kl)
                        .set("agreement", quality.agreement)
                        .set("ppl_ci", interval_json(quality.ppl_ci))
                        .set("kl_ci", interval_json(quality.kl_ci))
                        .set("agreement_ci", interval_json(quality.agreement_ci)));
  out.set("plan", plan.plan).set("parameters", plan.parameters).set("active_parameters", plan.active_parameters);
  out.set("kinds", std::move(kinds));
  if (!routes) return out;
  json::Value tokens = json::Value::array(), selected = json::Value::array();
  for (const int64_t n : routes->tokens) tokens.push_back(n);
  for (const auto& kind : routes->selected)
    for (const auto& layer : kind)
      for (const int64_t n : layer) selected.push_back(n);
  return out.set("tokens", std::move(tokens)).set("selected", std::move(selected));
}

class Judge {
 public:
  explicit Judge(const JudgeInputs& inputs) : in_(inputs), n_kinds_(inputs.texts->kinds.size()) {
    result_.routes.tokens.assign(n_kinds_, 0);
    result_.routes.selected.assign(
        n_kinds_, std::vector<std::vector<int64_t>>(in_.layers->size(),
                                                    std::vector<int64_t>(static_cast<size_t>(in_.layout.routed()))));
    for (size_t k = 0; k < n_kinds_; ++k) {
      std::vector<size_t>& jobs = kinds_.emplace_back();
      for (size_t j = 0; j < in_.texts->kind_of.size(); ++j)
        if (in_.texts->kind_of[j] == k) jobs.push_back(j);
    }
    if (n_kinds_ > 1) {
      kinds_.emplace_back(in_.texts->kind_of.size());
      std::iota(kinds_.back().begin(), kinds_.back().end(), size_t{0});
    }
  }

  Judgement run() {
    for (const char* name : plan_names)
      if (auto kept = read_kept(name)) {
        result_.plans.push_back(std::move(*kept));
      } else {
        result_.plans.push_back(measured(name));
        const bool routes = std::string_view(name) == upcycled_plan;
        write_file_atomically(file_of(name),
                              json::dump(kept_json(result_.plans.back(), routes ? &result_.routes : nullptr)) + "\n");
      }
    return std::move(result_);
  }

 private:
  fs::path file_of(const std::string& plan) const { return in_.directory / ("quality-" + plan + ".json"); }

  std::optional<PlanQuality> read_kept(const std::string& name) {
    const fs::path file = file_of(name);
    if (!fs::exists(file)) return std::nullopt;
    const json::Value value = json::parse_file(file);
    const json::Ref root(value, file.string());
    PlanQuality plan;
    plan.plan = root.at("plan").string();
    plan.parameters = root.at("parameters").integer();
    plan.active_parameters = root.at("active_parameters").integer();
    for (const json::Ref& kind : root.at("kinds").items()) {
      Quality quality;
      quality.tokens = kind.at("tokens").integer();
      quality.ppl = kind.at("ppl").number();
      quality.kl = kind.at("kl").number();
      quality.agreement = kind.at("agreement").number();
      quality.ppl_ci = interval_of(kind.at("ppl_ci"));
      quality.kl_ci = interval_of(kind.at("kl_ci"));
      quality.agreement_ci = interval_of(kind.at("agreement_ci"));
      plan.kinds.push_back(quality);
    }
    if (!root.find("tokens")) return plan;
    size_t at = 0;
    const json::Ref tokens = root.at("tokens"), selected = root.at("selected");
    for (size_t k = 0; k < n_kinds_; ++k) result_.routes.tokens[k] = tokens[k].integer();
    for (auto& kind : result_.routes.selected)
      for (auto& layer : kind)
        for (int64_t& n : layer) n = selected[at++].integer();
    return plan;
  }

  RunEvents progress(const std::string& stage) const {
    RunEvents events;
    events.on_progress = [this, stage](int64_t done) { in_.on_progress(stage, done, quality_->n_tokens(), "tokens"); };
    return events;
  }

  // The dense model's logits and streams, which all others are held against.
  Quality open() {
    std::vector<int64_t> examples;
    for (const size_t example : independent_examples(in_.texts->evaluation))
      examples.push_back(static_cast<int64_t>(example));
    const std::vector<Job>& jobs = in_.texts->evaluation_jobs.jobs;
    quality_ = std::make_unique<QualityMeasure>(jobs, std::move(examples), in_.dense->model.n_vocab, in_.directory,
                                                in_.threads, in_.seed);
    inputs_ = std::make_unique<FfnInputs>(*in_.dense, jobs, in_.directory);
    if (const int64_t bytes = quality_->bytes() + inputs_->bytes(); bytes > int64_t{1} << 30)
      in_.on_note("the dense model's logits and streams take " + gigabytes(bytes) + " in " + in_.directory.string() +
                  " until the end");
    Forward forward = in_.dense->forward(0);
    return quality_->original(forward, in_.run, progress("judging the dense model"), inputs_.get());
  }

  PlanQuality filled(const std::string& name, const Model& model) const {
    PlanQuality plan;
    plan.plan = name;
    const ParameterCount counted = count_parameters(model);
    plan.parameters = counted.total;
    plan.active_parameters = counted.active;
    for (const std::vector<size_t>& jobs : kinds_) plan.kinds.push_back(quality_->of(jobs));
    return plan;
  }

  PlanQuality measured(const std::string& name) {
    if (!quality_) {
      open();
      if (name == plan_names[0]) return filled(name, in_.dense->model);
    }
    const bool fixed = name.starts_with("static"), refit = name == upcycled_plan || name == "static_refit";
    Model model = fixed ? in_.dense->model : *in_.carved;
    if (name == "every_expert")
      for (Layer& layer : model.layers)
        std::get<Moe>(layer.ffn).router.n_active = static_cast<int32_t>(in_.layout.routed());
    const BuiltModel built = fixed ? static_model(*in_.dense, *in_.layers, in_.layout, in_.dtype, refit)
                                   : routed_model(*in_.dense, model, *in_.layers, in_.layout, in_.dtype, refit);
    ComparedRun with;
    const ModelShape shape = probe_shape(built.model);
    std::optional<RouteSink> routes;
    if (name == "random_route") {
      const json::Value edits = json::parse(R"([{"op":"misroute","policy":"random"}])", "random route");
      with.plan = EditPlan::parse(json::Ref(edits, "random route"), ".", shape, in_.seed);
    } else if (name == "best_route") {
      with.plan = replay(shape);
    } else if (name == upcycled_plan) {
      with.beside = &routes.emplace(result_.routes, in_.texts->kind_of);
    }
    Forward forward(*in_.dense->backend, built.model, built.weights, 0);
    quality_->compared(forward, in_.run, progress("judging " + name), with);
    return filled(name, built.model);
  }

  // Imposes the experts of the largest outputs.
  std::shared_ptr<const EditPlan> replay(const ModelShape& shape) {
    const std::vector<Job>& jobs = in_.texts->evaluation_jobs.jobs;
    const auto store = std::make_shared<ActivationStore>("best", shape, PointSet::parse("router.ids", shape));
    std::vector<RowRange> ranges;
    std::vector<int32_t> tokens, positions;
    std::vector<std::string> ids;
    for (const Job& job : jobs) {
      ranges.push_back({job.index, 0, job.n_given(), static_cast<int64_t>(tokens.size())});
      tokens.insert(tokens.end(), job.prompt->tokens.begin(), job.prompt->tokens.end());
      for (int32_t p = 0; p < job.n_given(); ++p) positions.push_back(p);
      ids.push_back(job.prompt->id);
    }
    StepRows rows;
    rows.n_rows = static_cast<int64_t>(tokens.size());
    rows.ranges = ranges;
    rows.tokens = tokens.data();
    rows.positions = positions.data();
    store->begin(rows);
    ThreadPool pool(in_.threads);
    for (size_t l = 0; l < in_.layers->size(); ++l) {
      const auto layer = static_cast<int64_t>(l);
      in_.on_progress("finding the best route", layer, in_.dense->model.n_layers(), "layers");
      const std::vector<int32_t> best = best_route(*in_.dense, *inputs_, layer, (*in_.layers)[l], in_.layout, pool);
      store->take_ids(static_cast<int32_t>(l), best.data(), nullptr, in_.layout.active);
    }
    store->end();
    store->finish(ids);
    EditMemory memory;
    memory.add(store);
    const json::Value edits = json::parse(R"([{"op":"replay","trace":"memory:best"}])", "best route");
    return EditPlan::parse(json::Ref(edits, "best route"), ".", shape, in_.seed, &memory);
  }

  const JudgeInputs& in_;
  size_t n_kinds_;
  std::vector<std::vector<size_t>> kinds_;  // jobs of each row of a plan
  std::unique_ptr<QualityMeasure> quality_;
  std::unique_ptr<FfnInputs> inputs_;
  Judgement result_;
};

}  // namespace

Judgement judge(const JudgeInputs& inputs) { return Judge(inputs).run(); }

}  // namespace signalbox::train
