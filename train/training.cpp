#include "train/training.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"
#include "eval/data/dice.h"
#include "eval/statistics/paired.h"
#include "eval/store/work_directory.h"
#include "train/row_file.h"

namespace signalbox::train {

namespace {

namespace fs = std::filesystem;

constexpr const char* state_schema = "signalbox.train-state/1";

std::vector<int64_t> shuffled(int64_t n_records, uint64_t seed, int64_t pass) {
  std::vector<int64_t> order(static_cast<size_t>(n_records));
  std::iota(order.begin(), order.end(), 0);
  Dice dice(seed, "order of pass " + std::to_string(pass));
  dice.shuffle(order);
  return order;
}

std::vector<const Example*> all_of(const std::vector<Example>& examples) {
  std::vector<const Example*> pointers;
  for (const Example& example : examples) pointers.push_back(&example);
  return pointers;
}

// F64 values of a state, by name.
std::vector<double> list_of(const safetensors::File& file, const char* name) {
  const safetensors::TensorInfo& info = file.at(name);
  std::vector<double> values(static_cast<size_t>(info.elements()));
  if (!values.empty()) std::memcpy(values.data(), file.data(info), info.bytes);
  return values;
}

// What goes on from process to process beside the weights.
struct State {
  int64_t step = 0, tokens = 0, eval_rows = 0;
  std::vector<double> first;  // held-out losses before the first step
  int64_t stop_rows = 0;
};

class Loop {
 public:
  explicit Loop(const Training& training)
      : t_(training),
        settings_(training.settings),
        gradient_(*training.session->backend, training.session->model, training.session->weights, 0) {
    if (t_.routing) gradient_.see_routing(&t_.routing->slopes());
    if (t_.stop.empty()) return;
    std::vector<double> counts;
    for (const Example& example : t_.stop) counts.push_back(static_cast<double>(example.n_targets()));
    stopping_.emplace(Stopping::Settings{settings_.stop_loss, settings_.seed, settings_.threads}, std::move(counts));
  }

  TrainingEnd run(WorkDirectory& work) {
    // The state goes when the result is whole.
    if (fs::exists(t_.dir / t_.result) && !fs::exists(t_.dir / state_file)) {
      std::error_code code;
      fs::remove(t_.dir / best_file, code);
      work.finish(RunStatus::complete);
      return TrainingEnd::complete;
    }
    load();
    std::vector<std::string_view> columns = {"step", "tokens", "targets", "loss", "lr", "grad_norm", "left"};
    const std::vector<std::string> of_routing = t_.routing ? t_.routing->columns() : std::vector<std::string>();
    columns.insert(columns.end(), of_routing.begin(), of_routing.end());
    log_.emplace(t_.dir / log_file, columns, state_.step);
    if (!t_.held_out.empty())
      evals_.emplace(t_.dir / eval_file,
                     std::vector<std::string_view>{"step", "records", "targets", "loss", "change", "ci_lo", "ci_hi"},
                     state_.eval_rows);
    if (stopping_)
      stops_.emplace(t_.dir / stop_file,
                     std::vector<std::string_view>{"step", "loss", "change", "ci_lo", "ci_hi", "kept", "best"},
                     state_.stop_rows);
    if (state_.step > 0 && t_.on_kept) t_.on_kept(state_.step, state_.tokens);
    if (state_.eval_rows == 0) evaluate();
    if (state_.stop_rows == 0) look();
    while (state_.step < settings_.steps() && !(stopping_ && stopping_->ended())) {
      if (t_.interrupted && *t_.interrupted) {
        save();
        work.finish(RunStatus::interrupted);
        return TrainingEnd::interrupted;
      }
      step();
      const bool last = state_.step == settings_.steps();
      if (last || (settings_.save_every > 0 && state_.step % settings_.save_every == 0)) {
        evaluate();
        look();
        save();
      }
    }
    finish();
    work.finish(RunStatus::complete);
    return TrainingEnd::complete;
  }

