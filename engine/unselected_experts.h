// A router's gradient that sees every expert, while the forward stays sparse (Yao et al. 2025, DenseMixer): the metric
// is differentiated as if the experts outside of the chosen set S had been added to the output as well, each with its
// score p (a family that divides by the sum over S: with p over that sum, held constant), times the family's scale.
//
// With a_u = dM/dy . f_u(h) it adds to dM/dz_j, for scores p = softmax(z) and c the held sum (1 without division):
//   scale / c p_j (1[j not in S] a_j - sum over u not in S of p_u a_u)
// and for p = sigmoid(z), of each j not in S: scale / c p_j (1 - p_j) a_j. The chosen experts' own part is
// AdjointOps::route_adjoint's. Weights of experts, and the stream that they read, get nothing from it.
#pragma once
#include "base/namespaces.h"
#include "kernels/backend.h"

namespace signalbox::engine {

// Adds to d_logits [n_tokens, n_experts], from d_out [n_tokens, d_model] of the block's output and h that its experts
// read. Every expert runs on every token, eight at a time.
void add_unselected_experts(Backend& backend, Tensor d_logits, Tensor d_out, Tensor h, Tensor logits,
                            const Route& route, const ExpertMatrices& experts, const Router& router,
                            const Activation& activation);

}  // namespace signalbox::engine
