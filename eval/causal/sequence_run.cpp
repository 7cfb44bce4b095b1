#include "eval/causal/sequence_run.h"

#include <algorithm>

#include "eval/causal/recorded_run.h"
#include "probes/edit_memory.h"
#include "probes/edit_spec.h"

namespace signalbox::eval {

using namespace engine;
using namespace kernels;
using namespace probes;

SequenceRun run_sequence(const Session& session, const SequenceRequest& request) {
  Backend& backend = *session.backend;
  const Job& job = *request.job;
  const int64_t n = job.n_given(), d_model = session.model.d_model;
  const int32_t n_slots = request.plan ? request.plan->max_slots() : 0;
  const auto points = [&](const std::string& globs) {
    return globs.empty() ? PointSet() : PointSet::parse(globs, session.shape);
  };
  SequenceRun run;
  const int64_t n_rows = request.rows ? request.rows->n_rows() : 0;
  const auto measure = [&](Tensor logits) {
    if (request.rows)
      run.metric = metric_value(backend, *request.rows, logits, request.reference ? request.reference : logits);
  };
  if (!request.back && !request.embedded) {
    RecordedRun made = record_run(session, job, n_rows, points(request.values), request.name, request.plan);
    measure(made.logits);
    run.values = std::move(made.store);
    run.memory = std::move(made.memory);
    run.logits = made.logits;
    return run;
  }
  run.values = std::make_shared<ActivationStore>(request.name, session.shape, points(request.values), n_slots);
  std::shared_ptr<const BoundEdits> bound;
  if (request.plan) bound = request.plan->bind(sequence_info(job));
  KvPool pool(backend, session.model, KvPool::blocks_for(n));
  SequenceCache sequence(pool);
  Batch batch;
  batch.append(sequence, bound.get(), 0, job.prompt->tokens, job.prompt->spans, n, n_rows);
  std::shared_ptr<void> embedded_memory;
  Tensor embedded;
  if (request.embedded) {
    const size_t bytes = request.embedded->size() * sizeof(float);
    embedded_memory = backend.allocate(bytes);
    backend.upload(embedded_memory.get(), request.embedded->data(), bytes);
    embedded = Tensor(static_cast<float*>(embedded_memory.get()), n, d_model);
  }
  const auto keep = [&](Tensor logits) {
    measure(logits);
    const size_t bytes = static_cast<size_t>(logits.rows * logits.cols) * sizeof(float);
    run.memory = backend.allocate(std::max<size_t>(4, bytes));
    backend.copy(run.memory.get(), logits.data, bytes);
    run.logits = Tensor(static_cast<float*>(run.memory.get()), logits.rows, logits.cols);
  };
  if (request.back) {
    run.slopes = std::make_shared<ActivationStore>("slopes", session.shape, points(request.slopes), n_slots);
    Gradient gradient(backend, session.model, session.weights, n_slots);
    Gradient::More more;
    more.readers = request.readers;
    more.embedded = embedded;
    more.holds_final_divisor = request.holds_final_divisor;
    more.dropped_layer = request.dropped_layer;
    const auto objective = [&](Tensor logits, Tensor d_logits) {
      keep(logits);
      metric_adjoint(backend, *request.rows, d_logits, logits, request.reference ? request.reference : logits);
    };
    gradient.run(batch, run.values.get(), *run.slopes, objective, more);
  } else {
    Forward forward = session.forward(n_slots);
    const Outputs outputs = forward.run_from(batch, 0, embedded, run.values.get());
    forward.flush(*run.values);
    keep(outputs.logits);
  }
  const std::string id = job.prompt->id;
  run.values->finish(std::span(&id, 1));
  if (run.slopes) run.slopes->finish(std::span(&id, 1));
  return run;
}

std::shared_ptr<const EditPlan> hold_routes(const Session& session,
                                            const std::shared_ptr<const ActivationStore>& store) {
  EditMemory memory;
  memory.add(store);
  json::Value edits = json::Value::array();
  edits.push_back(json::Value::object()
                      .set("op", "replay")
                      .set("trace", "memory:" + store->name())
                      .set("layers", layer_ranges(session.model.moe_layers()))
                      .set("weights", "model"));
  return EditPlan::parse(json::Ref(edits, "edits"), ".", session.shape, 0, &memory);
}

}  // namespace signalbox::eval
