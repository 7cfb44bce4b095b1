// What every sender of the causal graph (node.h) wrote to the residual stream in one run. The stream is their sum: the
// embedding, each head's part of the output projection, the projection's bias, each expert's weight times output where
// the token selected it and nothing where it did not, the shared expert behind its gate, dense blocks. An expert is its
// id, not a slot: two runs of different routes then differ by what they differ in.
//
// The stream grows in stages (node_stage): a receiver of stage s sees what was written in stages below s.
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "engine/session.h"
#include "engine/stream_readers.h"
#include "eval/causal/node.h"
#include "probes/activation_store.h"

namespace signalbox::eval {

// The receiver of a reader (engine/stream_readers.h).
CausalNode receiver_of(engine::Reader reader, int32_t layer, int32_t unit);

// Stages of the nodes that send: 0 ... stages - 1.
inline int32_t n_stages(int64_t n_layers) { return static_cast<int32_t>(1 + 2 * n_layers); }
// The point at which the nodes of a stage write, whose gradient is that of each of their contributions.
probes::PointAt writing_point(int32_t stage, const probes::ModelShape& shape);

// What every node wrote in one sequence.
class Contributions {
 public:
  // Globs of the points that a run must record.
  static std::string points(const probes::ModelShape& shape);
  // Of one sample of a store that recorded points(). Heads are made here: [n_heads, n_tokens, d_model] floats a layer.
  Contributions(const engine::Session& session, const probes::ActivationStore& store, int64_t sample = 0);

  int64_t n_tokens() const { return n_tokens_; }
  int64_t d_model() const { return d_model_; }
  // What a node wrote at a token, [d_model]; null: nothing.
  const float* at(const CausalNode& node, int64_t token) const;
  // The nodes that wrote something at a token in a stage: heads, then the bias; experts by id, then the shared one.
  using Visit = std::function<void(const CausalNode& node, const float* contribution)>;
  void each(int32_t stage, int64_t token, const Visit& visit) const;
  // Experts that the token selected in a layer, ascending; empty where it has no router.
  std::span<const int32_t> experts(int64_t layer, int64_t token) const;

 private:
  struct Layer {
    int64_t n_heads = 0, n_slots = 0;
    std::vector<float> heads;        // [n_heads, n_tokens, d_model]
    std::vector<float> bias;         // [d_model]
    std::vector<int32_t> ids;        // [n_tokens, n_slots] ascending, unused ones last
    std::vector<int32_t> used;       // [n_tokens]
    std::vector<float> experts;      // [n_tokens, n_slots, d_model]
    std::vector<float> shared, mlp;  // [n_tokens, d_model]
  };
  const float* row(const std::vector<float>& rows, int64_t r) const {
    return rows.empty() ? nullptr : rows.data() + r * d_model_;
  }
  void add_heads(const engine::Session& session, int64_t l, const std::vector<float>& z);
  int64_t n_tokens_ = 0, d_model_ = 0;
  std::vector<float> embed_;
  std::vector<Layer> layers_;
};

// The mean of what each node wrote over the tokens of several runs; an expert's over the tokens that selected it.
class NodeMeans {
 public:
  void add(const Contributions& run, int64_t n_layers);
  // [d_model]; null: no token had it.
  const std::vector<double>* of(const CausalNode& node) const;
  // To be called once, after the last add().
  void finish();

 private:
  struct Sum {
    std::vector<double> mean;
    int64_t n = 0;
  };
  std::map<CausalNode, Sum, NodeOrder> sums_;
};

// By how much each node's contribution differs from what takes its place: delta = new - old, token by token.
class NodeChanges {
 public:
  struct Change {
    CausalNode node;
    const float* by = nullptr;  // [d_model]
  };
  // Another run's contributions at the positions that `map` joins ([position here, position there]); an expert that
  // only one of the two selected counts as 0 in the other. Positions that are in no entry change nothing.
  static NodeChanges between(const Contributions& here, const Contributions& there,
                             std::span<const std::array<int32_t, 2>> map, int64_t n_layers);
  // Nothing in its place.
  static NodeChanges to_zero(const Contributions& here, int64_t n_layers);
  // Its mean in its place; Error naming the first node that has none.
  static NodeChanges to_mean(const Contributions& here, const NodeMeans& means, int64_t n_layers);
  NodeChanges(NodeChanges&&) = default;

  int64_t n_tokens() const { return n_tokens_; }
  int32_t n_stages() const { return static_cast<int32_t>(stages_.size()); }
  std::span<const Change> at(int32_t stage, int64_t token) const;

 private:
  struct Stage {
    std::vector<size_t> first;  // [n_tokens + 1] of changes
    std::vector<Change> changes;
    std::vector<float> rows;  // [changes, d_model]
  };
  NodeChanges(const Contributions& here, int64_t n_layers)
      : n_tokens_(here.n_tokens()), d_model_(here.d_model()), stages_(static_cast<size_t>(eval::n_stages(n_layers))) {}
  // `rows(stage, token, put)` calls put(node, old, new) for every node of the stage; either may be null: 0.
  using Put = std::function<void(const CausalNode& node, const float* was, const float* is)>;
  void fill(const std::function<void(int32_t stage, int64_t token, const Put& put)>& rows);
  int64_t n_tokens_, d_model_;
  std::vector<Stage> stages_;
};

}  // namespace signalbox::eval
