// The adjoints of the op vocabulary: what a backward pass asks of a device. With M a number that the forward's results
// were made into, the adjoint of an op takes dM/d(its output) and gives dM/d(each input). Names: `d_x` is dM/dx.
//
// Formulas are those of the ops in kernels/backend.h, differentiated; ids of routes and everything that an edit's
// constants say are held. All tensors are f32. `add`: the result is added to what stands in the output, else it
// replaces it. An output never aliases an input unless the comment says so.
//
// Numerics (CPU): f32, sums in an order that depends on the shapes alone, so that bits depend neither on threads nor on
// --isa. Sums over tokens (of keys and values) run over positions in ascending order.
//
// A device that lacks one refuses it by name.
#pragma once
#include <cstdint>
#include <string>

#include "base/error.h"
#include "base/namespaces.h"
#include "kernels/experts.h"
#include "kernels/params.h"
#include "kernels/router.h"
#include "kernels/tensor.h"

namespace signalbox::kernels {

struct AttentionParams;
struct BatchView;
struct KvCache;
struct RopeTable;

class AdjointOps {
 public:
  virtual ~AdjointOps() = default;

  // matmul:        d_x[t, k] = sum_n d_out[t, n] w[n, k]
  virtual void matmul_adjoint(Tensor /*d_x*/, Tensor /*d_out*/, const Matrix& /*w*/, bool /*add*/) { lacks("matmul"); }

  // rmsnorm:       g = weight * d_out: d_x = g / r - x (x . g) / (n r^3), r^2 = mean(x^2) + eps. d_x may be d_out.
  virtual void rmsnorm_adjoint(Tensor /*d_x*/, Tensor /*d_out*/, Tensor /*x*/, Vector /*weight*/, float /*eps*/,
                               bool /*add*/) {
    lacks("rmsnorm");
  }

  // rope:          in place; d_x becomes that of the input.
  virtual void rope_adjoint(Tensor /*d_x*/, int64_t /*n_heads*/, int64_t /*first*/, const RopeTable&,
                            const int32_t* /*positions*/) {
    lacks("rope");
  }

  // clamp:         in place; 0 where x, the input, lies outside the limits.
  virtual void clamp_adjoint(Tensor /*d_x*/, Tensor /*x*/, float /*limit*/) { lacks("clamp"); }

  // sigmoid_scale: d_x in place; d_gate [rows, 1]. x: the input, before it was scaled.
  virtual void sigmoid_scale_adjoint(Tensor /*d_x*/, Tensor /*d_gate*/, Tensor /*x*/, Tensor /*gate*/) {
    lacks("sigmoid_scale");
  }

  // attention:     d_q [n_tokens, n_heads * d_key], d_k [n_tokens, n_kv_heads * d_key], d_v [n_tokens, n_kv_heads *
  //                d_value] from d_out [n_tokens, n_heads * d_value]. Row t of d_k and d_v is the key of token t of
  //                the batch, in which every sequence must be whole: from position 0 on, neighbours in order. Latent
  //                attention: d_k and d_v are the latent's two roles apart.
  virtual void attention_adjoint(Tensor /*d_q*/, Tensor /*d_k*/, Tensor /*d_v*/, Tensor /*d_out*/, Tensor /*q*/,
                                 const KvCache&, const BatchView&, const AttentionParams&) {
    lacks("attention");
  }

  // mla_absorb:    d_q [n_tokens, n_heads * (d_nope + d_rope)] from d_out [n_tokens, n_heads * (d_latent + d_rope)]
  virtual void mla_absorb_adjoint(Tensor /*d_q*/, Tensor /*d_out*/, const Matrix& /*kv_b*/, int64_t /*n_heads*/,
                                  int64_t /*d_nope*/, int64_t /*d_rope*/, int64_t /*d_value*/) {
    lacks("mla_absorb");
  }
  // mla_expand:    d_latent [n_tokens, n_heads * d_latent] from d_out [n_tokens, n_heads * d_value]
  virtual void mla_expand_adjoint(Tensor /*d_latent*/, Tensor /*d_out*/, const Matrix& /*kv_b*/, int64_t /*n_heads*/,
                                  int64_t /*d_nope*/, int64_t /*d_value*/) {
    lacks("mla_expand");
  }

  // gated_hidden:  d_x [n_tokens, d_model] from d_hidden [n_tokens, d_ff] and x
  virtual void gated_hidden_adjoint(Tensor /*d_x*/, Tensor /*d_hidden*/, Tensor /*x*/, const Matrix& /*gate*/,
                                    const Matrix& /*up*/, const Activation&, bool /*add*/) {
    lacks("gated_hidden");
  }

  // combine:       d_expert_out [n_tokens * n_slots, d_model] = weight * d_out, d_weights [n_tokens, n_slots] = d_out .
  //                expert_out; 0 for slots with id -1. The shared expert's is d_out itself.
  virtual void combine_adjoint(Tensor /*d_expert_out*/, float* /*d_weights*/, Tensor /*d_out*/, Tensor /*expert_out*/,
                               const Route&) {
    lacks("combine");
  }

  // experts_out:   d_hidden [n_tokens * n_slots, d_ff] from d_out [n_tokens * n_slots, d_model]
  virtual void experts_out_adjoint(Tensor /*d_hidden*/, Tensor /*d_out*/, const Route&, int64_t /*n_tokens*/,
                                   const ExpertMatrices&) {
    lacks("experts_out");
  }

  // experts_hidden: d_x [n_tokens, d_model], the sum over slots in order, from d_hidden [n_tokens * n_slots, d_ff] and
  // x
  virtual void experts_hidden_adjoint(Tensor /*d_x*/, Tensor /*d_hidden*/, Tensor /*x*/, const Route&,
                                      int64_t /*n_tokens*/, const ExpertMatrices&, const Activation&, bool /*add*/) {
    lacks("experts_hidden");
  }

  // route:         d_logits [n_tokens, n_experts] from d_weights [n_tokens, n_slots], for the ids as applied: the
  //                family's rule for weights at the edited logits, or what the weights policy of the last edit says.
  //                Throws Error where an edit acts whose weights have no gradient here (steermoe).
  virtual void route_adjoint(Tensor /*d_logits*/, const float* /*d_weights*/, const Route&, Tensor /*logits*/,
                             const Router&, const float* /*selection_bias*/, const RouteBatch&) {
    lacks("route");
  }

  // log_probs:     d_logits[r] (+)= factors[r] (e_targets[r] - softmax(logits[r])); rows with targets[r] < 0 get
  // nothing.
  virtual void log_probs_adjoint(Tensor /*d_logits*/, Tensor /*logits*/, const int32_t* /*targets*/,
                                 const float* /*factors*/, bool /*add*/) {
    lacks("log_probs");
  }

  // compare_logits: d_logits[r] = factors[r] (softmax(logits[r]) - softmax(reference[r])): of divergence[r] by the
  // logits.
  virtual void compare_logits_adjoint(Tensor /*d_logits*/, Tensor /*logits*/, Tensor /*reference*/,
                                      const float* /*factors*/) {
    lacks("compare_logits");
  }

 private:
  [[noreturn]] static void lacks(const char* op) {
    throw Error("gradient",
                std::string("expected a device with adjoints (--device cpu), found one without that of ") + op);
  }
};

}  // namespace signalbox::kernels