 private:
  void load() {
    const fs::path file = t_.dir / state_file;
    if (!fs::exists(file)) return;
    const auto stored = safetensors::File::open(file);
    const auto number = [&](const char* key) {
      const auto found = stored->metadata().find(key);
      if (found == stored->metadata().end())
        throw Error(file.string(), std::string("expected a state of a training, found none of its key ") + key);
      return std::stoll(found->second);
    };
    t_.trained->load(*stored);
    state_.step = number("step");
    state_.tokens = number("tokens");
    state_.eval_rows = number("eval_rows");
    state_.first = list_of(*stored, "held_out");
    if (state_.first.size() != (state_.eval_rows > 0 ? t_.held_out.size() : 0))
      throw Error(file.string(), "expected held-out losses of " + std::to_string(t_.held_out.size()) +
                                     " records, found " + std::to_string(state_.first.size()));
    if (t_.routing) t_.routing->restore(list_of(*stored, "routing"));
    if (!stopping_) return;
    state_.stop_rows = number("stop_rows");
    stopping_->restore(list_of(*stored, "stop"));
  }

  void save() {
    log_->sync();
    if (evals_) evals_->sync();
    if (stops_) stops_->sync();
    t_.trained->save(t_.dir / state_file, now());
  }

  Trained::More now() const {
    Trained::More more;
    more.metadata = {{"schema", state_schema},
                     {"step", std::to_string(state_.step)},
                     {"tokens", std::to_string(state_.tokens)},
                     {"eval_rows", std::to_string(state_.eval_rows)}};
    more.lists["held_out"] = state_.first;
    if (t_.routing) more.lists["routing"] = t_.routing->state();
    if (!stopping_) return more;
    more.metadata["stop_rows"] = std::to_string(state_.stop_rows);
    more.lists["stop"] = stopping_->state();
    return more;
  }

  // Ends the training at a step that cannot be taken, with the state before it in its file.
  [[noreturn]] void stop_before(int64_t step, const std::vector<const Example*>& examples, const std::string& why) {
    save();
    std::vector<std::string> ids;
    for (const Example* example : examples) ids.push_back(in_quotes(example->prompt->id));
    throw Error("step " + std::to_string(step),
                why + " on the records " + joined(ids) + " (the state before this step is kept)");
  }

  void step() {
    const int64_t step = state_.step + 1;
    std::vector<const Example*> examples;
    int64_t n_tokens = 0, n_targets = 0;
    for (const int64_t i :
         records_of_step(static_cast<int64_t>(t_.data.size()), settings_.batch, settings_.seed, step)) {
      examples.push_back(&t_.data[static_cast<size_t>(i)]);
      n_tokens += examples.back()->n_tokens();
      n_targets += examples.back()->n_targets();
    }
    t_.trained->zero_sums();
    double loss = 0, whole = 0, norm = 0;
    try {
      if (t_.routing) t_.routing->begin_step(gradient_.forward(), examples, settings_.groups);
      const auto denominator = static_cast<double>(n_targets);
      const std::vector<double> sums =
          t_.objective
              ? t_.objective->losses_and_slopes(gradient_, examples, settings_.groups, denominator, *t_.trained)
              : losses_and_slopes(gradient_, examples, settings_.groups, denominator, *t_.trained, {});
      loss = std::accumulate(sums.begin(), sums.end(), 0.0) / denominator;
      whole = loss + (t_.routing ? t_.routing->finish_slopes() : 0);
      norm = t_.trained->gradient_norm();
    } catch (const Error& error) {  // such as logits of a router that are not finite
      stop_before(step, examples, error.what());
    }
    if (!std::isfinite(whole) || !std::isfinite(norm))
      stop_before(step, examples,
                  std::string("expected a finite ") + (std::isfinite(whole) ? "gradient" : "loss") + ", found " +
                      short_number(std::isfinite(whole) ? norm : whole));
    const double lr = settings_.lr * settings_.schedule.factor(step);
    const int64_t left = t_.trained->step(settings_.adam, lr, clip_factor(norm, settings_.clip));
    state_.step = step;
    state_.tokens += n_tokens;
    log_->row().cell(step).cell(state_.tokens).cell(n_targets).cell(loss).cell(lr).cell(norm).cell(left);
    if (t_.routing) {
      for (const double value : t_.routing->values()) log_->row().cell(value);
      t_.routing->after_step();
    }
    log_->end();
    if (t_.on_step) t_.on_step(step, state_.tokens, loss);
  }

  // Of held-out records, by the weights as they are. Throws Error naming step, flag and record where one is not finite.
  std::vector<double> losses(const std::vector<Example>& of, const char* flag) {
    const std::string where = "step " + std::to_string(state_.step) + ", " + flag;
    const std::vector<const Example*> examples = all_of(of);
    std::vector<double> sums;
    try {
      sums = t_.objective ? t_.objective->losses(gradient_.forward(), examples, settings_.groups)
                          : losses_of(gradient_.forward(), examples, settings_.groups, {});
    } catch (const Error& error) {  // such as logits of a router that are not finite
      throw Error(where, error.what());
    }
    for (size_t i = 0; i < sums.size(); ++i)
      if (!std::isfinite(sums[i]))
        throw Error(where, "expected a finite loss of the record " + in_quotes(of[i].prompt->id) + ", found " +
                               short_number(sums[i]));
    return sums;
  }

