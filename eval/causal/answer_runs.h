// Runs of records with an answer, and the same with the residual stream of some tokens replaced behind a layer.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "engine/session.h"
#include "eval/causal/metric.h"

namespace signalbox::eval {

// A record's unedited run.
struct AnswerRun {
  int64_t answer = 0;              // the position that predicts the answer's first token
  double logprob = 0;              // of the answer: the metric logprob
  std::vector<int32_t> likeliest;  // [answer tokens] the likeliest token, the answer's earlier ones given
  // Of the tokens from `first` on: the stream behind each layer [n_layers, n_tokens - first, d_model], and routes
  // [layers with a router, n_tokens - first, n_active], ascending (-1: unused).
  int64_t first = 0, n_tokens = 0, d_model = 0, n_slots = 0;
  std::vector<float> streams;
  std::vector<int32_t> routes;

  std::span<const float> stream(int64_t layer, int64_t position) const {
    return std::span(streams).subspan(static_cast<size_t>((layer * (n_tokens - first) + position - first) * d_model),
                                      static_cast<size_t>(d_model));
  }
  std::span<const int32_t> route(int64_t routed_layer, int64_t position) const {
    return std::span(routes).subspan(
        static_cast<size_t>((routed_layer * (n_tokens - first) + position - first) * n_slots),
        static_cast<size_t>(n_slots));
  }
};

// Rows that stand for those of the run behind `layer` (point resid_out): positions ascending, the first at most the
// answer's; d_model values each, which live as long as the call.
struct ReplacedStream {
  int64_t layer = 0;
  std::vector<std::pair<int64_t, const float*>> rows;
};
struct AnswerValue {
  double logprob = 0;
  std::vector<int32_t> likeliest;
};

class AnswerRuns {
 public:
  // Of one step of many replaced runs, at most: rows (one alone may have more), and runs.
  explicit AnswerRuns(const engine::Session& session, int64_t step_tokens = 512, int64_t step_cells = 64);
  ~AnswerRuns();

  // Runs a record, unedited, and keeps its keys and values until the next. `rows`: of the metric logprob. `first`: from
  // which token on the streams and routes are returned; at most the answer's.
  AnswerRun run(const engine::Job& job, const MetricRows& rows, int64_t first);
  // The record that was run last, which `of` holds from the first replaced row on, with rows replaced: exact, as the
  // edit `ablate` of resid_out by these values at these positions. Only the layers behind are run.
  std::vector<AnswerValue> replaced(const AnswerRun& of, std::span<const ReplacedStream> cells);

 private:
  std::vector<AnswerValue> step(const AnswerRun& of, std::span<const ReplacedStream> cells);
  AnswerValue read(kernels::Tensor logits) const;

  const engine::Session& session_;
  kernels::Backend& backend_;
  int64_t step_tokens_, step_cells_;
  engine::Forward forward_;
  const engine::Job* job_ = nullptr;
  const MetricRows* rows_ = nullptr;
  std::optional<engine::KvPool> pool_;
  std::optional<engine::SequenceCache> sequence_;
};

// Jaccard index of two ascending routes; unused slots (-1) do not count.
double route_jaccard(std::span<const int32_t> a, std::span<const int32_t> b);
// Cosine of a - centre and b - centre; NaN where one of them is 0.
double centred_cosine(std::span<const float> a, std::span<const float> b, std::span<const double> centre);

}  // namespace signalbox::eval
