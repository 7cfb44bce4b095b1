// One run of a record that leaves what it made at some points in memory, and the logits that a metric looks at.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "base/namespaces.h"
#include "engine/session.h"
#include "probes/activation_store.h"

namespace signalbox::eval {

struct RecordedRun {
  std::shared_ptr<ActivationStore> store;  // of one sample, under the record's id
  std::shared_ptr<void> memory;
  Tensor logits;  // [n_rows, n_vocab] of the last n_rows tokens, in memory of the device
};

// Runs all given tokens of the job, under `plan` or none, in a sequence of its own; or as the first tokens of
// `sequence`, which then holds its keys and values; in chunks of the session's options. `name`: of the store.
RecordedRun record_run(const engine::Session& session, const engine::Job& job, int64_t n_rows, const PointSet& points,
                       const std::string& name, const EditPlan* plan = nullptr);
RecordedRun record_run(const engine::Session& session, const engine::Job& job, int64_t n_rows, const PointSet& points,
                       const std::string& name, const EditPlan* plan, engine::SequenceCache& sequence);

// A store of one sample `made_sample` with rows 0 .. n_tokens - 1 of what `fill` takes at the points of globs:
// values that edits find in memory.
inline constexpr const char* made_sample = "exchanged";
std::shared_ptr<ActivationStore> make_store(const std::string& name, const ModelShape& shape, const std::string& globs,
                                            int64_t n_tokens, const std::function<void(ActivationStore&)>& fill);

}  // namespace signalbox::eval