  // A row of eval.csv for the weights as they are.
  void evaluate() {
    if (t_.held_out.empty()) return;
    const std::vector<double> sums = losses(t_.held_out, "--eval");
    if (state_.eval_rows == 0) state_.first = sums;
    ClusteredValues changes;
    double sum = 0;
    for (size_t i = 0; i < sums.size(); ++i) {
      changes.sums.push_back(sums[i] - state_.first[i]);
      changes.counts.push_back(static_cast<double>(t_.held_out[i].n_targets()));
      sum += sums[i];
    }
    const int64_t n_targets = count_targets(t_.held_out);
    const double loss = sum / static_cast<double>(n_targets);
    const MeanEstimate change =
        bootstrap_means({&changes, 1}, settings_.seed, default_resamples, settings_.threads).front();
    evals_->row().cell(state_.step).cell(static_cast<int64_t>(sums.size())).cell(n_targets).cell(loss);
    evals_->row().cell(change.mean).cell(change.ci.lo).cell(change.ci.hi);
    evals_->end();
    ++state_.eval_rows;
    if (t_.on_eval) t_.on_eval(state_.step, change, loss);
  }

  // A row of stop.csv, and the best weights so far in a file of their own.
  void look() {
    if (!stopping_) return;
    const Stopping::Look found = stopping_->look(state_.step, losses(t_.stop, "--stop"));
    stops_->row().cell(found.step).cell(found.loss).cell(found.change.mean).cell(found.change.ci.lo);
    stops_->row().cell(found.change.ci.hi).cell(int64_t{found.kept}).cell(int64_t{found.best});
    stops_->end();
    ++state_.stop_rows;
    if (found.best) t_.trained->save(t_.dir / best_file, now());
    if (t_.on_look) t_.on_look(found);
  }

  // Weights, and what of the routing goes with them, of the best look.
  void load_best() {
    const auto stored = safetensors::File::open(t_.dir / best_file);
    t_.trained->load(*stored);
    if (t_.routing) t_.routing->restore(list_of(*stored, "routing"));
  }

  void finish() {
    std::error_code code;
    if (stopping_) load_best();
    // Of a process that was killed while it wrote, or right after it.
    for (const auto& entry : fs::directory_iterator(t_.dir))
      if (entry.is_directory() && entry.path().filename().string().starts_with(t_.result))
        fs::remove_all(entry.path(), code);
    t_.write_result();
    fs::remove(t_.dir / state_file, code);
    fs::remove(t_.dir / best_file, code);
  }

  const Training& t_;
  const TrainingSettings& settings_;
  Gradient gradient_;
  State state_;
  std::optional<Stopping> stopping_;
  std::optional<RowFile> log_, evals_, stops_;
};

}  // namespace

std::vector<int64_t> records_of_step(int64_t n_records, int64_t batch, uint64_t seed, int64_t step) {
  std::vector<int64_t> records, order;
  int64_t pass = -1;
  for (int64_t at = (step - 1) * batch; at < step * batch; ++at) {
    if (at / n_records != pass) order = shuffled(n_records, seed, pass = at / n_records);
    records.push_back(order[static_cast<size_t>(at % n_records)]);
  }
  return records;
}

int64_t tokens_of_steps(const std::vector<Example>& data, const TrainingSettings& settings, int64_t steps) {
  const auto n_records = static_cast<int64_t>(data.size()), n = steps * settings.batch;
  int64_t one_pass = 0;
  for (const Example& example : data) one_pass += example.n_tokens();
  int64_t tokens = n / n_records * one_pass;
  const std::vector<int64_t> order = shuffled(n_records, settings.seed, n / n_records);
  for (int64_t i = 0; i < n % n_records; ++i)
    tokens += data[static_cast<size_t>(order[static_cast<size_t>(i)])].n_tokens();
  return tokens;
}

TrainingEnd train(const Training& training) {
  WorkDirectory work(training.dir, training.manifest);
  if (work.complete()) return TrainingEnd::was_complete;
  return Loop(training).run(work);
}

}  // namespace signalbox::train
