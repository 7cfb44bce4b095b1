// A layer's experts as one feed-forward block: the chosen experts' neurons side by side, each down-projection times
// what the expert weighs on average, and the shared expert's behind them.
//
//   gate, up: rows of the experts kept, stacked; down: columns of expert e times alpha_e
//   alpha_e = scale / K in routers whose weights add up to `scale`, else E[w_e | e is selected], as applied
//   shared: as it is, or times the mean of its sigmoid gate, which a block without a router cannot have
//
// The block answers as the layer does where the router gives each token the same route. Sources: arXiv 2605.28207, and
// PEFT's conversion of mixtures to dense models.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/thread_pool.h"
#include "engine/changed_model.h"
#include "engine/session.h"
#include "eval/compress/measure.h"
#include "train/examples.h"
#include "train/namespaces.h"
#include "train/sequence_groups.h"

namespace signalbox::train {

// How the experts of a layer are ranked, on the calibration records. Weights are those applied.
enum class KeepScore : uint8_t {
  sf,      // share of tokens that select it
  cp,      // mean weight over the tokens that select it
  acp,     // mean weight over all tokens
  do_acp,  // greedily the largest log-determinant of the Gram matrix of outputs times acp: used, and unlike the others
  reap,    // mean over the tokens that select it of weight times length of the output
};
inline constexpr const char* keep_score_names[] = {"sf", "cp", "acp", "do-acp", "reap"};

// What the calibration records say of a model's experts.
struct Calibration {
  std::vector<LayerMeasures> layers;  // with the inputs of `sampled` tokens
  std::vector<double> shared_gate;    // [layers] mean of the shared expert's sigmoid gate; 1 where it has none
  int64_t tokens = 0, sampled = 0;
};
// Runs the teacher on whole sequences. `on_progress` is told tokens, and may throw.
Calibration calibrate(Forward& teacher, const Weights& host, const ModelShape& shape,
                      std::span<const Example* const> examples, int64_t sample, uint64_t seed, const Groups& groups,
                      int threads, const std::function<void(int64_t)>& on_progress);

// The experts of a layer that stay, ascending, and what they weigh.
struct BlockChoice {
  int32_t layer = 0;
  std::vector<int32_t> keep;
  std::vector<double> alpha;  // of keep
  double shared = 1;
};
// Ties go to the lower id, experts that no token selects come last. Throws Error naming --keep: none, or more than
// there are.
std::vector<BlockChoice> best_choice(const Model& model, const Weights& host, const Calibration& calibration,
                                     int64_t keep, KeepScore score, Backend& backend);
std::vector<BlockChoice> random_choice(const Model& model, const Calibration& calibration, int64_t keep, uint64_t seed);

// Neurons of a block of `keep` experts, those of the shared expert included: the most of any layer.
// Throws Error, beginning with "--keep", where a layer has fewer experts.
int64_t block_width(const Model& model, int64_t keep);

// One block, f32, [n, d_model] and [d_model, n]. Biases (all or none): of the experts' own.
struct Block {
  int32_t layer = 0;
  int64_t n = 0, d = 0;
  std::vector<float> gate, up, down, gate_bias, up_bias, down_bias;
  // As the only expert of a router that gives it weight 1.
  struct Views {
    Matrix gate, up, down;
    Vector gate_bias, up_bias, down_bias;
    bool biases = false;
    ExpertMatrices experts() const;
  };
  Views views() const;
};
// The neurons of `choice`, then silent ones up to `width`.
Block concatenated(const Model& model, const Weights& host, const BlockChoice& choice, int64_t width);

// hidden [rows, n] and out [rows, d] of rows x [rows, d], f32 of the backend.
void run_block(Backend& backend, const ExpertMatrices& block, const Activation& activation, Tensor x, Tensor hidden,
               Tensor out);

// How far a block's answers are from the layer's, |Y - y|^2 / |Y|^2 over the calibration tokens.
struct BlockFit {
  int32_t layer = 0;
  double mean_square = 0;  // of |Y|^2, over tokens
  double before = 0, after = 0;
};
struct RefitSettings {
  double ridge = 0;  // lambda as a share; below 0: the blocks stay as they are, and `after` is `before`
  Groups groups;
  int64_t memory = int64_t{4} << 30;  // bytes of sums at once: more layers than fit take further runs of the teacher
  std::function<void(int64_t tokens, int64_t of)> on_progress;  // may throw
};
// The down-projections of `blocks`, one of each layer with a router, fitted to what the teacher's layers answer to
// their own inputs (train/refit.h).
std::vector<BlockFit> refit(Forward& teacher, std::span<const Example* const> examples, std::vector<Block>& blocks,
                            const RefitSettings& settings, ThreadPool& pool);

// The student: `model` of Rewrite::with_one_block, blocks rounded to `dtype`, all else of the original.
ChangedModel with_blocks(const Model& original, const Weights& host, const Model& model,
                         const std::vector<Block>& blocks, DType dtype);

}  // namespace signalbox::train
