#include "train/transplant.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/device_weights.h"
#include "engine/matrix_values.h"
#include "engine/run_plan.h"
#include "eval/compress/expert_outputs.h"
#include "eval/data/dice.h"
#include "eval/data/examples.h"
#include "probes/edit_memory.h"
#include "train/moved_expert.h"

namespace signalbox::train {

namespace {

std::vector<int64_t> labels_of(const std::vector<Record>& records) {
  std::vector<int64_t> out;
  for (const size_t example : independent_examples(records)) out.push_back(static_cast<int64_t>(example));
  return out;
}

std::vector<float> norm_weight(const Weights& weights, int32_t layer) {
  const Vector& weight = weights.layers[static_cast<size_t>(layer)].ffn_norm;
  return {weight.data, weight.data + weight.n};
}

const MoeWeights& moe_weights_of(const Weights& weights, int32_t layer) {
  return std::get<MoeWeights>(weights.layers[static_cast<size_t>(layer)].ffn);
}

std::vector<double> row_of(const Matrix& matrix, int64_t row) {
  const std::vector<float> all = values_of(matrix);
  return {all.begin() + row * matrix.cols, all.begin() + (row + 1) * matrix.cols};
}

json::Value edit_of(const ExpertAt& at, json::Value edit) {
  json::Value experts = json::Value::object();
  experts.set(std::to_string(at.layer), json::Value::array().push_back(int64_t{at.expert}));
  edit.set("experts", std::move(experts));
  return json::Value::array().push_back(std::move(edit));
}

// Records of a task, of which the targets count; of one without a target all tokens but the first.
struct Task {
  std::string metric;
  RecordJobs made;
  std::vector<int64_t> examples;
  UnitValues mean_control, ban, transplanted;  // -log p of each token that counts
};

class Transplantation {
 public:
  Transplantation(Session& donor, const Weights& donor_host, Session& host, const Weights& host_host,
                  const TransplantRecords& records, const TransplantOptions& options)
      : donor_(donor),
        host_(host),
        donor_weights_(donor_host),
        host_weights_(host_host),
        records_(records),
        options_(options),
        run_(host.options),
        pool_(options.threads),
        cpu_(make_cpu_backend({options.threads, options.isa})) {
    run_.interrupted = nullptr;  // on_progress ends it
  }

  TransplantResult run(const std::filesystem::path& scratch) {
    for (const auto& [list, metric] :
         {std::pair(&records_.donor_task, "donor_task_nll"), std::pair(&records_.host_task, "host_task_nll")})
      if (!list->empty()) tasks_.push_back(task(*list, metric));
    observe();
    const RecordJobs evaluation = make_jobs(host_, records_.evaluation, Generate{0, {}}, nullptr);
    QualityMeasure quality(evaluation.jobs, labels_of(records_.evaluation), host_.model.n_vocab, scratch,
                           options_.threads, options_.seed);
    result_.predicted = quality.n_predicted();
    quality_ = &quality;
    // Of the original model: as it is, without the expert, and with its mean in its place.
    const auto ban = host_.edits(
        json::Ref(edit_of(options_.host, json::Value::object().set("op", "deactivate").set("mode", "ban")), "ban"), ".",
        0);
    const auto mean = mean_plan();
    {
      Forward forward = host_.forward(0);
      judge("original", forward, nullptr, calibration_->before());
      judge("ban", forward, ban, std::nullopt);
      judge("mean", forward, mean, calibration_->before());
    }
    if (!host_.backend->shares_host_memory()) host_.weights = Weights();
    if (result_.random_expert) {
      std::optional<RouterCalibration::Row> row;
      const ChangedModel changed = changed_model(*result_.random_expert, row);
      judge_changed("random", changed);
    }
    result_.model = changed_model(options_.donor.expert, result_.router);
    judge_changed("transplant", result_.model);
    conclude();
    return std::move(result_);
  }

 private:
  Task task(const std::vector<Record>& records, const char* metric) const {
    Task out;
    out.metric = metric;
    out.made = make_jobs(host_, records, Score{1, std::nullopt}, nullptr);
    for (size_t r = 0; r < records.size(); ++r) {
      const EncodedRecord& encoded = out.made.encoded[r];
      out.made.jobs[r].task = Score{std::max<int64_t>(1, encoded.target_start.value_or(1)), std::nullopt};
      if (encoded.prompt->tokens.size() < 2)
        throw Error(records[r].where, "expected a record of at least two tokens, found one");
    }
    out.examples = labels_of(records);
    return out;
  }

