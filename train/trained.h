// What a training changes: f32 tensors, their gradients and AdamW's moments, and all of these in a file to go on from.
// The loop (train/training.h) knows no more of them.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/safetensors.h"
#include "base/thread_pool.h"
#include "engine/weight_slopes.h"
#include "kernels/backend.h"
#include "train/adamw.h"
#include "train/namespaces.h"

namespace signalbox::train {

// One tensor that trains, [rows, cols].
struct Parameter {
  std::string name;  // in the file
  int64_t rows = 0, cols = 0;
  bool decays = false;
  // Neighbours of one group are left alone in a step in which all their gradients are exactly 0; -1: never.
  int64_t group = -1;
  std::vector<float> m, v;
  std::shared_ptr<void> weights, slopes;
  int64_t steps = 0;
  size_t n() const { return static_cast<size_t>(rows * cols); }
  float* weight() const { return static_cast<float*>(weights.get()); }
  float* slope() const { return static_cast<float*>(slopes.get()); }
};

class Trained : public WeightSlopes {
 public:
  // Throws Error where the device has no adjoints of weights, or memory of its own.
  Trained(Backend& backend, int threads);

  virtual void zero_sums();  // before each step

  // The norm of the gradient of all of them: the square root of a sum in double, in a fixed order. After the last run
  // of a step, once.
  double gradient_norm();

  // One step of AdamW. A group whose gradients are all exactly 0 is left as it is, with its moments and its counts of
  // steps: torch.optim.AdamW does that with a parameter without a gradient. Returns how many tensors were left.
  int64_t step(const AdamW& adam, double lr, float factor);

  int64_t n_values() const;
  virtual std::vector<std::string> names() const;

  // Files of NAME.weight, NAME.m, NAME.v [rows, cols] F32 and `steps` I64 [tensors]; `more` is written too.
  struct More {
    std::map<std::string, std::string> metadata;
    std::map<std::string, std::vector<double>> lists;  // F64 [n] each
  };
  void save(const std::filesystem::path& file, const More& more) const;
  // Throws Error naming the file where it does not hold these tensors.
  void load(const safetensors::File& file);

 protected:
  std::shared_ptr<void> zeros(size_t n) const;
  Parameter& add(std::string name, int64_t rows, int64_t cols, bool decays, int64_t group);
  virtual void finish_sums() {}  // before the norm: what is not yet in the slopes
  virtual void on_change() {}    // after step() and load()

  Backend& backend_;
  std::vector<Parameter> parameters_;
  mutable ThreadPool pool_;
};

}  // namespace signalbox::train
