// How alike the experts of two models are, measured on the same tokens (docs/transplants.md has the definitions).
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "train/basis_map.h"
#include "train/paired_states.h"

namespace signalbox::train {

// Expert a of a layer of the first model, expert b of a layer of the second. Not computed, or not defined: NaN.
struct ExpertLikeness {
  int32_t expert_a = 0, expert_b = 0;
  double weight = no_number;             // cosine of the canonical parameters (eval/compress/neurons.h), a in b's basis
  double function = no_number;           // mean over tokens of the cosine of both outputs, a's in b's basis
  double cka = no_number;                // linear, by the unbiased estimator of HSIC, of both outputs
  double routing = no_number;            // Jaccard index of the sets of tokens that select them
  double function_selected = no_number;  // function, of the tokens that select a
  double error = no_number, error_selected = no_number;  // |f_a - f_b| / |f_b|, likewise
  double svcca = no_number;  // mean canonical correlation of the subspaces of 99 % of both variances
};

struct LayerLikeness {
  int32_t layer_a = 0, layer_b = 0, n_a = 0, n_b = 0;
  BasisMap map;
  std::vector<ExpertLikeness> pairs;  // [n_a, n_b]
  std::vector<int32_t> matched;       // [n_a] the b of each a under the assignment with the largest sum of function; -1
  double matched_mean = no_number;    // of function, over the assignment
  double all_mean = no_number;        // over all pairs: what a random assignment has
  double random_mean = no_number;     // over the best assignment to experts of b that read their input shuffled
  std::string no_weight;              // why the weights were not compared; empty: they were
};

struct LikenessOptions {
  std::vector<std::pair<int32_t, int32_t>> layers;  // of a, of b; both with routers
  Basis basis = Basis::automatic;
  double ridge = 0.01;
  int64_t states = 0;  // tokens on which experts are run, drawn by seed; 0: eight times the wider model's dimensions
  int64_t pairs = -1;  // of each two layers: those whose weights and representations are compared, of the highest
                       // function; -1: what 1e13 products allow, at least one
  bool svcca = false;
  uint64_t seed = 0;
  int threads = 1;
  std::string isa = "auto";
  // Stages one after the other, each counting up to its total; may throw to end the work.
  std::function<void(const std::string& stage, int64_t done, int64_t total, const char* unit)> on_progress;
};

// One model: its session, and its weights in host memory.
struct ModelSide {
  const Session* session = nullptr;
  const Weights* weights = nullptr;
};

struct LikenessResult {
  std::vector<LayerLikeness> layers;
  int64_t tokens = 0, states = 0;  // paired; of these those on which experts were run
  int64_t needed = 0;              // states that CKA needs: 4 d of the wider model. With fewer it is left out
};

// Throws Error, and what on_progress throws.
LikenessResult compare_experts(const ModelSide& a, const ModelSide& b, const PairedTokens& tokens,
                               const std::vector<int64_t>& examples, const LikenessOptions& options);

// The unbiased estimate of HSIC of two linear kernels over n > 3 tokens (Song et al. 2012), from the products of the
// centred columns. cross [d_a, d_b] = X'Y; squares_a, squares_b [n]: |x_t|^2, |y_t|^2.
double unbiased_hsic(const std::vector<float>& cross, const std::vector<double>& squares_a,
                     const std::vector<double>& squares_b);

// What stands where the experts of two layers read: for fit_basis. `examples` [states].
StatePairs state_pairs(const Session& a, int32_t layer_a, const LayerStates& states_a, const Weights& weights_a,
                       const Session& b, int32_t layer_b, const LayerStates& states_b, const Weights& weights_b,
                       const std::vector<int64_t>& examples);

// `n` of `total`, drawn by seed, ascending; all where there are no more.
std::vector<int64_t> drawn_tokens(int64_t total, int64_t n, uint64_t seed);

// What experts of a layer read: [n, d_model], of recorded resid_mid.
std::vector<float> expert_inputs(Backend& backend, const Model& model, const Weights& weights, int32_t layer,
                                 const std::vector<float>& mid);

}  // namespace signalbox::train
