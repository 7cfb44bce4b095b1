#include "eval/causal/edges.h"

#include <algorithm>
#include <set>

namespace signalbox::eval {

using namespace engine;

double dot_rows(const float* a, const float* b, size_t n) {
  constexpr size_t lanes = 8;
  double sums[lanes] = {};
  size_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (size_t j = 0; j < lanes; ++j) sums[j] += static_cast<double>(a[i + j]) * static_cast<double>(b[i + j]);
  for (; i < n; ++i) sums[i % lanes] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  double sum = 0;
  for (const double s : sums) sum += s;
  return sum;
}

EdgeScores::EdgeScores(const NodeChanges& changes, int64_t d_model, int64_t n_layers)
    : changes_(changes), d_model_(static_cast<size_t>(d_model)), n_layers_(static_cast<int32_t>(n_layers)) {
  senders_before_.push_back(0);
  for (int32_t stage = 0; stage < changes.n_stages(); ++stage) {
    std::set<CausalNode, NodeOrder> nodes;
    for (int64_t t = 0; t < changes.n_tokens(); ++t)
      for (const NodeChanges::Change& change : changes.at(stage, t)) nodes.insert(change.node);
    const size_t first = senders_.size();
    senders_.insert(senders_.end(), nodes.begin(), nodes.end());
    senders_before_.push_back(senders_.size());
    auto& of_stage = of_.emplace_back(static_cast<size_t>(changes.n_tokens()));
    for (int64_t t = 0; t < changes.n_tokens(); ++t)
      for (const NodeChanges::Change& change : changes.at(stage, t))
        of_stage[static_cast<size_t>(t)].push_back(static_cast<size_t>(
            std::lower_bound(senders_.begin() + static_cast<int64_t>(first), senders_.end(), change.node, NodeOrder()) -
            senders_.begin()));
  }
}

void EdgeScores::add(const CausalNode& to, int64_t token, const float* slope) {
  const int32_t stage = node_stage(to, n_layers_);
  std::vector<double>& scores = scores_[to];
  scores.resize(senders_before_[static_cast<size_t>(stage)]);
  if (std::all_of(slope, slope + d_model_, [](float x) { return x == 0; })) return;
  for (int32_t s = 0; s < stage; ++s) {
    const auto changes = changes_.at(s, token);
    const std::vector<size_t>& senders = of_[static_cast<size_t>(s)][static_cast<size_t>(token)];
    for (size_t i = 0; i < changes.size(); ++i)
      scores[senders[i]] += weight_ * dot_rows(changes[i].by, slope, d_model_);
  }
}

void EdgeScores::take(Reader reader, int32_t layer, int32_t unit, std::span<const float> d) {
  for (int64_t t = 0; t < changes_.n_tokens(); ++t)
    add(receiver_of(reader, layer, unit), t, d.data() + static_cast<size_t>(t) * d_model_);
}

void EdgeScores::take_experts(int32_t layer, std::span<const int32_t> ids, std::span<const float> d) {
  for (size_t t = 0; t < ids.size(); ++t)
    if (ids[t] >= 0) add(receiver_of(Reader::expert, layer, ids[t]), static_cast<int64_t>(t), d.data() + t * d_model_);
}

std::vector<ScoredEdge> EdgeScores::edges() const {
  std::vector<ScoredEdge> edges;
  for (const auto& [to, scores] : scores_)
    for (size_t i = 0; i < scores.size(); ++i) edges.push_back({senders_[i], to, scores[i]});
  return edges;
}

}  // namespace signalbox::eval
