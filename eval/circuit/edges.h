// What passes between two parts: the sender's ablated value reaches the receiver and nothing else, everything between
// them held (path patching with all parts frozen). The residual stream is then, at every later place, that of the base
// run plus the sender's change; one run in which it is set to that tells what every receiver would do.
//
//   feeds    the receiver's output under that stream, its route held (ids and weights), is given to the base run, which
//            goes on from there: change of the metric. For logits: the metric of that stream itself
//            ... of a head also by one of its inputs alone: its query, key or value is made of that stream, the other
//            two and all other heads are as they were; heads that share a key have it each for itself
//   selects  whether the receiver, an expert, is selected under that stream, and its router logit: change of its share
//            of tokens, and mean change of the logit
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/namespaces.h"
#include "eval/circuit/model_scorer.h"

namespace signalbox::eval {

inline constexpr std::array<char, 3> head_inputs = {'q', 'k', 'v'};

struct EdgeEffects {
  NodeId source, target;
  std::vector<double> feeds;                  // [pair]
  std::array<std::vector<double>, 3> inputs;  // [head_inputs][pair] of feeds; empty: not measured
  std::vector<double> selects, dlogits;       // [pair]; of experts
  // The same of changes that are no message of the sender: its own of other tokens, and random ones of the same length
  // at each token. Sizes, [pair x draw].
  std::vector<double> control_feeds, control_selects;
};

// How the outputs of `receivers`, and what selects them, change with one sender in one pair.
struct Response {
  NodeId receiver;
  std::vector<float> values;  // [n_tokens, width] as written_by; of logits empty
  double feeds = 0;           // of logits: change of the metric
  double selects = 0, dlogit = 0;
  bool changed = false;  // of the values
  // Of a head, where asked for: the same by each of head_inputs.
  struct ByInput {
    std::vector<float> values;
    double feeds = 0;
    bool changed = false;
  };
  std::array<ByInput, 3> inputs;
};
// `change` [n_tokens, d_model]: of the stream behind the sender. `by_input`: of heads also by one input alone.
std::vector<Response> respond(ModelScorer& scorer, size_t pair, const NodeId& sender, const std::vector<float>& change,
                              std::span<const NodeId> receivers, bool by_input = false);
// What the sender's ablated value changes there.
std::vector<float> stream_change(const ModelScorer& scorer, size_t pair, const NodeId& sender);

// Every edge among `nodes` (ascending; with embed, where it is ablated, and logits) from a part to one that it
// precedes, not measured; those of one source stand together.
std::vector<EdgeEffects> edges_among(const std::vector<NodeId>& nodes);
// Fills feeds, selects and dlogits. Throws CircuitInterrupted, and what the forward throws.
void measure_edges(ModelScorer& scorer, std::vector<EdgeEffects>& edges);

// Fills `inputs` of the edges at these indices (ascending) that end in a head.
void measure_inputs(ModelScorer& scorer, std::vector<EdgeEffects>& edges, std::span<const size_t> which);

// Controls of the edges at these indices (ascending): for each pair `draws` of either kind.
void measure_controls(ModelScorer& scorer, std::vector<EdgeEffects>& edges, std::span<const size_t> which,
                      int64_t draws, uint64_t seed);

}  // namespace signalbox::eval
