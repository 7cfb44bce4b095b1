#include "eval/compress/quality.h"

#include <unistd.h>

#include <cmath>
#include <map>
#include <numeric>
#include <span>

#include "base/files.h"
#include "base/no_number.h"
#include "base/thread_pool.h"
#include "kernels/logits.h"

namespace signalbox::eval {

struct QualityMeasure::State {
  std::vector<Job> jobs;
  std::vector<int64_t> examples, starts;  // starts [jobs]: place of a record's first predicted token
  int64_t n_vocab = 0, n_predicted = 0, n_tokens = 0;
  std::string where;
  int descriptor = -1;
  ThreadPool pool;
  uint64_t seed = 0;
  std::vector<double> log_p, divergence;  // [n_predicted]
  std::vector<uint8_t> same;
  std::vector<int32_t> top;  // the original's

  explicit State(int threads) : pool(threads) {}
  ~State() {
    if (descriptor >= 0) close(descriptor);
  }
  uint64_t offset(int64_t place) const { return static_cast<uint64_t>(place) * static_cast<uint64_t>(n_vocab) * 4; }
};

// Takes the logits of every token that predicts one.
class QualityMeasure::Rows final : public ProbeSink {
 public:
  Rows(State& state, bool reference, ProbeSink* beside) : state_(state), reference_(reference), beside_(beside) {}
  bool wants(Point point, int32_t layer) const override {
    return point == Point::logits || (beside_ && beside_->wants(point, layer));
  }
  void begin(const StepRows& rows) override {
    ranges_.assign(rows.ranges.begin(), rows.ranges.end());
    if (beside_) beside_->begin(rows);
  }
  void take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) override {
    if (beside_) beside_->take_ids(layer, ids, original_ids, n_slots);
  }
  void end() override {
    if (beside_) beside_->end();
  }
  void abandon() override {
    if (beside_) beside_->abandon();
  }
  void take(Point point, int32_t layer, const float* data, int64_t width) override {
    if (point != Point::logits) {
      beside_->take(point, layer, data, width);
      return;
    }
    struct Row {
      const float* logits;
      int64_t place;
      int32_t target;
    };
    std::vector<Row> rows;
    for (const RowRange& range : ranges_) {
      const std::vector<int32_t>& tokens = state_.jobs[static_cast<size_t>(range.sample)].prompt->tokens;
      for (int64_t r = 0; r < range.n_rows; ++r) {
        const int64_t row = range.first_row + r;
        if (row + 1 >= static_cast<int64_t>(tokens.size())) continue;
        rows.push_back({data + (range.batch_row + r) * width, state_.starts[static_cast<size_t>(range.sample)] + row,
                        tokens[static_cast<size_t>(row + 1)]});
      }
    }
    state_.pool.parallel_for(static_cast<int64_t>(rows.size()), [&](int64_t i, int) {
      const Row& row = rows[static_cast<size_t>(i)];
      const auto at = static_cast<size_t>(row.place);
      const std::span<const float> logits(row.logits, static_cast<size_t>(width));
      state_.log_p[at] = static_cast<double>(logits[static_cast<size_t>(row.target)]) - log_sum_exp(logits);
      if (reference_) {
        state_.top[at] = most_probable(logits);
        state_.divergence[at] = 0;
        state_.same[at] = 1;
        write_at(state_.descriptor, state_.offset(row.place), row.logits, logits.size_bytes(), state_.where);
        return;
      }
      std::vector<float> original(logits.size());
      read_at(state_.descriptor, state_.offset(row.place), original.data(), logits.size_bytes(), state_.where);
      state_.divergence[at] = kl_divergence(original, logits);
      state_.same[at] = most_probable(logits) == state_.top[at];
    });
  }

 private:
  State& state_;
  bool reference_;
  ProbeSink* beside_;
  std::vector<RowRange> ranges_;
};

