// Parts of a layer as readers of the residual stream, each evaluated alone on streams that a caller makes: what a
// router, the experts, an attention head or the final norm and head would have computed from them. Norms are
// recomputed. The ops, their order and, on the CPU, the bits are those of the forward; no forward is run.
//
// A part reads no other token, so that the direct effect of a sender's change on a receiver of the same token is the
// receiver at stream + change, minus the receiver at stream.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/namespaces.h"
#include "engine/model.h"
#include "engine/rope_table.h"
#include "engine/weights.h"
#include "kernels/backend.h"

namespace signalbox::engine {

// All arrays are the host's, row-major, n rows. Not thread-safe. Throws Error where arrays do not fit each other or the
// layer has no such part.
class Receivers {
 public:
  // `weights`: those of the backend's device. All outlive this.
  Receivers(Backend& backend, const Model& model, const Weights& weights);

  int64_t d_model() const { return model_.d_model; }

  // What the router makes of streams before the feed-forward norm (the point resid_mid).
  struct Routes {
    int32_t n_slots = 0;         // of ids and weights: n_active of the layer
    std::vector<float> logits;   // [n, n_experts]
    std::vector<int32_t> ids;    // [n, n_slots] slot order
    std::vector<float> weights;  // [n, n_slots] as applied
    std::vector<float> margin;   // [n] n_active-th minus next logit
  };
  Routes routes(int64_t layer, std::span<const float> streams);
  // The route that the family's rule makes of logits [n, n_experts] (its bias included, as the point router.logits is).
  Routes routes_of_logits(int64_t layer, std::span<const float> logits);

  // Contributions weight * f_e(norm(stream)) of given experts, [n, n_slots, d_model] in slot order. ids [n, n_slots],
  // -1 = unused slot, whose contribution is 0; weights likewise.
  std::vector<float> experts(int64_t layer, std::span<const float> streams, std::span<const int32_t> ids,
                             std::span<const float> weights, int32_t n_slots);
  // The same without the weights, f_e(norm(stream)).
  std::vector<float> expert_outputs(int64_t layer, std::span<const float> streams, std::span<const int32_t> ids,
                                    int32_t n_slots);
  // What a layer with a router adds to the stream, [n, d_model]: outputs [n, n_slots, d_model] by their weights in slot
  // order, then the shared expert's (empty: none).
  std::vector<float> combined(std::span<const float> outputs, std::span<const int32_t> ids,
                              std::span<const float> weights, int32_t n_slots, std::span<const float> shared);
  // The shared expert's output after its gate; a dense layer's output. [n, d_model], from streams at resid_mid.
  std::vector<float> shared(int64_t layer, std::span<const float> streams);
  std::vector<float> dense(int64_t layer, std::span<const float> streams);

  // What attention makes of streams where the layer begins (resid_in), for tokens at these positions: as the points
  // attn.q, attn.k and attn.v. Latent attention has one kv head: k the latent and the rotated key, v the latent.
  struct Heads {
    std::vector<float> q;  // [n, n_heads, d_key]
    std::vector<float> k;  // [n, n_kv_heads, d_key]
    std::vector<float> v;  // [n, n_kv_heads, d_value]
  };
  Heads heads(int64_t layer, std::span<const float> streams, std::span<const int32_t> positions);
  // What attention makes of them, tokens 0 ... n - 1 of one sequence: [n, n_heads * d_z] as the point attn.z.
  std::vector<float> attended(int64_t layer, const Heads& heads);

  // Logits [n, tokens] of some tokens, from streams behind the last layer.
  std::vector<float> logits(std::span<const float> streams, std::span<const int32_t> tokens);
  // All logits, in memory of the device: [n, n_vocab].
  struct AllLogits {
    std::shared_ptr<void> memory;
    Tensor logits;
  };
  AllLogits all_logits(std::span<const float> streams);

  // W_r (gamma * part / divisor) [n, n_experts] of parts [n, d_model] of a stream: their shares in the router's logits
  // with the divisor of the norm held. Without the router's bias, which is router_bias() (empty: none).
  std::vector<float> router_shares(int64_t layer, std::span<const float> parts, double divisor);
  std::vector<float> router_bias(int64_t layer) const;

  // Latent attention: what heads make of attended latents [n, n_heads * d_latent], [n, n_heads * d_value] as the point
  // attn.z. Linear.
  std::vector<float> expand_latents(int64_t layer, std::span<const float> latents);

  // What heads add to the stream: z [n, n_heads * d_z] as the point attn.z -> [n, d_model], without the output's bias
  // unless it is asked for. Without it linear in z: of a change of z it is the change of attn.out.
  std::vector<float> attention_output(int64_t layer, std::span<const float> z, bool with_bias = false);
  std::vector<float> attention_bias(int64_t layer) const;  // [d_model], of the output; empty: none

 private:
  struct Memory {
    std::shared_ptr<void> block;
    Tensor tensor;
  };
  int64_t rows_of(std::span<const float> values, int64_t width) const;
  const Moe& moe(int64_t layer) const;
  Memory make(int64_t rows, int64_t cols, DType dtype) const;
  Memory upload(std::span<const float> values, int64_t cols, DType dtype) const;
  Memory normed(std::span<const float> streams, Vector weight) const;
  std::vector<float> host(Tensor tensor) const;
  std::vector<float> host(Vector vector) const;
  Routes route(int64_t layer, Tensor logits, Tensor x, const float* bias);
  void gqa(Heads& out, const Gqa& a, const GqaWeights& weights, Tensor h, const int32_t* positions);
  void mla(Heads& out, const Mla& a, const MlaWeights& weights, Tensor h, const int32_t* positions);

  Backend& backend_;
  const Model& model_;
  const Weights& weights_;
  RopeCache rope_;
};

}  // namespace signalbox::engine
