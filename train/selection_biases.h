// Balance without a loss (Wang et al. 2024, 2408.15664): after each step the bias that a router adds for the choice
// alone goes up by a fixed rate for an expert with less than the mean load, and down for one with more.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "engine/changed_model.h"
#include "engine/session.h"
#include "train/namespaces.h"

namespace signalbox::train {

// b_i += rate * sign(mean load - load_i).
void update_biases(std::span<float> biases, std::span<const int64_t> load, double rate);

// (largest load - mean load) / mean load, the mean over layers; 0 at balance.
double load_violation(const std::vector<std::vector<int64_t>>& loads);

class SelectionBiases {
 public:
  // From now on the session's model has copies of its selection biases, which this changes. It must have some, in every
  // layer with a router.
  explicit SelectionBiases(Session& session);
  // loads [layers with a router][n_experts]: selections over the records of the step.
  void update(const std::vector<std::vector<int64_t>>& loads, double rate);
  std::vector<double> values() const;  // layers ascending, experts ascending
  void set(std::span<const double> values);
  void put(ChangedModel& changed) const;  // into a model that is to be written

 private:
  std::vector<int32_t> layers_;
  std::vector<std::vector<float>> biases_;
};

}  // namespace signalbox::train
