// What a training minimises, where it is not the targets' own loss (train/target_loss.h).
#pragma once
#include <span>
#include <vector>

#include "engine/gradient.h"
#include "train/namespaces.h"
#include "train/sequence_groups.h"

namespace signalbox::train {

class Objective {
 public:
  virtual ~Objective() = default;
  // Of each example: the sum over its tokens that count. The bits do not depend on the groups.
  virtual std::vector<double> losses(Forward& student, std::span<const Example* const> examples,
                                     const Groups& groups) = 0;
  // The same, and to `slopes` d/d weights of their sum over `denominator`.
  virtual std::vector<double> losses_and_slopes(Gradient& student, std::span<const Example* const> examples,
                                                const Groups& groups, double denominator, WeightSlopes& slopes) = 0;
};

}  // namespace signalbox::train
