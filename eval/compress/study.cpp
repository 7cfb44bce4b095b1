#include "eval/compress/study.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "base/text.h"
#include "engine/device_weights.h"
#include "engine/run_plan.h"
#include "eval/data/dice.h"
#include "eval/data/examples.h"
#include "eval/data/prompt_hash.h"

namespace signalbox::eval {

namespace {

// Tokens of the calibration records, drawn without replacement: rows by sample, ascending.
std::map<int64_t, std::vector<int64_t>> sample_tokens(const std::vector<Job>& jobs, int64_t n, uint64_t seed) {
  std::vector<std::pair<int64_t, int64_t>> all;
  for (const Job& job : jobs)
    for (int64_t row = 0; row < job.n_given(); ++row) all.emplace_back(job.index, row);
  if (n < static_cast<int64_t>(all.size())) {
    Dice(seed, "compress output sample").shuffle(all);
    all.resize(static_cast<size_t>(n));
    std::sort(all.begin(), all.end());
  }
  std::map<int64_t, std::vector<int64_t>> rows;
  for (const auto& [sample, row] : all) rows[sample].push_back(row);
  return rows;
}

// One study as it goes on.
class Study {
 public:
  Study(Session& session, const Weights& host, const StudyRecords& records,
        const std::shared_ptr<const EditPlan>& edits, const StudyOptions& options, const StudyHooks& hooks)
      : session_(session),
        host_(host),
        records_(records),
        edits_(edits),
        options_(options),
        hooks_(hooks),
        run_(session.options) {
    run_.interrupted = nullptr;  // on_progress ends the study
  }

  StudyResult run(const std::filesystem::path& scratch) {
    const std::vector<int64_t> sizes = study_sizes(session_.model, options_);
    const RecordJobs calibration = make_jobs(session_, records_.calibration, Generate{0, {}}, edits_);
    const RecordJobs evaluation = make_jobs(session_, records_.evaluation, Generate{0, {}}, nullptr);
    measure(calibration);
    compare();
    if (options_.ablation > 0) ablate();
    judge(evaluation, sizes, scratch);
    return std::move(result_);
  }

 private:
  RunEvents progress(const std::string& stage, int64_t total) const {
    RunEvents events;
    events.on_progress = [this, stage, total](int64_t done) { hooks_.on_progress(stage, done, total, "tokens"); };
    return events;
  }

  void measure(const RecordJobs& calibration) {
    const auto sampled = sample_tokens(calibration.jobs, options_.output_sample, options_.seed);
    ExpertMeasure sink(session_.shape, sampled, options_.threads);
    session_.run(calibration.jobs, run_, progress("measuring experts", planned_tokens(calibration.jobs, true)), &sink);
    result_.measures = sink.layers();
    result_.tokens = sink.n_tokens();
    result_.sampled = sink.n_sampled();
    if (options_.protect) result_.super = super_experts(result_.measures);
  }

  void compare() {
    PairOptions pairs;
    pairs.per_layer = options_.pairs;
    pairs.threads = options_.threads;
    pairs.isa = options_.isa;
    int64_t all = 0;
    for (const LayerMeasures& layer : result_.measures)
      all = std::max<int64_t>(all, int64_t{layer.n_experts} * (layer.n_experts - 1) / 2);
    if (const int64_t limit = compared_pairs(session_.model, pairs); limit < all)
      hooks_.on_note("the weights of " + std::to_string(limit) + " of " + std::to_string(all) +
                     " pairs of each layer are compared, those that are most alike in use (--pairs N for others)");
    pairs.on_outputs = [&](int64_t done, int64_t total) {
      hooks_.on_progress("comparing outputs", done, total, "experts");
    };
    pairs.on_weights = [&](int64_t done, int64_t total) {
      hooks_.on_progress("comparing weights", done, total, "pairs");
    };
    result_.pairs = measure_pairs(session_.model, host_, result_.measures, result_.sampled, pairs);
  }