QualityMeasure::QualityMeasure(std::vector<Job> jobs, std::vector<int64_t> examples, int64_t n_vocab,
                               const std::filesystem::path& directory, int threads, uint64_t seed)
    : state_(std::make_unique<State>(threads)) {
  State& state = *state_;
  state.jobs = std::move(jobs);
  state.examples = std::move(examples);
  state.n_vocab = n_vocab;
  state.seed = seed;
  for (const Job& job : state.jobs) {
    state.starts.push_back(state.n_predicted);
    state.n_predicted += job.n_given() - 1;
    state.n_tokens += job.n_given();
  }
  if (state.n_predicted == 0) throw Error("evaluation records", "expected a record of at least two tokens, found none");
  state.where = (directory / "logits").string();
  state.descriptor = open_unnamed(directory, state.where);
  state.log_p.resize(static_cast<size_t>(state.n_predicted));
  state.divergence.resize(state.log_p.size());
  state.same.resize(state.log_p.size());
  state.top.resize(state.log_p.size());
}

QualityMeasure::~QualityMeasure() = default;

int64_t QualityMeasure::n_predicted() const { return state_->n_predicted; }
int64_t QualityMeasure::n_tokens() const { return state_->n_tokens; }
int64_t QualityMeasure::bytes() const { return static_cast<int64_t>(state_->offset(state_->n_predicted)); }

Quality QualityMeasure::original(Forward& forward, const RunOptions& run, const RunEvents& events, ProbeSink* beside) {
  return measure(forward, run, events, true, {nullptr, beside});
}

Quality QualityMeasure::compared(Forward& forward, const RunOptions& run, const RunEvents& events,
                                 const ComparedRun& with) {
  return measure(forward, run, events, false, with);
}

Quality QualityMeasure::measure(Forward& forward, const RunOptions& run, const RunEvents& events, bool reference,
                                const ComparedRun& with) {
  State& state = *state_;
  state.log_p.assign(state.log_p.size(), no_number);  // a row that does not come shows
  Rows rows(state, reference, with.beside);
  for (Job& job : state.jobs) job.plan = with.plan;
  run_jobs(forward, state.jobs, run, events, &rows);
  std::vector<size_t> all(state.jobs.size());
  std::iota(all.begin(), all.end(), size_t{0});
  return of(all);
}

UnitValues QualityMeasure::nll() const {
  const State& state = *state_;
  UnitValues out;
  for (size_t j = 0; j < state.jobs.size(); ++j)
    for (int64_t i = 0; i + 1 < state.jobs[j].n_given(); ++i)
      out.add(-state.log_p[static_cast<size_t>(state.starts[j] + i)], state.examples[j]);
  return out;
}

Quality QualityMeasure::of(std::span<const size_t> jobs) const {
  const State& state = *state_;
  Quality out;
  UnitValues log_ps, divergences, agreements;
  for (const size_t j : jobs)
    for (int64_t i = 0; i + 1 < state.jobs[j].n_given(); ++i) {
      const auto at = static_cast<size_t>(state.starts[j] + i);
      log_ps.add(state.log_p[at], state.examples[j]);
      divergences.add(state.divergence[at], state.examples[j]);
      agreements.add(state.same[at], state.examples[j]);
    }
  double log_p = 0;
  for (size_t i = 0; i < log_ps.values.size(); ++i) {
    log_p += log_ps.values[i];
    out.kl += divergences.values[i];
    out.agreement += agreements.values[i];
  }
  out.tokens = static_cast<int64_t>(log_ps.values.size());
  const auto n = static_cast<double>(out.tokens);
  out.ppl = std::exp(-log_p / n);
  out.kl /= n;
  out.agreement /= n;
  const ClusteredValues columns[] = {log_ps.clustered(), divergences.clustered(), agreements.clustered()};
  const std::vector<MeanEstimate> means =
      bootstrap_means(columns, state.seed, default_resamples, state.pool.n_threads());
  out.ppl_ci = {std::exp(-means[0].ci.hi), std::exp(-means[0].ci.lo)};
  out.kl_ci = means[1].ci;
  out.agreement_ci = means[2].ci;
  return out;
}

}  // namespace signalbox::eval
