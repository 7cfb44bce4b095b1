#include "train/teacher_loss.h"

namespace signalbox::train {

namespace {

// Logits over a temperature: themselves where it is 1, else a copy that `memory` owns.
Tensor cooled(Backend& backend, Tensor logits, double temperature, std::shared_ptr<void>& memory) {
  if (temperature == 1) return logits;
  const auto values = static_cast<size_t>(logits.rows * logits.cols);
  memory = backend.allocate(values * sizeof(float));
  const Tensor copy(static_cast<float*>(memory.get()), logits.rows, logits.cols);
  backend.copy(memory.get(), logits.row(0), values * sizeof(float));
  const std::vector<float> factors(static_cast<size_t>(logits.rows), static_cast<float>(1 / temperature));
  const auto on_device = uploaded(backend, std::span<const float>(factors));
  backend.scale_rows(copy, static_cast<const float*>(on_device.get()));
  backend.synchronize();
  return copy;
}

// Of each row that counts weight KL + target (-log p).
std::vector<double> mixed_losses(Backend& backend, const Teacher& teacher, Tensor logits, Tensor taught,
                                 std::span<const int32_t> targets) {
  std::vector<double> losses = teacher_losses(backend, logits, taught, targets, teacher.temperature);
  for (double& loss : losses) loss *= teacher.weight;
  if (teacher.target != 0) {
    const std::vector<double> own = target_losses(backend, logits, targets);
    for (size_t i = 0; i < losses.size(); ++i) losses[i] += teacher.target * own[i];
  }
  return losses;
}

void mixed_adjoint(Backend& backend, const Teacher& teacher, Tensor d_logits, Tensor logits, Tensor taught,
                   std::span<const int32_t> targets, double denominator) {
  teacher_losses_adjoint(backend, d_logits, logits, taught, targets, teacher.temperature, teacher.weight / denominator);
  if (teacher.target == 0) return;
  const auto memory = backend.allocate(static_cast<size_t>(logits.rows * logits.cols) * sizeof(float));
  const Tensor own(static_cast<float*>(memory.get()), logits.rows, logits.cols);
  target_losses_adjoint(backend, own, logits, targets, denominator / teacher.target);
  backend.add(d_logits, d_logits, own);
  backend.synchronize();
}

}  // namespace

std::vector<double> teacher_losses(Backend& backend, Tensor logits, Tensor teacher, std::span<const int32_t> targets,
                                   double temperature) {
  std::shared_ptr<void> of_student, of_teacher;
  const Tensor student = cooled(backend, logits, temperature, of_student),
               taught = cooled(backend, teacher, temperature, of_teacher);
  std::vector<double> losses(targets.size());
  const auto of_rows = backend.allocate(std::max<size_t>(1, losses.size()) * sizeof(double)),
             same = backend.allocate(std::max<size_t>(1, losses.size()) * sizeof(int32_t));
  backend.compare_logits(static_cast<double*>(of_rows.get()), static_cast<int32_t*>(same.get()), student, taught);
  backend.download(losses.data(), of_rows.get(), losses.size() * sizeof(double));
  for (size_t i = 0; i < losses.size(); ++i) losses[i] = targets[i] < 0 ? 0 : temperature * temperature * losses[i];
  return losses;
}

void teacher_losses_adjoint(Backend& backend, Tensor d_logits, Tensor logits, Tensor teacher,
                            std::span<const int32_t> targets, double temperature, double factor) {
  std::shared_ptr<void> of_student, of_teacher;
  const Tensor student = cooled(backend, logits, temperature, of_student),
               taught = cooled(backend, teacher, temperature, of_teacher);
  std::vector<float> factors;
  for (const int32_t target : targets) factors.push_back(target < 0 ? 0.f : static_cast<float>(factor * temperature));
  const auto of_rows = uploaded(backend, std::span<const float>(factors));
  backend.compare_logits_adjoint(d_logits, student, taught, static_cast<const float*>(of_rows.get()));
  backend.synchronize();
}

std::vector<double> TeacherObjective::losses(Forward& student, std::span<const Example* const> examples,
                                             const Groups& groups) {
  std::vector<double> sums;
  Backend& backend = student.backend();
  for_each_group(examples, groups, [&](std::span<const Example* const> group) {
    SequenceGroup taught(backend, teacher_.forward->model(), group), run(backend, student.model(), group);
    const Outputs wanted = teacher_.forward->run(taught.batch, nullptr), outputs = student.run(run.batch, nullptr);
    add_sums(sums, group, mixed_losses(backend, teacher_, outputs.logits, wanted.logits, run.targets));
  });
  return sums;
}

std::vector<double> TeacherObjective::losses_and_slopes(Gradient& student, std::span<const Example* const> examples,
                                                        const Groups& groups, double denominator,
                                                        WeightSlopes& slopes) {
  std::vector<double> sums;
  Backend& backend = student.forward().backend();
  NoPoints points;
  for_each_group(examples, groups, [&](std::span<const Example* const> group) {
    SequenceGroup taught(backend, teacher_.forward->model(), group), run(backend, student.forward().model(), group);
    const Outputs wanted = teacher_.forward->run(taught.batch, nullptr);
    student.run(
        run.batch, nullptr, points,
        [&](Tensor logits, Tensor d_logits) {
          add_sums(sums, group, mixed_losses(backend, teacher_, logits, wanted.logits, run.targets));
          mixed_adjoint(backend, teacher_, d_logits, logits, wanted.logits, run.targets, denominator);
        },
        &slopes);
  });
  return sums;
}

}  // namespace signalbox::train
