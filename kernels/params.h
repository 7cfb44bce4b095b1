// What a model asks of an op, as numbers: no memory, no device.
#pragma once
#include <cstdint>

#include "base/namespaces.h"

namespace signalbox::kernels {

// The activation of a gated feed-forward block: hidden = activate(gate) * up.
struct Activation {
  enum class Kind : uint8_t {
    silu,     // silu(gate) * up
    clamped,  // g = min(gate, limit), u = clamp(up, -limit, limit): g * sigmoid(alpha * g) * (u + 1)
  };
  Kind kind = Kind::silu;
  float alpha = 1.702f, limit = 7.0f;
};

// The router of every family as a row of data.
//
// From logits z [n_experts] to a route of n_active (expert, weight) pairs, in fp32:
//   scores    = softmax(z) | sigmoid(z); with softmax_over_selected the logits themselves
//   selection = scores (+ selection_bias), after group limiting: groups of n_experts / n_groups neighbours, the
//               n_groups_kept best groups stay, the scores of the others become 0
//   ids       = the n_active largest, descending, ties to the lowest index
//   weights   = scores at ids; softmax over the selected logits if softmax_over_selected; divided by their sum
//               (+ renormalize_epsilon) if renormalize; times scale
struct Router {
  enum class Score : uint8_t { softmax, sigmoid };
  enum class GroupScore : uint8_t { max, sum_top2 };

  int32_t n_experts = 0;
  int32_t n_active = 0;
  Score score = Score::softmax;
  bool softmax_over_selected = false;
  bool renormalize = false;
  float renormalize_epsilon = 0;
  float scale = 1;
  int32_t n_groups = 1, n_groups_kept = 1;
  GroupScore group_score = GroupScore::max;
  // True where some groups are dropped.
  bool limits_groups() const { return n_groups > 1 && n_groups_kept < n_groups; }
  bool bias = false;            // a bias is added to the logits
  bool selection_bias = false;  // a bias is added for the choice only; weights come from the unbiased scores
};

}  // namespace signalbox::kernels
