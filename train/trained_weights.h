// Weights that a training changes: f32 copies in the place of the model's.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/changed_model.h"
#include "engine/session.h"
#include "eval/causal/weight_gradients.h"
#include "train/namespaces.h"
#include "train/trained.h"

namespace signalbox::train {

// Only matrices decay, and of these neither routers nor the gate of a shared expert. A tensor of an expert is left
// alone in a step in which no token that counts has reached it.
class TrainedWeights : public Trained {
 public:
  // From now on the session's model has f32 copies of the wanted weights, which this changes; so this must outlive what
  // runs it. Throws Error as Trained does.
  TrainedWeights(Session& session, const std::vector<WantedWeight>& wanted, int threads);

  Tensor sum(const TensorId& id) override;
  void zero_sums() override;

  // The model with the weights as they are now, each in the dtype that its checkpoint has: rounded to nearest, ties to
  // even. Valid while this is.
  ChangedModel changed(const std::function<DType(const TensorId&)>& stored_dtype) const;

  // The session's weights as they were before.
  const Weights& before() const { return before_; }
  bool trains_experts() const;
  // |w - w before|^2 over the weights of experts that train; its gradient times `coefficient` goes to their sums. After
  // the last run of a step.
  double add_anchor(double coefficient);

 private:
  void replace_views();
  void finish_sums() override;

  Session& session_;
  Weights before_;
  std::vector<WantedWeight> wanted_;  // of parameters_
  std::map<std::string, size_t> index_;
  std::shared_ptr<void> tied_head_;  // of tied embeddings: the slopes of the head, until finish_sums() adds them
};

}  // namespace signalbox::train
