// What may come between a row of logits and the token that is taken, beside the sampling.
#pragma once
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::engine {

// Added to the logits of single tokens, in f32, before one is chosen; what is hashed and shown stays as it was.
using LogitBias = std::vector<std::pair<int32_t, float>>;

struct ChoiceRules {
  LogitBias bias;
  // By absolute position: the token that stands there whatever the model chooses. A text that ends before has none.
  std::map<int64_t, int32_t> forced;

  bool empty() const { return bias.empty() && forced.empty(); }
};

}  // namespace signalbox::engine
