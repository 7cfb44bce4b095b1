// One pair of records, ready to be run with any parts of the model ablated: what stands in a part's place is what it
// wrote in the other record's run at the position that stands for this one (an expert by its id, absent = 0), its mean,
// or nothing. Positions that stand for none keep what they are. Parts are of all tokens, or of those at one position of
// a circuit (positions.h).
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "engine/session.h"
#include "eval/causal/pairs.h"
#include "eval/causal/recorded_run.h"
#include "eval/circuit/node.h"

namespace signalbox::eval {

enum class CircuitAblation : uint8_t { corrupt, mean, zero };
CircuitAblation parse_ablation(std::string_view name, const std::string& where);  // throws Error, listing the names
std::string_view ablation_name(CircuitAblation ablation);

// What each part writes on the average over all tokens of some runs; an expert adds 0 where a token does not select it.
class PartMeans {
 public:
  explicit PartMeans(const ModelShape& shape) : shape_(shape) {}
  void add(const ActivationStore& run);
  // [width of the part's output: d_z of a head, else d_model]; what never ran has zeros.
  std::vector<float> of(const NodeId& node) const;

 private:
  struct Sum {
    std::vector<double> values;
  };
  const ModelShape& shape_;
  std::map<NodeId, Sum> sums_;
  int64_t n_tokens_ = 0;
};

// The points that runs must have recorded for all of this; with what heads read, apart.
PointSet node_points(const ModelShape& shape, bool head_inputs = false);

// What a part wrote at one token of a run: z of a head, weight x output of an expert (zeros where it was not selected),
// an output, the embedding.
std::vector<float> written_by(const ActivationStore& run, const ModelShape& shape, const NodeId& node,
                              int64_t position);

class AblatedPair {
 public:
  // `base`: the record that is run, `other`: where ablated values come from. `map`: [base, other] positions. `means`
  // for CircuitAblation::mean. `positions`: [token of base] of the circuit, -1 = none; empty: parts are of all tokens.
  // `out`: parts (ascending) that are ablated in every run, the base run too. All references outlive this.
  AblatedPair(const engine::Session& session, const engine::Job& base, const engine::Job& other, int64_t n_rows,
              std::vector<std::array<int32_t, 2>> map, CircuitAblation ablation, const PartMeans* means,
              const std::vector<int32_t>& positions = {}, std::vector<NodeId> out = {});

  const engine::Job& job() const { return job_; }
  const RecordedRun& run() const { return run_; }
  const ActivationStore& base() const { return *run_.store; }
  const ActivationStore* other() const { return other_.store.get(); }  // null: no other run was needed
  int64_t n_tokens() const { return job_.n_given(); }
  // [position] 1 = it has an ablated value.
  const std::vector<uint8_t>& mapped() const { return mapped_; }
  // The tokens that a part is of, ascending.
  const std::vector<int32_t>& tokens_of(const NodeId& node) const;
  // Those of the other record that stand for them.
  std::vector<int32_t> other_tokens_of(const NodeId& node) const;
  // What stands in the part's place at a mapped position.
  std::vector<float> ablated(const NodeId& node, int64_t position) const;
  // [n_tokens, d_model] the sum of what stands in the places of a layer's experts that do not stay [n_experts]; of
  // parts that are of all tokens.
  std::vector<float> ablated_experts(int32_t layer, const std::vector<uint8_t>& staying) const;
  // Whether that is anything else than what it writes, at one of its tokens.
  bool differs(const NodeId& node) const;

  // The edits that ablate these parts (ascending), bound to the base record; null: none are ablated.
  std::shared_ptr<const BoundEdits> ablate(std::span<const NodeId> nodes) const;
  // The edits that give one part other outputs at its tokens: values [n_tokens, width], as written_by.
  std::shared_ptr<const BoundEdits> replace(const NodeId& node, std::span<const float> values) const;

 private:
  std::shared_ptr<const EditPlan> plan(const json::Value& edits, const EditMemory& memory) const;
  std::shared_ptr<const BoundEdits> bind(const json::Value& edits, const EditMemory& memory) const;
  void add_ablation(std::span<const NodeId> nodes, json::Value& edits, EditMemory& memory) const;
  // [token] the experts or heads of one layer that are out there, ascending; -1 for a part that its layer has once.
  using OutAt = std::vector<std::vector<int32_t>>;
  OutAt out_at(std::span<const NodeId> alike) const;
  std::vector<float> ablated_expert_sum(int32_t layer, const OutAt& out) const;

  const engine::Session& session_;
  const engine::Job& job_;
  std::vector<int32_t> other_of_;  // [position] -1: none
  std::vector<uint8_t> mapped_;
  bool whole_;                                   // parts are of all tokens, which are tokens_[0]
  std::vector<std::vector<int32_t>> tokens_at_;  // [1 + position] ascending
  CircuitAblation ablation_;
  const PartMeans* means_;
  std::vector<NodeId> out_;
  RecordedRun run_, other_;
  std::shared_ptr<const ActivationStore> values_;  // ablated values of all but experts, by position
};

// A store of one sample that holds these tensors, [n_tokens, width] each; for edits that take values by position.
std::shared_ptr<const ActivationStore> made_store(const std::string& name, const ModelShape& shape,
                                                  const std::string& record,
                                                  const std::map<std::string, std::vector<float>>& tensors,
                                                  int64_t n_tokens);

}  // namespace signalbox::eval
