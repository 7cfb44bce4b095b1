#include "eval/causal/recorded_run.h"

#include <algorithm>
#include <numeric>

namespace signalbox::eval {

using namespace engine;
using namespace kernels;
using namespace probes;

RecordedRun record_run(const Session& session, const Job& job, int64_t n_rows, const PointSet& points,
                       const std::string& name, const EditPlan* plan) {
  KvPool pool(*session.backend, session.model, KvPool::blocks_for(job.n_given()));
  SequenceCache sequence(pool);
  return record_run(session, job, n_rows, points, name, plan, sequence);
}

RecordedRun record_run(const Session& session, const Job& job, int64_t n_rows, const PointSet& points,
                       const std::string& name, const EditPlan* plan, SequenceCache& sequence) {
  Backend& backend = *session.backend;
  const int32_t n_slots = plan ? plan->max_slots() : 0;
  RecordedRun made;
  made.store = std::make_shared<ActivationStore>(name, session.shape, points, n_slots);
  std::shared_ptr<const BoundEdits> bound;
  if (plan) bound = plan->bind(sequence_info(job));
  const int64_t n = job.n_given(), n_vocab = session.model.n_vocab, first_row = n - n_rows;
  const int64_t chunk = session.options.chunk > 0 ? session.options.chunk : n;
  made.memory = backend.allocate(std::max<size_t>(4, static_cast<size_t>(n_rows * n_vocab) * sizeof(float)));
  made.logits = Tensor(static_cast<float*>(made.memory.get()), n_rows, n_vocab);
  Forward forward = session.forward(n_slots);
  for (int64_t begin = 0; begin < n; begin += chunk) {
    const int64_t count = std::min(chunk, n - begin), wanted = std::clamp<int64_t>(begin + count - first_row, 0, count);
    const auto first = static_cast<size_t>(begin), size = static_cast<size_t>(count);
    const std::span<const uint32_t> spans(job.prompt->spans);
    Batch batch;
    batch.append(sequence, bound.get(), 0, std::span(job.prompt->tokens).subspan(first, size),
                 spans.empty() ? spans : spans.subspan(first, size), n, wanted);
    const Outputs outputs = forward.run(batch, made.store.get());
    if (wanted > 0)
      backend.copy(made.logits.row(begin + count - wanted - first_row), outputs.logits.data,
                   static_cast<size_t>(wanted * n_vocab) * sizeof(float));
  }
  forward.flush(*made.store);
  const std::string id = job.prompt->id;
  made.store->finish(std::span(&id, 1));
  return made;
}

std::shared_ptr<ActivationStore> make_store(const std::string& name, const ModelShape& shape, const std::string& globs,
                                            int64_t n_tokens, const std::function<void(ActivationStore&)>& fill) {
  auto store = std::make_shared<ActivationStore>(name, shape, PointSet::parse(globs, shape));
  std::vector<int32_t> positions(static_cast<size_t>(n_tokens));
  std::iota(positions.begin(), positions.end(), 0);
  const RowRange range{0, 0, n_tokens, 0};
  StepRows rows;
  rows.n_rows = n_tokens;
  rows.ranges = std::span(&range, 1);
  rows.positions = positions.data();
  store->begin(rows);
  fill(*store);
  store->end();
  const std::string id = made_sample;
  store->finish(std::span(&id, 1));
  return store;
}

}  // namespace signalbox::eval