  void ablate() {
    std::vector<Record> some = records_.calibration;
    if (options_.ablation < static_cast<int64_t>(some.size())) {
      Dice(options_.seed, "compress ablation records").shuffle(some);
      some.resize(static_cast<size_t>(options_.ablation));
    }
    const RecordJobs jobs = make_jobs(session_, some, Score{1, std::nullopt}, nullptr);
    int64_t one = 0, runs = 0;
    for (const Job& job : jobs.jobs) one += job.n_given();
    for (const LayerMeasures& layer : result_.measures) runs += 1 + layer.n_experts;
    result_.ablation = ablate_experts(session_, jobs, result_.measures, run_, [&](int64_t done) {
      hooks_.on_progress("banning experts", std::min(done, one * runs), one * runs, "tokens");
    });
  }

  std::vector<std::vector<double>> scores(KeepBy score) const {
    std::vector<std::vector<double>> out;
    for (size_t l = 0; l < result_.measures.size(); ++l) {
      std::vector<double>& of_layer = out.emplace_back();
      for (size_t e = 0; e < result_.measures[l].experts.size(); ++e) {
        const ExpertSums& expert = result_.measures[l].experts[e];
        of_layer.push_back(score == KeepBy::reap          ? expert.reap()
                           : score == KeepBy::frequency   ? static_cast<double>(expert.tokens())
                           : score == KeepBy::output_norm ? expert.output_norm()
                                                          : result_.ablation[l][e].kl);
      }
    }
    return out;
  }

  void judge(const RecordJobs& evaluation, const std::vector<int64_t>& sizes, const std::filesystem::path& scratch) {
    std::vector<int64_t> examples;
    for (const size_t example : independent_examples(records_.evaluation))
      examples.push_back(static_cast<int64_t>(example));
    QualityMeasure quality(evaluation.jobs, std::move(examples), session_.model.n_vocab, scratch, options_.threads,
                           options_.seed);
    result_.predicted = quality.n_predicted();
    if (quality.bytes() > int64_t{1} << 30)
      hooks_.on_note("the original's logits take " + gigabytes(quality.bytes()) + " in " + scratch.string() +
                     " until the end");
    QualityRow original;
    original.plan = "original";
    original.keep = session_.model.n_experts();
    const ParameterCount counted = count_parameters(session_.model);
    original.parameters = counted.total;
    original.active_parameters = counted.active;
    const StudyHooks::Bytes bytes = hooks_.original_bytes();
    original.bytes = bytes.bytes;
    original.stored_bytes = bytes.stored_bytes;
    {
      Forward forward = session_.forward(0);
      original.quality = quality.original(forward, run_, progress("judging the original", quality.n_tokens()));
    }
    result_.rows.push_back(original);

    PlanInputs inputs;
    inputs.model = &session_.model;
    inputs.measures = &result_.measures;
    inputs.pairs = &result_.pairs;
    inputs.kept_always = result_.super;
    inputs.merges = options_.merges;
    // A device with memory of its own holds one model at a time.
    if (!session_.backend->shares_host_memory()) session_.weights = Weights();
    for (const int64_t keep : sizes) {
      const Plan plan = best_plan(inputs, "plan", keep, scores(options_.score));
      std::vector<QualityRow> others;
      others.push_back(judge(best_plan(inputs, "frequency", keep, scores(KeepBy::frequency)), quality));
      for (int64_t i = 0; i < options_.random; ++i)
        others.push_back(judge(random_plan(inputs, keep, options_.seed + static_cast<uint64_t>(i)), quality));
      // Last: what on_plan does with it (a checkpoint, say) is not in vain when another plan fails.
      result_.rows.push_back(judge(plan, quality));
      result_.rows.insert(result_.rows.end(), others.begin(), others.end());
      result_.plans.push_back(plan);
    }
  }

