// Many changed runs of one record from the middle on: each begins where a layer begins, at its first changed token,
// with the unedited run's residual stream and over its keys and values, and several run in one step. What a cell gives
// is what a whole run with the same change gives, bit for bit on the CPU.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "engine/session.h"
#include "eval/causal/metric.h"
#include "eval/causal/recorded_run.h"

namespace signalbox::eval {

// A changed run: rows of the stream where its layer begins, or an edit of later points, or both.
struct RunCell {
  int64_t first = 0;               // the first token that changes
  std::vector<int64_t> positions;  // of the rows that are others
  std::vector<float> rows;         // [positions, d_model]
  std::shared_ptr<const EditPlan> plan;
};

struct CellEffect {
  double effect = 0;    // metric - base_value()
  int64_t flipped = 0;  // (token, layer) routes whose set of experts became another
};

class CellRunner {
 public:
  // Runs the record and keeps what `globs` name, with *.router.ids, *.router.weights and the stream of every layer.
  // `step_tokens` and `step_cells`: of one step, at most (a cell alone may have more tokens).
  // `plan`: edits of that run, all of points before those at which cells change; null: none. All arguments outlive
  // this.
  CellRunner(const engine::Session& session, const engine::Job& job, const MetricRows& rows, const std::string& globs,
             int64_t step_tokens, int64_t step_cells, std::shared_ptr<const EditPlan> plan = nullptr);

  std::shared_ptr<const ActivationStore> base() const { return base_.store; }
  Tensor logits() const { return base_.logits; }
  // kl is against these; absent: against the unedited run. Makes base_value().
  void measure_against(Tensor reference);
  double base_value() const { return value_; }
  int64_t n_tokens() const { return job_.n_given(); }
  // The unedited run's stream where a layer begins; n_layers: behind the last. [d_model]
  std::span<const float> stream(int32_t entry, int64_t position) const;
  // Layers with a router from this one on.
  int64_t routed_layers(int32_t first) const;

  // The end of the step that begins with cell `begin`, of cells that first change at these tokens.
  size_t step_end(std::span<const int64_t> firsts, size_t begin) const;
  // One step. `entry`: the layer where the cells begin, n_layers: the final norm. Routes are compared from layer
  // `first_route` on.
  std::vector<CellEffect> run(int32_t entry, int32_t first_route, std::span<const RunCell> cells);
  // Token-layers run so far, and those of as many whole runs.
  double layers_run() const { return layers_run_; }
  double layers_of_brute_force() const { return layers_of_brute_force_; }

 private:
  // The sequence itself, and the cells of one step: one of r rows touches at most r / block_size + 2 blocks. A cell
  // alone may have all rows.
  int64_t blocks() const;
  std::pair<std::shared_ptr<void>, Tensor> scratch(int64_t rows, int64_t cols) const;

  const engine::Session& session_;
  Backend& backend_;
  const engine::Job& job_;
  const MetricRows& rows_;
  int64_t step_tokens_, step_cells_;
  engine::KvPool pool_;
  engine::SequenceCache sequence_;
  engine::Forward cells_;
  RecordedRun base_;
  Tensor reference_;
  double value_ = 0, layers_run_ = 0, layers_of_brute_force_ = 0;
};

}  // namespace signalbox::eval
