// Choosing the next token from logits that a bias was added to.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "base/namespaces.h"
#include "engine/choice_rules.h"
#include "kernels/backend.h"

namespace signalbox::engine {

class BiasedChoice {
 public:
  BiasedChoice(Backend& backend, int64_t n_vocab) : backend_(backend), n_vocab_(n_vocab) {}

  // `row` f32 [1, n_vocab] on the device stays as it is. Adds each bias in f32, then chooses as Backend::sample does;
  // ids of the bias are below n_vocab. -1 where the biased logits are not finite.
  int32_t choose(Tensor row, const LogitBias& bias, const SampleParams& params);

 private:
  Backend& backend_;
  int64_t n_vocab_;
  std::vector<float> host_;
  std::shared_ptr<void> row_, id_, params_;  // of the device
};

}  // namespace signalbox::engine
