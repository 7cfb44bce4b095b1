// Rationale models of several seeds and numbers of factors, and what they agree on.
#pragma once
#include "eval/store/manifest.h"
#include "train/rationale/factor_training.h"

namespace signalbox::train {

inline constexpr const char* rationale_schema = "signalbox.rationale/1";  // of manifest.json
// Seeds whose assignments agree this far have found the same factors.
inline constexpr double steady_agreement = 0.8;

struct FactorStudy {
  const FactorCorpus* corpus = nullptr;
  FactorSettings settings;         // its n_factors is not looked at
  std::vector<int64_t> n_factors;  // ascending
  uint64_t seed = 0;               // the first of
  int64_t n_seeds = 1;             // so many that follow each other
  std::filesystem::path dir;
  Manifest manifest;
  int threads = 1;
  std::function<void(int64_t model, int64_t step, double loss)> on_step;
  std::function<void(int64_t model, int64_t step)> on_kept;
  const std::atomic<bool>* interrupted = nullptr;
};

// Mean adjusted Rand index over pairs of divisions of the same units into n classes; no_number for fewer than two.
double mean_agreement(const std::vector<std::vector<int32_t>>& divisions, int64_t n_classes);

struct FactorChoice {
  int64_t n_factors = 0;
  uint64_t seed = 0;
  double agreement = 0;
};

enum class FactorStudyEnd : uint8_t { complete, was_complete, interrupted };

// One model: its files stand in `dir`. Several: each in dir/models/K<factors>-seed<seed>, those of the chosen one in
// `dir` too, with models.csv (a row a model) and choice.csv (a row a number of factors: agreement between seeds,
// losses, medians and ranges). Chosen are the largest number of factors on which seeds agree (steady_agreement; where
// none do, or there is one seed, the number with the least token loss on the validation part) and of it the seed of the
// least total loss there: gold labels take no part. summary.json says so. Throws what WorkDirectory and train_factors
// do.
FactorStudyEnd study_factors(const FactorStudy& study, FactorChoice& chosen);

}  // namespace signalbox::train
