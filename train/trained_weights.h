// Weights that a training changes: f32 copies in the place of the model's, their gradients, AdamW's moments, and all of
// these in a file to go on from.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/safetensors.h"
#include "base/thread_pool.h"
#include "engine/changed_model.h"
#include "engine/session.h"
#include "engine/weight_slopes.h"
#include "eval/causal/weight_gradients.h"
#include "train/adamw.h"
#include "train/namespaces.h"

namespace signalbox::train {

class TrainedWeights : public WeightSlopes {
 public:
  // From now on the session's model has f32 copies of the wanted weights, which this changes; so this must outlive what
  // runs it. Throws Error where the device has no adjoints of weights, or memory of its own.
  TrainedWeights(Session& session, const std::vector<WantedWeight>& wanted, int threads);

  Tensor sum(const TensorId& id) override;
  void zero_sums();  // before each step

  // The norm of the gradient of all of them: the square root of a sum in double, in a fixed order. After the last run
  // of a step, once.
  double gradient_norm();

  // One step of AdamW. Only matrices decay, and of these neither routers nor the gate of a shared expert. A tensor of
  // an expert whose gradient is exactly 0, so that no token that counts has reached it, is left as it is, with its
  // moments and its count of steps: torch.optim.AdamW does that with a parameter without a gradient. Returns how many
  // were left.
  int64_t step(const AdamW& adam, double lr, float factor);

  int64_t n_values() const;
  std::vector<std::string> names() const;

  // Files of NAME.weight, NAME.m, NAME.v [rows, cols] F32 and `steps` I64 [tensors]; `more` is written too.
  struct More {
    std::map<std::string, std::string> metadata;
    std::string name;  // of `values` F64 [n]
    std::vector<double> values;
  };
  void save(const std::filesystem::path& file, const More& more) const;
  // Throws Error naming the file where it does not hold these weights.
  void load(const safetensors::File& file);

  // The model with the weights as they are now, each in the dtype that its checkpoint has: rounded to nearest, ties to
  // even. Valid while this is.
  ChangedModel changed(const std::function<DType(const TensorId&)>& stored_dtype) const;

 private:
  struct One {
    WantedWeight of;
    std::vector<float> m, v;
    std::shared_ptr<void> weights, slopes;
    int64_t steps = 0;
    size_t n() const { return static_cast<size_t>(of.rows * of.cols); }
    float* weight() const { return static_cast<float*>(weights.get()); }
    float* slope() const { return static_cast<float*>(slopes.get()); }
  };
  void replace_views();

  Session& session_;
  std::vector<One> ones_;
  std::map<std::string, size_t> index_;
  std::shared_ptr<void> tied_head_;  // of tied embeddings: the slopes of the head, until gradient_norm() adds them
  mutable ThreadPool pool_;
};

}  // namespace signalbox::train
