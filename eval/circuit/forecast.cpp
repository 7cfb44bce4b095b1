#include "eval/circuit/first_order.h"

#include <cmath>
#include <string>

#include "base/error.h"
#include "engine/gradient.h"

namespace signalbox::eval {

using namespace engine;
using namespace kernels;
using namespace probes;

namespace {

using Kind = NodeId::Kind;

// The points whose gradient is that of each part that writes there.
PointSet writing_points(const ModelShape& shape) {
  std::string globs = "*.attn.z";
  bool moe = false, shared = false, dense = false;
  for (const LayerShape& layer : shape.layers) {
    moe = moe || layer.moe;
    shared = shared || layer.shared;
    dense = dense || !layer.moe;
  }
  if (moe) globs += ",*.moe.out";
  if (shared) globs += ",*.shared.out";
  if (dense) globs += ",*.mlp.out";
  return PointSet::parse(globs, shape);
}

// Where a part's gradient stands, and from which column on.
std::pair<Point, int64_t> slope_of(const ModelShape& shape, const NodeId& node) {
  switch (node.kind) {
    case Kind::head: return {Point::attn_z, node.index * shape.layers[static_cast<size_t>(node.layer)].attention.d_z};
    case Kind::shared: return {Point::shared_out, 0};
    case Kind::mlp: return {Point::mlp_out, 0};
    default: return {Point::moe_out, 0};
  }
}

}  // namespace

std::vector<double> first_order_sizes(const ModelScorer& scorer) {
  const Session& session = scorer.session();
  Backend& backend = *session.backend;
  const ModelShape& shape = session.shape;
  Gradient gradient(backend, session.model, session.weights, 0);
  std::vector<double> sizes(scorer.nodes().size());
  for (size_t p = 0; p < scorer.n_pairs(); ++p) {
    scorer.require_running();
    const AblatedPair& pair = scorer.pair(p);
    const MetricRows& rows = scorer.rows(p);
    if (rows.metric == Metric::kl)
      throw Error("--filter",
                  "expected a metric other than kl, whose gradient at the unedited run is 0, or as many "
                  "parts as the model has, found kl");
    ActivationStore slopes("slopes", shape, writing_points(shape));
    KvPool pool(backend, session.model, KvPool::blocks_for(pair.n_tokens()));
    SequenceCache sequence(pool);
    Batch batch;
    const Job& job = pair.job();
    batch.append(sequence, nullptr, 0, job.prompt->tokens, job.prompt->spans, job.n_given(), rows.n_rows());
    gradient.run(batch, nullptr, slopes,
                 [&](Tensor logits, Tensor d_logits) { metric_adjoint(backend, rows, d_logits, logits, logits); });
    slopes.finish({&job.prompt->id, 1});
    for (size_t i = 0; i < sizes.size(); ++i) {
      if (!scorer.differing()[i]) continue;
      const NodeId& node = scorer.nodes()[i];
      const auto [point, first] = slope_of(shape, node);
      double sum = 0;
      for (const int32_t t : pair.tokens_of(node)) {
        if (!pair.mapped()[static_cast<size_t>(t)]) continue;
        const std::vector<float> own = written_by(pair.base(), shape, node, t), ablated = pair.ablated(node, t);
        const auto slope = slopes.row(point, node.layer, 0, t).subspan(static_cast<size_t>(first));
        for (size_t c = 0; c < own.size(); ++c)
          sum += static_cast<double>(slope[c]) * (static_cast<double>(ablated[c]) - static_cast<double>(own[c]));
      }
      sizes[i] += std::fabs(sum) / static_cast<double>(scorer.n_pairs());
    }
  }
  return sizes;
}

}  // namespace signalbox::eval
