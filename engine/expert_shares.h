// How much each expert of a token's route gives, as one number: the points expert.norm, expert.update_share and
// expert.direct, made on the host of contributions as they come. c below is a slot's contribution (weight times output,
// [d_model]); a slot that is unused or has weight 0 has 0 everywhere. Sums are in double, in an order that depends on
// d_model alone.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/namespaces.h"
#include "engine/batch.h"
#include "engine/lens.h"

namespace signalbox::engine {

// out [slots] = |c|, of contributions [slots, width].
void contribution_norms(std::span<const float> contributions, int64_t width, std::span<float> out);

// out [n_tokens * n_slots] = c . m / |m|^2 for the token's m, a row of updates [n_tokens, width]; 0 where m is 0.
void update_shares(std::span<const float> contributions, std::span<const float> updates, int64_t width,
                   std::span<float> out);

// expert.direct of one step: the share of each contribution in the logit of the token that follows, minus the mean of
// its shares in all logits (engine/lens.h). NaN where nothing follows. Of tokens that the step itself chooses the
// contributions are kept until it is over: [sequences, layers, n_slots, d_model] floats; of others nothing is.
class DirectEffects {
 public:
  DirectEffects(Backend& backend, const Model& model, const Weights& weights);

  void begin(const Batch& batch, int64_t n_slots);
  // Of a layer with a router, each once: contributions [n_tokens * n_slots, d_model].
  void add(int64_t layer, std::span<const float> contributions);
  // The residual stream that the final norm reads, [n_tokens, d_model].
  void stream(std::span<const float> x) { divisors_ = lens_.divisors(x); }
  // chosen [batch.logit_rows.size()]: the tokens that the step chose; empty: it chose none.
  void finish(std::span<const int32_t> chosen);
  // After finish(), of every layer added, in that order: effects [n_tokens * n_slots].
  struct OfLayer {
    int64_t layer = 0;
    std::vector<double> dots;  // c . reader of the token that follows
    std::vector<float> kept;   // [rows that choose, n_slots, d_model]
    std::vector<float> effects;
  };
  const std::vector<OfLayer>& layers() const { return layers_; }

 private:
  Lens lens_;
  const Batch* batch_ = nullptr;
  int64_t n_slots_ = 0;
  std::vector<int64_t> known_, choosing_;  // rows of the batch
  std::vector<double> readers_;            // [known_, d_model], then [choosing_, d_model]
  std::vector<double> divisors_;           // [n_tokens]
  std::vector<OfLayer> layers_;
};

}  // namespace signalbox::engine
