#include "train/target_loss.h"

namespace signalbox::train {

std::vector<double> target_losses(Backend& backend, Tensor logits, std::span<const int32_t> targets) {
  std::vector<double> losses(targets.size());
  const auto of_rows = uploaded(backend, std::span<const double>(losses));
  const auto on_device = uploaded(backend, targets);
  backend.log_probs(static_cast<double*>(of_rows.get()), logits, static_cast<const int32_t*>(on_device.get()));
  backend.download(losses.data(), of_rows.get(), losses.size() * sizeof(double));
  for (size_t i = 0; i < losses.size(); ++i) losses[i] = targets[i] < 0 ? 0 : -losses[i];
  return losses;
}

void target_losses_adjoint(Backend& backend, Tensor d_logits, Tensor logits, std::span<const int32_t> targets,
                           double denominator) {
  std::vector<float> factors;
  for (const int32_t target : targets) factors.push_back(target < 0 ? 0.f : static_cast<float>(-1 / denominator));
  const auto of_rows = uploaded(backend, std::span<const float>(factors));
  const auto on_device = uploaded(backend, targets);
  backend.log_probs_adjoint(d_logits, logits, static_cast<const int32_t*>(on_device.get()),
                            static_cast<const float*>(of_rows.get()), false);
}

std::vector<double> losses_of(Forward& forward, std::span<const Example* const> examples, const Groups& groups,
                              const std::function<void(int64_t)>& done) {
  std::vector<double> sums;
  for_each_group(examples, groups, [&](std::span<const Example* const> group) {
    SequenceGroup run(forward.backend(), forward.model(), group);
    const Outputs outputs = forward.run(run.batch, nullptr);
    add_sums(sums, group, target_losses(forward.backend(), outputs.logits, run.targets));
    if (done) done(tokens_of(group));
  });
  return sums;
}

std::vector<double> losses_and_slopes(Gradient& gradient, std::span<const Example* const> examples,
                                      const Groups& groups, double denominator, WeightSlopes& slopes,
                                      const std::function<void(int64_t)>& done) {
  std::vector<double> sums;
  Backend& backend = gradient.forward().backend();
  NoPoints points;
  for_each_group(examples, groups, [&](std::span<const Example* const> group) {
    SequenceGroup run(backend, gradient.forward().model(), group);
    gradient.run(
        run.batch, nullptr, points,
        [&](Tensor logits, Tensor d_logits) {
          add_sums(sums, group, target_losses(backend, logits, run.targets));
          target_losses_adjoint(backend, d_logits, logits, run.targets, denominator);
        },
        &slopes);
    if (done) done(tokens_of(group));
  });
  return sums;
}

}  // namespace signalbox::train
