#include "eval/circuit/model_scorer.h"

#include <algorithm>
#include <functional>

namespace signalbox::eval {

using namespace engine;
using namespace kernels;
using namespace probes;

namespace {

// How often each part runs in a run: experts where they are selected at `tokens(part)`; others 0.
void count_selected(const ActivationStore& run, const std::vector<NodeId>& nodes,
                    const std::function<std::vector<int32_t>(const NodeId&)>& tokens, std::vector<int64_t>& counts) {
  const size_t n_slots = static_cast<size_t>(run.n_slots()), n_layers = run.layers().size();
  std::vector<int32_t> ids;
  if (n_layers > 0) ids = run.ids(run.rows(0));
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (nodes[i].kind != NodeId::Kind::expert) continue;
    const auto at = static_cast<size_t>(*run.layer_index(nodes[i].layer));
    for (const int32_t t : tokens(nodes[i])) {
      const auto route = ids.begin() + static_cast<int64_t>((static_cast<size_t>(t) * n_layers + at) * n_slots);
      counts[i] += std::count(route, route + static_cast<int64_t>(n_slots), nodes[i].index);
    }
  }
}

std::vector<NodeId> scored_nodes(const ModelShape& shape, const CircuitPositions* positions) {
  const std::vector<NodeId> nodes = nodes_of(shape);
  return positions ? at_positions(nodes, positions->n, positions->others) : nodes;
}

// [token of the base record] its position.
std::vector<int32_t> positions_of(const CircuitPositions& positions, const CausalPair& pair, bool reverse,
                                  int64_t n_tokens) {
  const std::vector<int32_t>& clean = positions.of.at(pair.clean);
  if (!reverse) return clean;
  std::vector<int32_t> corrupt(static_cast<size_t>(n_tokens), -1);
  for (const auto& [from, to] : pair.map) corrupt[static_cast<size_t>(to)] = clean[static_cast<size_t>(from)];
  return corrupt;
}

}  // namespace

ModelScorer::ModelScorer(const Session& session, const RecordJobs& made, const std::vector<CausalPair>& pairs,
                         ScorerSetup setup)
    : session_(session),
      setup_(std::move(setup)),
      nodes_(scored_nodes(session.shape, setup_.positions.get())),
      forward_(session.forward(0)) {
  keep_in(setup_.log, setup_.name);
  const bool reverse = setup_.reverse;
  std::vector<int64_t> selected(nodes_.size()), elsewhere(nodes_.size());
  differing_ = nothing();
  int64_t n_tokens = 0;
  for (const CausalPair& pair : pairs) {
    require_running();
    const Job &base = made.jobs[reverse ? pair.corrupt : pair.clean],
              &other = made.jobs[reverse ? pair.clean : pair.corrupt];
    rows_.push_back(reverse ? pair.corrupt_rows : pair.clean_rows);
    std::vector<std::array<int32_t, 2>> map = pair.map;
    if (reverse) {
      for (auto& [from, to] : map) std::swap(from, to);
      std::sort(map.begin(), map.end());
    }
    std::vector<int32_t> positions;
    if (setup_.positions) positions = positions_of(*setup_.positions, pair, reverse, base.n_given());
    pairs_.push_back(std::make_unique<AblatedPair>(session, base, other, rows_.back().n_rows(), std::move(map),
                                                   setup_.ablation, setup_.means.get(), positions, setup_.out));
    if ((reverse || !setup_.out.empty()) && rows_.back().metric == Metric::kl)
      clean_.push_back(record_run(session, made.jobs[pair.clean], pair.clean_rows.n_rows(), PointSet(), "clean"));
    const AblatedPair& made_pair = *pairs_.back();
    count_selected(
        made_pair.base(), nodes_, [&](const NodeId& node) { return made_pair.tokens_of(node); }, selected);
    if (made_pair.other())
      count_selected(
          *made_pair.other(), nodes_, [&](const NodeId& node) { return made_pair.other_tokens_of(node); }, elsewhere);
    for (size_t i = 0; i < nodes_.size(); ++i) differing_[i] = differing_[i] || made_pair.differs(nodes_[i]);
    n_tokens += made_pair.n_tokens();
    whole_.push_back(metric_of(pairs_.size() - 1, pairs_.back()->run().logits));
    if (setup_.on_runs) setup_.on_runs(2);
  }
  for (size_t i = 0; i < nodes_.size(); ++i) {
    active_.push_back(nodes_[i].kind != NodeId::Kind::expert || setup_.ablation == CircuitAblation::mean ||
                      selected[i] + elsewhere[i] > 0);
    differing_[i] = differing_[i] && active_[i];
    usage_.push_back(nodes_[i].kind == NodeId::Kind::expert
                         ? static_cast<double>(selected[i]) / static_cast<double>(n_tokens)
                         : 1.0);
  }
  // With the other record's values a circuit of nothing is the other run, embedding included; without them the tokens
  // stay what they are.
  std::vector<NodeId> everything;
  if (setup_.ablation == CircuitAblation::corrupt) everything = embeddings();
  everything.insert(everything.end(), nodes_.begin(), nodes_.end());
  none_ = run_without(everything);
}

