// Scores of edges between what writes to the residual stream and what reads it:
//   EAP(u -> v) = sum over tokens t of delta_u[t] . dM/d in_v[t]
// where delta_u is by how much the contribution of node u changes and in_v the stream as receiver v sees it (its norm
// included: engine/stream_readers.h). Syed et al. 2023 (2310.10348); with the gradient averaged over a path, Hanna et
// al. 2024 (2403.17806). Sums are in double, over tokens ascending.
#pragma once
#include <cstdint>
#include <map>
#include <vector>

#include "base/namespaces.h"
#include "eval/causal/contributions.h"

namespace signalbox::eval {

struct ScoredEdge {
  CausalNode from;
  CausalNode to;
  double score = 0;
};

// Listens to ways back, and adds up what the edges get, `weight` times each.
class EdgeScores : public engine::ReaderSink {
 public:
  // `changes` live as long as this.
  EdgeScores(const NodeChanges& changes, int64_t d_model, int64_t n_layers);
  void set_weight(double weight) { weight_ = weight; }

  bool wants(engine::Reader, int32_t) const override { return true; }
  void take(engine::Reader reader, int32_t layer, int32_t unit, std::span<const float> d) override;
  void take_experts(int32_t layer, std::span<const int32_t> ids, std::span<const float> d) override;

  // Every pair of a node that changes somewhere and a receiver that reads later and somewhere ran: by receiver in order
  // of reading, then by node in order of writing.
  std::vector<ScoredEdge> edges() const;

 private:
  void add(const CausalNode& to, int64_t token, const float* slope);
  const NodeChanges& changes_;
  size_t d_model_;
  int32_t n_layers_;
  double weight_ = 1;
  std::vector<CausalNode> senders_;                              // by stage, then by node
  std::vector<size_t> senders_before_;                           // [stages + 1] how many write in earlier stages
  std::vector<std::vector<std::vector<size_t>>> of_;             // [stage][token] indices of the senders that change
  std::map<CausalNode, std::vector<double>, NodeOrder> scores_;  // [receiver][senders before]
};

// In double, several sums side by side.
double dot_rows(const float* a, const float* b, size_t n);

}  // namespace signalbox::eval
