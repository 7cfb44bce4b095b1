// The negative log-likelihood of targets: sums over the tokens that count, whatever shares a forward, and one
// denominator for all of a step's forwards.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engine/gradient.h"
#include "train/examples.h"
#include "train/namespaces.h"
#include "train/sequence_groups.h"

namespace signalbox::train {

// -log p of each row's target in nats, 0 where it is -1, from logits [targets.size(), n_vocab].
std::vector<double> target_losses(Backend& backend, Tensor logits, std::span<const int32_t> targets);
// d_logits = d/d logits of the sum of target_losses over `denominator`: (softmax - one-hot) / denominator, and 0 for
// rows that do not count.
void target_losses_adjoint(Backend& backend, Tensor d_logits, Tensor logits, std::span<const int32_t> targets,
                           double denominator);

// The loss of each example: the sum of -log p over its tokens that count. `done`, where there is one, is called with
// the tokens of each forward.
std::vector<double> losses_of(Forward& forward, std::span<const Example* const> examples, const Groups& groups,
                              const std::function<void(int64_t)>& done);

// The same, and to `slopes` d/d weights of their sum over `denominator`: the bits of neither depend on the groups.
std::vector<double> losses_and_slopes(Gradient& gradient, std::span<const Example* const> examples,
                                      const Groups& groups, double denominator, WeightSlopes& slopes,
                                      const std::function<void(int64_t)>& done);

}  // namespace signalbox::train
