// Direct edges: what one part of a model does to another of the same token with everything between them held. Exact,
// and no forward pass: the receiver is evaluated alone on stream + change of the sender, its norm recomputed. That is
// path patching with everything frozen (Wang et al. 2022, arXiv 2211.00593, with MLPs and experts frozen too).
//
// A sender's change is its output in the other run minus that in the base run, at positions that stand for one another.
// Experts go by id: one that is not selected sends 0. Router, experts and shared expert read one normed vector and are
// receivers of their own: through the route and through the content can be told apart.
#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/namespaces.h"
#include "engine/receivers.h"
#include "engine/session.h"
#include "eval/causal/node.h"
#include "probes/activation_store.h"

namespace signalbox::eval {

class DirectEdges {
 public:
  // What both runs must have recorded (recorded_run.h), and the same as globs.
  static PointSet points(const ModelShape& shape) { return PointSet::parse(globs(shape), shape); }
  static std::string globs(const ModelShape& shape);

  // Stores of one sample. `map`: [base, other] positions. The session outlives this.
  DirectEdges(const engine::Session& session, std::shared_ptr<const ActivationStore> base,
              std::shared_ptr<const ActivationStore> other, std::span<const std::array<int32_t, 2>> map);

  struct Change {
    CausalNode sender;
    std::vector<float> delta;  // [d_model] other - base
  };
  // Of the senders that `receiver` reads, in order of execution; those that did not change are left out. A position
  // that stands for none has no changes. Throws Error for a node that does not receive.
  std::vector<Change> changes(int32_t position, const CausalNode& receiver);

  struct RouterEdge {
    std::vector<float> logits;           // [n_experts] change
    std::vector<int32_t> entered, left;  // expert ids, ascending: which come into the route and leave it
    std::vector<float> weights;          // [n_experts] change of the weight as applied; not selected = 0
    std::vector<int32_t> route;          // [n_slots] the route with the change,
    std::vector<float> route_weights;    // [n_slots] and its weights
  };
  // Of each change alone.
  std::vector<RouterEdge> router(int32_t layer, int32_t position, std::span<const Change> changes);

  // Change of what the receiver makes, for each change alone: of an expert weight x output [d_model] with ids and
  // weights held at the base run's (0 where it is not selected there), of the shared expert and a dense block their
  // outputs [d_model], of queries, keys and values [d_head] as the points attn.q, attn.k, attn.v.
  std::vector<std::vector<float>> content(const CausalNode& receiver, int32_t position,
                                          std::span<const Change> changes);
  // Change of the logits of some tokens, [changes][tokens].
  std::vector<std::vector<float>> logits(int32_t position, std::span<const int32_t> tokens,
                                         std::span<const Change> changes);

  // Which parts make the router's logits in the base run: the linear account with the norm's divisor r held,
  // z_e = sum over parts of W_r[e] (gamma * c) / r, which is exact as a sum. Applied to k-th minus next logit it says
  // what makes the margin.
  struct RouteShares {
    struct Part {
      CausalNode sender;
      std::vector<float> logits;  // [n_experts]
    };
    std::vector<Part> parts;               // of all senders that the router reads, in order of execution
    std::vector<float> rest;               // [n_experts] biases of attention outputs and of the router
    std::vector<float> total;              // [n_experts] the router's logits: parts + rest up to rounding
    int32_t last_in = -1, first_out = -1;  // the experts between which the margin lies, by logit; -1: none is out
  };
  RouteShares route_shares(int32_t layer, int32_t position);

 private:
  using Parts = std::vector<Change>;
  Parts parts(const ActivationStore& run, int32_t position, int32_t stage);
  std::vector<float> streams(Point point, int32_t layer, int32_t position, std::span<const Change> changes) const;

  const engine::Session& session_;
  std::shared_ptr<const ActivationStore> base_, other_;
  std::vector<int32_t> other_of_;  // [base position] -1: none
  engine::Receivers receivers_;
};

}  // namespace signalbox::eval