  // Both models on the calibration records: how their bases stand to each other, and who is used how often.
  void observe() {
    const PairedTokens tokens = pair_tokens(donor_, host_, records_.calibration);
    result_.tokens = tokens.n();
    const int64_t widest = std::max(donor_.model.d_model, host_.model.d_model);
    const std::vector<int64_t> states =
        drawn_tokens(tokens.n(), options_.states > 0 ? options_.states : 8 * widest, options_.seed);
    result_.states = static_cast<int64_t>(states.size());
    if (states.empty()) throw Error("--data", "expected tokens that both models read, found none");
    const auto record = [&](const Session& session, int32_t layer, const std::vector<TokenAt>& at,
                            const RecordJobs& jobs, const char* stage) {
      StateSink sink(session.shape, {layer}, at, states);
      record_states(session, jobs, sink, progress(stage, planned_tokens(jobs.jobs, true)));
      return sink.layer(layer);
    };
    const LayerStates of_donor = record(donor_, options_.donor.layer, tokens.in_a, tokens.a, "running the donor"),
                      of_host = record(host_, options_.host.layer, tokens.in_b, tokens.b, "running the host");
    if (!donor_.backend->shares_host_memory()) donor_.weights = Weights();
    const std::vector<int64_t> labels = labels_of(records_.calibration);
    std::vector<int64_t> examples;
    for (const int64_t token : states)
      examples.push_back(labels[static_cast<size_t>(tokens.in_a[static_cast<size_t>(token)].first)]);
    result_.map = fit_basis(state_pairs(donor_, options_.donor.layer, of_donor, donor_weights_, host_,
                                        options_.host.layer, of_host, host_weights_, examples),
                            options_.basis, options_.ridge, pool_);
    x_ = expert_inputs(*cpu_, host_.model, host_weights_, options_.host.layer, of_host.mid);
    calibration_.emplace(*cpu_, host_.model, moe_weights_of(host_weights_, options_.host.layer), options_.host.layer,
                         options_.host.expert, x_, pool_);
    // The mean of what the expert that goes says to those tokens that select it.
    std::vector<float> chosen;
    const int64_t d = host_.model.d_model;
    for (size_t i = 0; i < states.size(); ++i) {
      const auto ids = of_host.ids.begin() + states[i] * of_host.n_slots;
      if (std::find(ids, ids + of_host.n_slots, options_.host.expert) != ids + of_host.n_slots)
        chosen.insert(chosen.end(), x_.begin() + static_cast<int64_t>(i) * d,
                      x_.begin() + static_cast<int64_t>(i + 1) * d);
    }
    mean_.assign(static_cast<size_t>(d), 0);
    const int64_t n = static_cast<int64_t>(chosen.size()) / d;
    if (n == 0) {
      options_.on_note("no calibration token selects the host's expert: its mean output is taken as 0");
    } else {
      ExpertOutputs outputs(*cpu_, host_.model, moe_weights_of(host_weights_, options_.host.layer));
      std::vector<double> sums(static_cast<size_t>(d));
      const std::vector<float>& rows = outputs.of(chosen.data(), n, std::span(&options_.host.expert, 1));
      for (size_t i = 0; i < rows.size(); ++i) sums[i % static_cast<size_t>(d)] += rows[i];
      for (size_t c = 0; c < sums.size(); ++c) mean_[c] = static_cast<float>(sums[c] / static_cast<double>(n));
    }
    choose_random(of_donor);
  }

  // Another expert of the donor's layer, drawn among the half whose use is nearest to the donor's.
  void choose_random(const LayerStates& states) {
    const int32_t n = donor_.model.layers[static_cast<size_t>(options_.donor.layer)].moe()->router.n_experts;
    std::vector<int64_t> used(static_cast<size_t>(n));
    for (const int32_t e : states.ids)
      if (e >= 0) ++used[static_cast<size_t>(e)];
    std::vector<int32_t> others;
    for (int32_t e = 0; e < n; ++e)
      if (e != options_.donor.expert) others.push_back(e);
    if (others.empty()) return;
    const auto apart = [&](int32_t e) {
      return std::abs(used[static_cast<size_t>(e)] - used[static_cast<size_t>(options_.donor.expert)]);
    };
    std::stable_sort(others.begin(), others.end(), [&](int32_t e, int32_t f) { return apart(e) < apart(f); });
    others.resize((others.size() + 1) / 2);
    result_.random_expert = Dice(options_.seed, "transplant random expert").pick(others);
  }

  std::shared_ptr<const EditPlan> mean_plan() const {
    EditMemory memory;
    memory.add("mean", {{host_.model.d_model}, mean_});
    const json::Value edit =
        edit_of(options_.host,
                json::Value::object().set("op", "ablate").set("point", "expert.out").set("value", "memory:mean"));
    return EditPlan::parse(json::Ref(edit, "mean"), ".", host_.shape, 0, &memory);
  }

