// Training a tuned lens: affine translators of each layer's stream (eval/lens/translators.h), the model itself frozen.
#pragma once
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "engine/session.h"
#include "train/objective.h"
#include "train/trained.h"

namespace signalbox::train {

// A_l and b_l of each layer but the last, 0 in the beginning: then a reading is the logit lens'.
class TunedLens final : public Trained {
 public:
  TunedLens(Backend& backend, const Model& model, int threads);

  int32_t n_layers() const { return n_layers_; }
  Matrix weight(int32_t layer) const;  // [d_model, d_model]
  Vector bias(int32_t layer) const;    // [d_model]
  Tensor weight_slopes(int32_t layer) const;
  Tensor bias_slopes(int32_t layer) const;
  Tensor sum(const TensorId&) override { return {}; }  // no weight of the model

  // As eval/lens/translators.h reads it. `model`: hashes of the weights, as JSON.
  void write(const std::filesystem::path& file, const std::string& model) const;

 private:
  int64_t d_;
  int32_t n_layers_;
};

// Of a token that counts: the mean over layers of KL(the model's prediction || the layer's reading), in nats.
class LensObjective final : public Objective {
 public:
  // `weights`: the model's, whose final norm and head read.
  LensObjective(TunedLens& lens, const Weights& weights) : lens_(lens), weights_(weights) {}
  std::vector<double> losses(Forward& model, std::span<const Example* const> examples, const Groups& groups) override;
  std::vector<double> losses_and_slopes(Gradient& model, std::span<const Example* const> examples, const Groups& groups,
                                        double denominator, WeightSlopes& slopes) override;

  // By layer: the mean over the tokens that count, of the logit lens (false) or of this one.
  std::vector<double> by_layer(Forward& model, std::span<const Example* const> examples, const Groups& groups,
                               bool tuned);

 private:
  // Fills by_layer_; with a denominator above 0 adds to the slopes of the lens too.
  std::vector<double> run(Forward& model, std::span<const Example* const> examples, const Groups& groups,
                          double denominator, bool tuned);
  TunedLens& lens_;
  const Weights& weights_;
  std::vector<double> by_layer_;
};

}  // namespace signalbox::train
