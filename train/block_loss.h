// Feed-forward blocks that learn to answer as the teacher's layers do, each to the teacher's own input, all layers at
// once: the step between the closed form and learning from logits, which alone sees errors compound.
#pragma once
#include <map>
#include <vector>

#include "train/objective.h"

namespace signalbox::train {

// Of an example, over its tokens that count: the mean over layers of |Y - y|^2 over the layer's mean of |Y|^2, so that
// deep layers, whose answers are far longer, do not drown the others.
class BlockObjective final : public Objective {
 public:
  // `mean_square` by layer, of those whose blocks learn. `teacher`: on the student's device.
  BlockObjective(Forward& teacher, const Weights& student, std::map<int32_t, double> mean_square)
      : teacher_(teacher), student_(student), mean_square_(std::move(mean_square)) {}
  std::vector<double> losses(Forward& student, std::span<const Example* const> examples, const Groups& groups) override;
  std::vector<double> losses_and_slopes(Gradient& student, std::span<const Example* const> examples,
                                        const Groups& groups, double denominator, WeightSlopes& slopes) override;

 private:
  std::vector<double> run(std::span<const Example* const> examples, const Groups& groups, double denominator,
                          WeightSlopes* slopes);
  Forward& teacher_;
  const Weights& student_;
  std::map<int32_t, double> mean_square_;
};

}  // namespace signalbox::train
