// The values of a synthetic model's tensors: drawn by counter, so that any rows of any tensor can be had alone.
#pragma once
#include "base/namespaces.h"
#include "loaders/synthetic/circuits.h"
#include "loaders/synthetic/planting.h"
#include "loaders/synthetic/spec.h"

namespace signalbox::loaders::synthetic {

// The random part alone of rows first .. first + n of a tensor. `out` [n, cols].
void draw_rows(const Spec& spec, const TensorPlace& slot, int64_t first, int64_t n, float* out);

// Numbers that depend on a seed, on what they are for, and on how many came before.
class CounterDice {
 public:
  CounterDice(uint64_t seed, uint64_t purpose);
  uint64_t next();
  size_t below(size_t n) { return static_cast<size_t>(next() % n); }

 private:
  uint64_t key_ = 0, count_ = 0;
};

class Values {
 public:
  Values(const Spec& spec, const Reserved& reserved, const Planting& planting, const Circuits& circuits)
      : spec_(spec), reserved_(reserved), planting_(planting), circuits_(circuits) {}

  // Rows first .. first + n of a tensor (vectors: their one row), in f32. `out` [n, cols].
  void rows(const TensorPlace& slot, int64_t first, int64_t n, float* out) const;

 private:
  const Spec& spec_;
  const Reserved& reserved_;
  const Planting& planting_;
  const Circuits& circuits_;
};

}  // namespace signalbox::loaders::synthetic