  QualityRow judge(const Plan& plan, QualityMeasure& quality) {
    const std::string stage = "judging " + plan.name + " of " + std::to_string(plan.keep) +
                              (plan.seed ? ", seed " + std::to_string(*plan.seed) : "");
    ApplyOptions apply;
    apply.stored_dtype = hooks_.stored_dtype;
    apply.threads = options_.threads;
    apply.isa = options_.isa;
    apply.on_merged = [&](int64_t done, int64_t total) {
      hooks_.on_progress("merging for " + stage, done, total, "groups");
    };
    const ChangedModel changed = apply_plan(session_.model, host_, plan, apply);
    QualityRow row;
    row.plan = plan.name;
    row.keep = plan.keep;
    row.seed = plan.seed;
    const ParameterCount counted = count_parameters(changed.model);
    row.parameters = counted.total;
    row.active_parameters = counted.active;
    for (const ExpertChange& change : changed.changes) {
      const Moe& moe = *changed.model.layers[change.layer].moe();
      const int64_t d = session_.model.d_model, one = 3 * d * moe.d_ff + (moe.bias ? 2 * moe.d_ff + d : 0);
      for (size_t e = 0; e < change.same_as.size(); ++e)
        if (change.same_as[e] != static_cast<int32_t>(e)) row.parameters -= one;
    }
    const StudyHooks::Bytes bytes = hooks_.bytes(changed);
    row.bytes = bytes.bytes;
    row.stored_bytes = bytes.stored_bytes;
    Backend& backend = *session_.backend;
    Weights on_device;
    if (!backend.shares_host_memory()) on_device = upload_weights(backend, changed.model, changed.weights, {});
    Forward forward(backend, changed.model, backend.shares_host_memory() ? changed.weights : on_device, 0);
    row.quality = quality.compared(forward, run_, progress(stage, quality.n_tokens()));
    if (hooks_.on_plan) hooks_.on_plan(plan, changed);
    return row;
  }

  Session& session_;
  const Weights& host_;
  const StudyRecords& records_;
  const std::shared_ptr<const EditPlan>& edits_;
  const StudyOptions& options_;
  const StudyHooks& hooks_;
  RunOptions run_;
  StudyResult result_;
};

}  // namespace

StudyRecords study_records(std::vector<Record> data, std::optional<std::vector<Record>> evaluation, uint64_t seed) {
  StudyRecords out;
  if (evaluation) {
    out.calibration = std::move(data);
    out.evaluation = std::move(*evaluation);
    std::set<std::string> known;
    for (const Record& record : out.calibration) known.insert(line_prompt_hash(record.source));
    for (const Record& record : out.evaluation)
      out.in_common += static_cast<int64_t>(known.count(line_prompt_hash(record.source)));
    return out;
  }
  out.split = true;
  const std::vector<size_t> example_of = independent_examples(data);
  std::vector<size_t> examples(example_of);
  std::sort(examples.begin(), examples.end());
  examples.erase(std::unique(examples.begin(), examples.end()), examples.end());
  if (examples.size() < 2)
    throw Error("--data",
                "expected at least two examples, one half of which judges the plans of the other (or --eval), "
                "found " +
                    std::to_string(examples.size()));
  Dice(seed, "compress split").shuffle(examples);
  const std::set<size_t> calibration(examples.begin(),
                                     examples.begin() + static_cast<int64_t>((examples.size() + 1) / 2));
  for (size_t i = 0; i < data.size(); ++i)
    (calibration.count(example_of[i]) > 0 ? out.calibration : out.evaluation).push_back(std::move(data[i]));
  return out;
}

std::vector<int64_t> study_sizes(const Model& model, const StudyOptions& options) {
  const std::vector<int32_t> layers = model.moe_layers();
  if (layers.empty()) throw Error(model.source, "expected a model with experts, found none");
  const Router& router = model.layers[layers.front()].moe()->router;
  if (options.ablation > 0 && router.n_experts <= router.n_active)
    throw Error("--ablation", "layer " + std::to_string(layers.front()) + ": expected more experts than the " +
                                  std::to_string(router.n_active) + " active ones, found none to do without");
  std::vector<int64_t> sizes = options.keep;
  for (const double share : options.share) sizes.push_back(kept_of_share(share, router.n_experts, router.n_active));
  std::sort(sizes.begin(), sizes.end(), std::greater<>());
  for (size_t i = 0; i < sizes.size(); ++i) {
    check_keep(model, sizes[i], options.merges);
    if (i > 0 && sizes[i] == sizes[i - 1])
      throw Error(options.share.empty() ? "--keep" : "--share",
                  "expected different sizes, found " + std::to_string(sizes[i]) + " experts twice");
  }
  return sizes;
}

StudyResult run_study(Session& session, const Weights& host, const StudyRecords& records,
                      const std::shared_ptr<const EditPlan>& edits, const StudyOptions& options,
                      const StudyHooks& hooks, const std::filesystem::path& scratch) {
  return Study(session, host, records, edits, options, hooks).run(scratch);
}

}  // namespace signalbox::eval
