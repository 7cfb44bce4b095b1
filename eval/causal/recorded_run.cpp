#include "eval/causal/recorded_run.h"

#include <algorithm>

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
  Batch batch;
  batch.append(sequence, bound.get(), 0, job.prompt->tokens, job.prompt->spans, job.n_given(), n_rows);
  Forward forward = session.forward(n_slots);
  const Outputs outputs = forward.run(batch, made.store.get());
  forward.flush(*made.store);
  const std::string id = job.prompt->id;
  made.store->finish(std::span(&id, 1));
  const size_t bytes = static_cast<size_t>(outputs.logits.rows * outputs.logits.cols) * sizeof(float);
  made.memory = backend.allocate(std::max<size_t>(4, bytes));
  backend.copy(made.memory.get(), outputs.logits.data, bytes);
  made.logits = Tensor(static_cast<float*>(made.memory.get()), outputs.logits.rows, outputs.logits.cols);
  return made;
}

}  // namespace signalbox::eval