  // The host with an expert of the donor's layer. `row`: what its router was given, where it was.
  ChangedModel changed_model(int32_t donor_expert, std::optional<RouterCalibration::Row>& row) {
    const int32_t layer = options_.host.layer, expert = options_.host.expert;
    const std::vector<float> weight_a = norm_weight(donor_weights_, options_.donor.layer),
                             weight_b = norm_weight(host_weights_, layer);
    const MoeWeights &from = moe_weights_of(donor_weights_, options_.donor.layer),
                     &to = moe_weights_of(host_weights_, layer);
    const ExpertValues moved = padded_expert(
        moved_expert(read_expert(from, donor_expert), result_.map, weight_a, weight_b), to.gate.front().rows);
    ChangedModel changed = keep_experts(host_.model, host_weights_, {});
    put_expert(changed, layer, expert, stored_expert(moved, [&](Role role) {
                 return options_.stored_dtype({role, layer, expert});
               }));
    if (!options_.rescale_router) return changed;
    row = calibration_->fitted(moved_row(row_of(from.router, donor_expert), result_.map, weight_a, weight_b));
    MoeWeights& weights = std::get<MoeWeights>(changed.weights.layers[static_cast<size_t>(layer)].ffn);
    const std::vector<float> all = values_of(to.router);
    std::vector<double> values(all.begin(), all.end());
    std::copy(row->row.begin(), row->row.end(), values.begin() + expert * to.router.cols);
    weights.router = stored_matrix(values, to.router.rows, to.router.cols, options_.stored_dtype({Role::router, layer}),
                                   changed.weights.owners);
    changed.replaced.push_back({Role::router, layer});
    if (to.router_bias) {
      std::vector<double> biases(to.router_bias.data, to.router_bias.data + to.router_bias.n);
      biases[static_cast<size_t>(expert)] = row->bias;
      weights.router_bias =
          stored_vector(biases, options_.stored_dtype({Role::router_bias, layer}), changed.weights.owners);
      changed.replaced.push_back({Role::router_bias, layer});
    }
    return changed;
  }

  RunEvents progress(const std::string& stage, int64_t total) const {
    RunEvents events;
    events.on_progress = [this, stage, total](int64_t done) { options_.on_progress(stage, done, total, "tokens"); };
    return events;
  }

  void judge_changed(const std::string& variant, const ChangedModel& changed) {
    Backend& backend = *host_.backend;
    Weights on_device;
    if (!backend.shares_host_memory()) on_device = upload_weights(backend, changed.model, changed.weights, {});
    Forward forward(backend, changed.model, backend.shares_host_memory() ? changed.weights : on_device, 0);
    judge(variant, forward, nullptr,
          calibration_->use_of(
              std::get<MoeWeights>(changed.weights.layers[static_cast<size_t>(options_.host.layer)].ffn)));
  }

  MeanEstimate estimate(const UnitValues& values) {
    const ClusteredValues column = values.clustered();
    return bootstrap_means({&column, 1}, options_.seed, default_resamples, options_.threads).front();
  }

  void judge(const std::string& variant, Forward& forward, const std::shared_ptr<const EditPlan>& plan,
             const std::optional<RouterUse>& use) {
    const RunEvents events = progress("judging " + variant, quality_->n_tokens());
    const Quality quality = variant == "original" ? quality_->original(forward, run_, events)
                                                  : quality_->compared(forward, run_, events, {plan, nullptr});
    const UnitValues nll = quality_->nll();
    const MeanEstimate mean = estimate(nll);
    const auto add = [&](const std::string& metric, double value, Interval ci) {
      result_.rows.push_back({variant, metric, value, ci});
    };
    add("ppl", quality.ppl, {std::exp(mean.ci.lo), std::exp(mean.ci.hi)});
    add("kl", quality.kl, quality.kl_ci);
    add("agreement", quality.agreement, {no_number, no_number});
    keep(variant, nll, nll_ban_, nll_transplant_, nll_mean_);
    for (Task& task : tasks_) {
      const UnitValues of_task = task_nll(task, variant, forward, plan);
      const MeanEstimate score = estimate(of_task);
      add(task.metric, score.mean, score.ci);
      keep(variant, of_task, task.ban, task.transplanted, task.mean_control);
    }
    if (!use) return;
    add("share", use->share(), {no_number, no_number});
    add("mean_weight", use->weight, {no_number, no_number});
  }

  static void keep(const std::string& variant, const UnitValues& values, UnitValues& ban, UnitValues& transplanted,
                   UnitValues& mean) {
    if (variant == "ban") ban = values;
    if (variant == "transplant") transplanted = values;
    if (variant == "mean") mean = values;
  }

