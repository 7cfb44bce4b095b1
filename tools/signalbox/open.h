// Opening models as the flags say.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "base/namespaces.h"
#include "engine/session.h"
#include "loaders/model/rewrite.h"
#include "loaders/open.h"
#include "tools/signalbox/flags.h"

namespace signalbox::tools {

// Throws UsageError for a --device that cannot be meant, Error for one that is not there.
std::unique_ptr<Backend> open_backend(const CommonOptions& options);

// What --load says.
LoadPolicy load_policy(const CommonOptions& options);

// MODEL, ready to run: with a bar while weights go to a device, and session.encode and session.options as the flags
// say. Throws Error for --edits that the model cannot carry, and calls on_model, before weights are loaded.
Session open_session(const CommonOptions& options, const std::function<void(const ModelShape&)>& on_model = {});

// MODEL of a command that writes a checkpoint of what it makes of it.
struct WritableModel {
  Session session;
  Rewrite rewrite;
};
// Weights that --adapter changes are rounded to the dtypes of the checkpoint if it will be written (`writes`): what is
// measured is what is written. Throws Error, too, for adapters of one of two tied embeddings, which a checkpoint of
// this model has no place for, and UsageError for adapters on a device with memory of its own.
WritableModel open_writable(const CommonOptions& options, bool writes = true);

// Throws Error naming the keys of MODEL's generation_config.json that would change greedy text and are not applied,
// unless --generation-config ignore. For commands that generate, before anything is loaded.
void check_generation(const CommonOptions& options);

// Tokenizer and template alone, from a directory that may hold nothing else.
TextTools open_text(const std::string& model, bool tokenizer_required);

// session.options with what the command's flags say of sampling. Throws Error for a --stop that cannot be.
RunOptions run_options(const Session& session, const SamplingOptions& sampling);

// Says on standard error why --device auto has taken the CPU, where that is a surprise: for a model that is slow there
// (of at least slow_on_cpu parameters), or where there is a driver but no device. Call it when everything that can be
// refused has been.
void tell_cpu_fallback(const CommonOptions& options, const Session& session);
inline constexpr int64_t slow_on_cpu = 300'000'000;

}  // namespace signalbox::tools
