// Learning from another model's answers: the divergence of a student's predictions from a teacher's on the same
// records, alone or beside the targets' own loss. The teacher runs on the records of each forward, so that no file of
// logits is needed and memory is that of one forward's.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "train/objective.h"
#include "train/target_loss.h"

namespace signalbox::train {

// The loss of a token that counts is weight tau^2 KL(softmax(z_T / tau) || softmax(z_S / tau)) + target (-log p), in
// nats; tau^2 keeps the gradient's size where tau changes (Hinton, Vinyals and Dean 2015, section 2.1).
struct Teacher {
  Forward* forward = nullptr;  // on the student's device, of the same vocabulary
  double temperature = 1;      // tau
  double weight = 1;           // of the divergence
  double target = 0;           // of the loss of target_loss.h
};

// tau^2 KL of each row, 0 where its target is -1, from the logits of both [targets.size(), n_vocab].
std::vector<double> teacher_losses(Backend& backend, Tensor logits, Tensor teacher, std::span<const int32_t> targets,
                                   double temperature);
// d_logits = d/d logits of factor times the sum of teacher_losses: factor tau (softmax(z_S / tau) - softmax(z_T /
// tau)), and 0 for rows that do not count.
void teacher_losses_adjoint(Backend& backend, Tensor d_logits, Tensor logits, Tensor teacher,
                            std::span<const int32_t> targets, double temperature, double factor);

class TeacherObjective final : public Objective {
 public:
  explicit TeacherObjective(const Teacher& teacher) : teacher_(teacher) {}
  std::vector<double> losses(Forward& student, std::span<const Example* const> examples, const Groups& groups) override;
  std::vector<double> losses_and_slopes(Gradient& student, std::span<const Example* const> examples,
                                        const Groups& groups, double denominator, WeightSlopes& slopes) override;

 private:
  Teacher teacher_;
};

}  // namespace signalbox::train
