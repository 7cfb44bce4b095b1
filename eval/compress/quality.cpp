#include "eval/compress/quality.h"

#include <unistd.h>

#include <cmath>
#include <map>
#include <span>

#include "base/files.h"
#include "base/no_number.h"
#include "base/thread_pool.h"
#include "eval/statistics/paired.h"
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
  Rows(State& state, bool reference) : state_(state), reference_(reference) {}
  bool wants(Point point, int32_t) const override { return point == Point::logits; }
  void begin(const StepRows& rows) override { ranges_.assign(rows.ranges.begin(), rows.ranges.end()); }
  void take_ids(int32_t, const int32_t*, const int32_t*, int64_t) override {}
  void end() override {}
  void take(Point, int32_t, const float* data, int64_t width) override {
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

Quality QualityMeasure::original(Forward& forward, const RunOptions& run, const RunEvents& events) {
  return measure(forward, run, events, true);
}

Quality QualityMeasure::compared(Forward& forward, const RunOptions& run, const RunEvents& events) {
  return measure(forward, run, events, false);
}

Quality QualityMeasure::measure(Forward& forward, const RunOptions& run, const RunEvents& events, bool reference) {
  State& state = *state_;
  state.log_p.assign(state.log_p.size(), no_number);  // a row that does not come shows
  Rows rows(state, reference);
  run_jobs(forward, state.jobs, run, events, &rows);
  Quality out;
  out.tokens = state.n_predicted;
  double log_p = 0;
  UnitValues divergences;
  for (size_t j = 0; j < state.jobs.size(); ++j)
    for (int64_t i = 0; i + 1 < state.jobs[j].n_given(); ++i) {
      const auto at = static_cast<size_t>(state.starts[j] + i);
      log_p += state.log_p[at];
      out.kl += state.divergence[at];
      out.agreement += state.same[at];
      divergences.add(state.divergence[at], state.examples[j]);
    }
  const auto n = static_cast<double>(state.n_predicted);
  out.ppl = std::exp(-log_p / n);
  out.kl /= n;
  out.agreement /= n;
  const ClusteredValues column = divergences.clustered();
  out.kl_ci = bootstrap_means(std::span(&column, 1), state.seed, default_resamples, state.pool.n_threads()).front().ci;
  return out;
}

}  // namespace signalbox::eval
