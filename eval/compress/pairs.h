// How alike two experts of one layer are: by their weights, by who is sent to them, by what they answer.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "engine/model.h"
#include "engine/weights.h"
#include "eval/compress/measure.h"

namespace signalbox::eval {

struct LayerPairs {
  int32_t layer = 0, n_experts = 0;
  // [n_experts, n_experts], symmetric. Not computed, or not defined: NaN.
  std::vector<double> weight;   // cosine of the aligned parameters (eval/compress/neurons.h)
  std::vector<double> overlap;  // Jaccard index of the sets of tokens that select them
  std::vector<double> output;   // mean over the sampled tokens of the cosine of both outputs
  bool has_outputs = false;     // some were compared

  double at(const std::vector<double>& values, int32_t a, int32_t b) const {
    return values[static_cast<size_t>(a) * n_experts + b];
  }
  // Mean of the three, or of overlap and weight where no outputs were compared; an undefined output counts 0. NaN where
  // the weights were not compared.
  double merge_score(int32_t a, int32_t b) const;
  // The same without the weights.
  double use_score(int32_t a, int32_t b) const;
};

struct PairOptions {
  // Pairs of a layer whose weights are compared: those of the highest use_score, ties to the lower ids. -1: as many as
  // `products` allow, at least one.
  int64_t per_layer = -1;
  double products = 1e13;  // multiplications for all layers, where per_layer is -1
  int threads = 1;
  std::string isa = "auto";
  // Told in each layer and after each pair; may throw to end the work.
  std::function<void(int64_t done, int64_t total)> on_outputs, on_weights;  // experts run on the sample; pairs
};

// How many pairs of each layer PairOptions asks for.
int64_t compared_pairs(const Model& model, const PairOptions& options);

// `weights`: of the host. Throws what the callbacks throw.
std::vector<LayerPairs> measure_pairs(const Model& model, const Weights& weights,
                                      const std::vector<LayerMeasures>& measures, int64_t n_sampled,
                                      const PairOptions& options);

// pairs.csv: every pair a < b.
void write_pairs_csv(const std::filesystem::path& file, const std::vector<LayerPairs>& layers);

}  // namespace signalbox::eval
