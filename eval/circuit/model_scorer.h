// The scorer that asks a model: pairs of records, each run with some parts at work and the rest ablated, through the
// one forward and its edits. Sequences of one step are of several pairs.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/namespaces.h"
#include "engine/session.h"
#include "eval/causal/pairs.h"
#include "eval/circuit/ablated_pair.h"
#include "eval/circuit/positions.h"
#include "eval/circuit/scorer.h"

namespace signalbox::eval {

struct ScorerSetup {
  CircuitAblation ablation = CircuitAblation::corrupt;
  std::shared_ptr<const PartMeans> means;             // of CircuitAblation::mean
  std::shared_ptr<const CircuitPositions> positions;  // null: parts are of all tokens
  std::vector<NodeId> out;                            // ablated in every run, also the whole model's
  // The corrupt record is run, and ablated parts write what they wrote on the clean one (denoising).
  bool reverse = false;
  int64_t batch = 8, batch_tokens = 1024;  // sequences and tokens of one step at most, but for one that is longer
  const std::atomic<bool>* interrupted = nullptr;
  std::shared_ptr<RunLog> log = {};  // of results, under `name`; null: they are kept nowhere
  std::string name = {};
  std::function<void(int64_t runs)> on_runs;  // how many more runs of a pair are done; may be empty
};

// What ends the work when setup.interrupted is set.
struct CircuitInterrupted {};

class ModelScorer : public CircuitScorer {
 public:
  // Runs both records of every pair. `made`: jobs without edits. Session and jobs outlive this. Throws what the forward
  // throws, and CircuitInterrupted.
  ModelScorer(const engine::Session& session, const RecordJobs& made, const std::vector<CausalPair>& pairs,
              ScorerSetup setup);

  const std::vector<NodeId>& nodes() const override { return nodes_; }
  size_t n_pairs() const override { return pairs_.size(); }
  const std::vector<double>& usage() const override { return usage_; }
  const NodeMask& active() const override { return active_; }
  const NodeMask& differing() const override { return differing_; }
  const std::vector<double>& whole() const override { return whole_; }
  const std::vector<double>& none() const override { return none_; }

  // The embedding, at every position where parts are told apart by them.
  std::vector<NodeId> embeddings() const;
  const AblatedPair& pair(size_t i) const { return *pairs_[i]; }
  const MetricRows& rows(size_t i) const { return rows_[i]; }
  // The metric of pair i's base record, run once for each of these edits (null: unedited).
  std::vector<double> metrics(size_t i, std::span<const std::shared_ptr<const BoundEdits>> edits);
  // Of logits [n_rows, n_vocab] of pair i.
  double metric_of(size_t i, Tensor logits) const;
  // What kl compares them with.
  Tensor reference(size_t i) const { return clean_.empty() ? pairs_[i]->run().logits : clean_[i].logits; }
  const engine::Session& session() const { return session_; }
  void require_running() const;  // throws CircuitInterrupted
  void count_runs(int64_t n) const {
    if (setup_.on_runs) setup_.on_runs(n);
  }

 protected:
  std::vector<double> run(const NodeMask& kept) override;

 private:
  struct Run {
    size_t pair = 0;
    std::shared_ptr<const BoundEdits> edits;
  };
  std::vector<double> run_all(std::span<const Run> runs);
  std::vector<double> run_without(const std::vector<NodeId>& ablated);

  const engine::Session& session_;
  ScorerSetup setup_;
  std::vector<NodeId> nodes_;
  std::vector<std::unique_ptr<AblatedPair>> pairs_;
  std::vector<MetricRows> rows_;
  std::vector<RecordedRun> clean_;  // of kl: the clean runs' logits; else empty
  std::vector<double> usage_, whole_, none_;
  NodeMask active_, differing_;
  engine::Forward forward_;
};

}  // namespace signalbox::eval
