// The values of a synthetic model's tensors: drawn by counter, so that any rows of any tensor can be had alone.
#pragma once
#include "base/namespaces.h"
#include "loaders/synthetic/planting.h"
#include "loaders/synthetic/spec.h"

namespace signalbox::loaders::synthetic {

class Values {
 public:
  Values(const Spec& spec, const Planting& planting) : spec_(spec), planting_(planting) {}

  // Rows first .. first + n of a tensor (vectors: their one row), in f32. `out` [n, cols].
  void rows(const TensorPlace& slot, int64_t first, int64_t n, float* out) const;

 private:
  const Spec& spec_;
  const Planting& planting_;
};

}  // namespace signalbox::loaders::synthetic
