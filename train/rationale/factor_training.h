// Training of one rationale model: from a corpus and a seed to weights, assignments and what they are worth.
//
// Step s takes the next `batch` training sentences of an endless list of shuffled passes (train/training.h); an epoch
// is as many steps as one pass takes, rounded up. AdamW in f32, as PyTorch's; losses and gradients in double. Bits
// depend on corpus, settings and seed alone: not on threads or interruptions.
#pragma once
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "eval/rationale/factor_scores.h"
#include "train/adamw.h"
#include "train/rationale/factor_corpus.h"
#include "train/rationale/factor_losses.h"
#include "train/schedule.h"

namespace signalbox::train {

struct FactorSettings {
  int64_t n_factors = 2, d_factor = 0;  // 0: as wide as the states
  bool shared = false;                  // one f for all factors
  FactorForms forms;
  FactorLosses weights = {1, 1, 0.01, 0.01, 0.01, 0.01, 0};
  // States and embeddings, each: minus their mean over the training part, divided by the root of their mean square.
  bool standardize = false;
  // Where W_g begins: at random, or at states of the training part that lie apart (drawn as k-means++ does).
  enum class Start : uint8_t { random, tokens } start = Start::tokens;
  double entropy_ramp = 0;  // in this share of the steps the weight of the entropy rises from 0
  int64_t epochs = 30, batch = 32;
  double lr = 1e-2;
  Shape schedule = Shape::cosine;
  double warmup = 0.05, end = 0.1;  // shares: of the steps, of the rate
  AdamW adam;                       // its decay is that of all four maps
  double clip = 1;
  int64_t save_every = 0;  // steps between states to go on from; 0: at every epoch's end
  bool word_level = true;  // gold labels are compared by words; else by rows that are of a word
  int64_t resamples = eval::default_resamples, permutations = 200;
};

// "document": document 003 as it stands. "clusters": what finds clusters of tokens (docs/rationales.md says why).
// "repository": as simonelusetti/MoE at cf01440 trains. Throws UsageError that begins with `where`.
FactorSettings factor_recipe(const std::string& name, const std::string& where);
inline constexpr const char* factor_recipes = "document, clusters or repository";

// The corpus as the model sees it.
struct PreparedCorpus {
  const FactorCorpus* corpus = nullptr;
  std::vector<double> hidden_mean, target_mean;  // empty: as it is
  double hidden_scale = 1, target_scale = 1;     // what they are divided by
  std::vector<int64_t> sentences[3];             // by FactorSplit
  FactorBatch batch(std::span<const int64_t> sentences) const;
};
PreparedCorpus prepare_corpus(const FactorCorpus& corpus, bool standardize);

FactorParameters first_parameters(const PreparedCorpus& corpus, const FactorSettings& settings, uint64_t seed);
// Mean of each loss over sentences, in batches of `batch`.
FactorLosses evaluate_factors(const FactorParameters& parameters, const PreparedCorpus& corpus,
                              std::span<const int64_t> sentences, const FactorSettings& settings, ThreadPool& pool);

struct FactorTraining {
  const PreparedCorpus* corpus = nullptr;
  FactorSettings settings;
  uint64_t seed = 0;
  std::filesystem::path dir;
  ThreadPool* pool = nullptr;
  std::function<void(int64_t step, double loss)> on_step;  // may be empty
  std::function<void(int64_t step)> on_kept;               // where an earlier process got to; may be empty
  const std::atomic<bool>* interrupted = nullptr;
};
int64_t factor_steps(const PreparedCorpus& corpus, const FactorSettings& settings);

// The files of one model.
inline constexpr const char *factor_log = "log.csv", *factor_metrics = "metrics.csv",
                            *factor_weights = "weights.safetensors", *factor_outputs = "factors.safetensors",
                            *factor_prf = "prf.csv", *factor_contingency = "contingency.csv",
                            *factor_scores_file = "scores.json", *factor_state = "state.safetensors";

// Fills `dir`: log.csv (a row a step), metrics.csv (a row a part and epoch, from before the first step on),
// weights.safetensors, factors.safetensors, prf.csv, contingency.csv and last scores.json; until then also
// state.safetensors, from which a second call goes on to the same bytes. False: interrupted. Throws Error where a loss
// or a gradient is not finite, naming the step.
bool train_factors(const FactorTraining& training);

// What train_factors left, for comparisons between models.
struct FactorModelScores {
  double validation_total = 0, validation_token = 0;
  std::optional<double> macro_f1, micro_f1, many_to_one_f1, v_measure, adjusted_rand;  // with gold
  std::vector<int32_t> test_factors;  // of the units of the test part (validation, then training where there is none)
};
FactorModelScores read_factor_scores(const PreparedCorpus& corpus, const FactorSettings& settings,
                                     const std::filesystem::path& dir);

}  // namespace signalbox::train