  UnitValues task_nll(const Task& task, const std::string& variant, Forward& forward,
                      const std::shared_ptr<const EditPlan>& plan) {
    std::vector<Job> jobs = task.made.jobs;
    for (Job& job : jobs) job.plan = plan;
    std::vector<std::vector<double>> found(jobs.size());
    RunEvents events = progress("judging " + variant + ", " + task.metric, planned_tokens(jobs));
    events.on_done = [&](Result result) { found[static_cast<size_t>(result.index)] = std::move(result.logprobs); };
    run_jobs(forward, jobs, run_, events, nullptr);
    UnitValues out;
    for (size_t r = 0; r < found.size(); ++r)
      for (const double p : found[r]) out.add(-p, task.examples[r]);
    return out;
  }

  MeanEstimate gain(const UnitValues& over, const UnitValues& of) {
    UnitValues differences;
    for (size_t i = 0; i < over.values.size(); ++i) differences.add(over.values[i] - of.values[i], over.units[i]);
    return estimate(differences);
  }

  void conclude() {
    result_.donor_gain.mean = no_number;
    result_.donor_gain.ci = {no_number, no_number};
    result_.host_gain = gain(nll_ban_, nll_transplant_);
    for (const Task& task : tasks_) {
      if (task.metric == "host_task_nll") result_.host_gain = gain(task.ban, task.transplanted);
      if (task.metric == "donor_task_nll") result_.donor_gain = gain(task.mean_control, task.transplanted);
    }
    if (!records_.donor_task.empty()) {
      result_.works = result_.donor_gain.ci.lo > 0 && result_.host_gain.ci.lo > 0;
      result_.rows.push_back({"transplant", "donor_gain_over_mean", result_.donor_gain.mean, result_.donor_gain.ci});
    }
    result_.rows.push_back({"transplant", "host_gain_over_ban", result_.host_gain.mean, result_.host_gain.ci});
  }

  Session &donor_, &host_;
  const Weights &donor_weights_, &host_weights_;
  const TransplantRecords& records_;
  const TransplantOptions& options_;
  RunOptions run_;
  ThreadPool pool_;
  std::unique_ptr<Backend> cpu_;
  std::vector<float> x_, mean_;  // what the host's router reads; the mean output of the expert that goes
  std::optional<RouterCalibration> calibration_;
  QualityMeasure* quality_ = nullptr;
  std::vector<Task> tasks_;
  UnitValues nll_ban_, nll_transplant_, nll_mean_;
  TransplantResult result_;
};

void check_expert(const Model& model, const ExpertAt& at, const char* which) {
  const std::string where = std::string("the ") + which + " " + model.source;
  if (at.layer >= model.n_layers() || !model.layers[static_cast<size_t>(at.layer)].moe())
    throw Error(where, "expected a layer with a router, found " + std::to_string(at.layer));
  const int32_t n = model.layers[static_cast<size_t>(at.layer)].moe()->router.n_experts;
  if (at.expert >= n)
    throw Error(where, "expected an expert below " + std::to_string(n) + " in layer " + std::to_string(at.layer) +
                           ", found " + std::to_string(at.expert));
}

}  // namespace

void check_transplant(const Model& donor, const Model& host, const TransplantOptions& options) {
  check_expert(donor, options.donor, "donor");
  check_expert(host, options.host, "host");
  const Moe &from = *donor.layers[static_cast<size_t>(options.donor.layer)].moe(),
            &to = *host.layers[static_cast<size_t>(options.host.layer)].moe();
  const std::string where = "donor and host";
  if (const std::string reason = experts_misfit(donor, from, host, to); !reason.empty()) throw Error(where, reason);
  if (from.d_ff > to.d_ff)
    throw Error(where, "expected an expert of at most the " + std::to_string(to.d_ff) +
                           " neurons of the host's, found " + std::to_string(from.d_ff));
  if (donor.d_model != host.d_model && (options.basis == Basis::none || options.basis == Basis::procrustes))
    throw Error(std::string("--align ") + basis_names[static_cast<size_t>(options.basis)],
                "expected two models of one width (ridge maps between widths), found " + std::to_string(donor.d_model) +
                    " and " + std::to_string(host.d_model));
  if (to.router.n_experts <= to.router.n_active)
    throw Error(where, "expected more experts in the host's layer than the " + std::to_string(to.router.n_active) +
                           " active ones (one of the controls bans the expert), found " +
                           std::to_string(to.router.n_experts));
}

TransplantResult transplant(Session& donor, const Weights& donor_host, Session& host, const Weights& host_host,
                            const TransplantRecords& records, const TransplantOptions& options,
                            const std::filesystem::path& scratch) {
  check_transplant(donor.model, host.model, options);
  return Transplantation(donor, donor_host, host, host_host, records, options).run(scratch);
}

}  // namespace signalbox::train