std::vector<NodeId> ModelScorer::embeddings() const {
  const std::vector<NodeId> one(1);
  return setup_.positions ? at_positions(one, setup_.positions->n, setup_.positions->others) : one;
}

void ModelScorer::require_running() const {
  if (setup_.interrupted && *setup_.interrupted) throw CircuitInterrupted();
}

double ModelScorer::metric_of(size_t i, Tensor logits) const {
  return metric_value(*session_.backend, rows_[i], logits, reference(i));
}

std::vector<double> ModelScorer::run_all(std::span<const Run> runs) {
  std::vector<double> values;
  for (size_t begin = 0; begin < runs.size();) {
    require_running();
    size_t end = begin;
    int64_t tokens = 0, blocks = 0;
    for (; end < runs.size() && static_cast<int64_t>(end - begin) < setup_.batch; ++end) {
      const int64_t n = pairs_[runs[end].pair]->n_tokens();
      if (end > begin && tokens + n > setup_.batch_tokens) break;
      tokens += n;
      blocks += KvPool::blocks_for(n);
    }
    KvPool pool(*session_.backend, session_.model, blocks);
    std::vector<SequenceCache> sequences;
    sequences.reserve(end - begin);
    Batch batch;
    for (size_t i = begin; i < end; ++i) {
      const Job& job = pairs_[runs[i].pair]->job();
      sequences.emplace_back(pool);
      batch.append(sequences.back(), runs[i].edits.get(), static_cast<int64_t>(i - begin), job.prompt->tokens,
                   job.prompt->spans, job.n_given(), rows_[runs[i].pair].n_rows());
    }
    const Outputs outputs = forward_.run(batch, nullptr);
    int64_t row = 0;
    for (size_t i = begin; i < end; ++i) {
      const int64_t n = rows_[runs[i].pair].n_rows();
      values.push_back(metric_of(runs[i].pair, Tensor(outputs.logits.row(row), n, outputs.logits.cols)));
      row += n;
    }
    if (setup_.on_runs) setup_.on_runs(static_cast<int64_t>(end - begin));
    begin = end;
  }
  return values;
}

std::vector<double> ModelScorer::run_without(const std::vector<NodeId>& ablated) {
  std::vector<Run> runs;
  for (size_t i = 0; i < pairs_.size(); ++i) runs.push_back({i, pairs_[i]->ablate(ablated)});
  return run_all(runs);
}

std::vector<double> ModelScorer::run(const NodeMask& kept) {
  std::vector<NodeId> ablated;
  for (size_t i = 0; i < nodes_.size(); ++i)
    if (!kept[i]) ablated.push_back(nodes_[i]);
  return ablated.empty() ? whole_ : run_without(ablated);
}

std::vector<double> ModelScorer::metrics(size_t i, std::span<const std::shared_ptr<const BoundEdits>> edits) {
  std::vector<Run> runs;
  for (const auto& edit : edits) runs.push_back({i, edit});
  return run_all(runs);
}

}  // namespace signalbox::eval
