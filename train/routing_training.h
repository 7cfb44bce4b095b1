// What a training does about the routing beside the loss of its records: terms (train/routing_terms.h), an anchor of
// the experts' weights, and selection biases that follow the load. Any training can have it, whatever it trains.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "train/routing_terms.h"
#include "train/selection_biases.h"
#include "train/trained_weights.h"

namespace signalbox::train {

struct RoutingTuning {
  RoutingTermSettings terms;  // terms.counts_load follows bias_rate
  double expert_anchor = 0;   // times |theta - theta_0|^2 over the weights of experts that train
  double bias_rate = 0;       // of selection biases
  bool any() const { return terms.any() || expert_anchor != 0 || bias_rate != 0; }
};

class RoutingTraining {
 public:
  // `base`: the model's weights before the training. `weights`: those that train, for expert_anchor (null: there are
  // none). Throws Error naming the flag that this model cannot have.
  RoutingTraining(Session& session, const RoutingTuning& tuning, const Weights& base, TrainedWeights* weights);

  RoutingSlopes& slopes() { return terms_; }
  // As RoutingTerms; before the runs of a step.
  void begin_step(Forward& forward, std::span<const Example* const> examples, const Groups& groups);
  // After them and before the norm: the anchor's own slopes are added. Returns what all of it adds to the loss.
  double finish_slopes();
  void after_step();  // of the optimiser

  std::vector<std::string> columns() const;  // of log.csv
  std::vector<double> values() const;        // of the step, in the order of columns()

  std::vector<std::vector<int64_t>> loads() const { return terms_.loads(); }  // of the step; with bias_rate

  // What goes on in another process.
  std::vector<double> state() const;
  void restore(std::span<const double> state);
  void put(ChangedModel& changed) const;

 private:
  RoutingTuning tuning_;
  RoutingTerms terms_;
  TrainedWeights* weights_;
  std::optional<SelectionBiases> biases_;
  double anchor_ = 0;  // of the step
};

}  // namespace signalbox::train
