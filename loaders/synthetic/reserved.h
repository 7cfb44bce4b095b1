// Dimensions at the end of the residual stream that only planted parts write and read: one is constant, the others
// carry what planted experts, heads and circuits say to each other. docs/make-model.md tells the construction.
#pragma once
#include <cstdint>

#include "base/namespaces.h"
#include "engine/weights.h"

namespace signalbox::loaders::synthetic {

class Reserved {
 public:
  // `amplitude`: the unit of reserved dimensions, the embeddings' deviation (init.embed); the constant dimension holds
  // `constant_size` of them in every embedding.
  Reserved(const Model& model, double amplitude, double constant_size)
      : model_(model),
        amplitude_(amplitude),
        constant_size_(constant_size),
        first_(model.d_model),
        constant_(model.d_model - 1) {}

  // The next dimension from the end. Throws Error when more than half of the stream would be taken.
  int64_t take();
  bool empty() const { return first_ == model_.d_model; }
  int64_t first() const { return first_; }        // of all that are taken; d_model: none
  int64_t constant() const { return constant_; }  // taken with the first take()
  double amplitude() const { return amplitude_; }
  double constant_size() const { return constant_size_; }  // what a row reads the constant with is divided by this

  // Cuts the dimensions off from everything random, in rows first .. first + n of a tensor: embeddings hold the
  // constant alone, norms 1, and matrices neither write nor read them. `values` [n, cols].
  void apply(const TensorPlace& slot, int64_t first, int64_t n, float* values) const;

 private:
  const Model& model_;
  double amplitude_ = 1, constant_size_ = 1;
  int64_t first_ = 0, constant_ = 0;
};

}  // namespace signalbox::loaders::synthetic
