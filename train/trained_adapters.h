// LoRA adapters that train: pairs a, b for chosen matrices of a model, merged into f32 copies in the place of these.
//
// y = x w^T + s (x a^T) b^T with s = alpha / rank, or with rslora alpha / sqrt(rank). a begins as PEFT's: uniform in
// +-1/sqrt(in) (Kaiming with a = sqrt 5), a function of the seed and of the tensor's name; b = 0. Gate and up of one
// expert have one a, as the stacked parameter of transformers 5 has, or each its own.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/adapters.h"
#include "engine/session.h"
#include "train/namespaces.h"
#include "train/trained.h"

namespace signalbox::train {

struct AdapterSettings {
  int64_t rank = 8;
  double alpha = 16;
  bool rslora = false;
  bool shares_gate_up = true;  // of experts
  uint64_t seed = 0;
  float scale() const;
};

// Only pairs of matrices that would decay themselves do. The pairs of an expert's gate and up, and those of its down,
// are left alone in a step in which no token that counts has reached it.
class TrainedAdapters : public Trained {
 public:
  // From now on the session's model has the merged copies; so this must outlive what runs it. Of tied embeddings an
  // adapted head is a matrix of its own. Throws Error as Trained does.
  TrainedAdapters(Session& session, const std::vector<TensorId>& targets, const AdapterSettings& settings, int threads);

  Tensor sum(const TensorId& id) override;
  const Adapter* adapter(const TensorId& id) override;
  Tensor sum_of_a(const TensorId& id) override;
  Tensor sum_of_b(const TensorId& id) override;
  void zero_sums() override;

  // As they are now, in the order of the model's tensors. Valid while this is.
  std::vector<AdaptedMatrix> matrices() const;

 protected:
  void on_change() override { merge(); }

 private:
  struct Target {
    TensorId id;
    Matrix base;
    Adapter pair;
    size_t a = 0, b = 0;  // of parameters_
    std::shared_ptr<std::vector<float>> merged;
    // Of an up whose a is its gate's: the slopes of that by itself until the norm, so that bits do not depend on how
    // many sequences share a run.
    std::shared_ptr<void> own_a;
    std::shared_ptr<void> whole;  // of kv_b, whose two products are absorbed apart: the slopes of the matrix itself
  };
  void finish_sums() override;
  void merge();
  void replace_views();
  const Target* find(const TensorId& id) const;

  Session& session_;
  AdapterSettings settings_;
  std::vector<Target> targets_;
  std::map<std::string, size_t> index_;
};

}  // namespace signalbox::train
