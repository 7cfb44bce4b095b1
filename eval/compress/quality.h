// What is left of a model: perplexity, and how far its predictions are from the original's, on records that no plan was
// made from.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/namespaces.h"
#include "engine/runner.h"
#include "eval/statistics/paired.h"
#include "eval/statistics/resampling.h"
#include "probes/sink.h"

namespace signalbox::eval {

// Over all predicted tokens: every token of every record but its first.
struct Quality {
  int64_t tokens = 0;
  double ppl = 0;        // exp(-mean log p)
  double kl = 0;         // mean KL(original || this) over the vocabulary, nats
  double agreement = 0;  // share of tokens at which both have the same most probable token (ties to the lowest id)
  // 95 %, percentile bootstrap over examples; NaN for a single one.
  Interval ppl_ci, kl_ci, agreement_ci;
};

// What a comparison adds to a plain run of the jobs. Both may be null.
struct ComparedRun {
  std::shared_ptr<const EditPlan> plan;  // of all jobs
  ProbeSink* beside = nullptr;           // is handed what it wants, too; not logits
};

class QualityMeasure {
 public:
  // `jobs`: given tokens, indices from 0 on in their order; `examples` [jobs]: records of one label are drawn together.
  // Keeps the original's logits in a file without a name in `directory`: tokens * n_vocab * 4 bytes. Throws Error where
  // no token is predicted.
  QualityMeasure(std::vector<Job> jobs, std::vector<int64_t> examples, int64_t n_vocab,
                 const std::filesystem::path& directory, int threads, uint64_t seed);
  ~QualityMeasure();
  QualityMeasure(const QualityMeasure&) = delete;
  QualityMeasure& operator=(const QualityMeasure&) = delete;

  int64_t n_predicted() const;  // tokens
  int64_t n_tokens() const;     // of all records: what a run runs
  int64_t bytes() const;        // of the file

  // First the original, then others of the same vocabulary. Throws Error, and what events.on_progress throws.
  Quality original(Forward& forward, const RunOptions& run, const RunEvents& events, ProbeSink* beside = nullptr);
  Quality compared(Forward& forward, const RunOptions& run, const RunEvents& events, const ComparedRun& with = {});
  // The one that was measured last, over some of the jobs.
  Quality of(std::span<const size_t> jobs) const;
  // Of each predicted token: -log p under the model that was measured last, and the unit that it is drawn with.
  UnitValues nll() const;

 private:
  class Rows;
  Quality measure(Forward& forward, const RunOptions& run, const RunEvents& events, bool reference,
                  const ComparedRun& with);
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace signalbox::eval
