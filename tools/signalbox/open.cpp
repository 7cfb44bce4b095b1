#include "tools/signalbox/open.h"

#include <cstdio>

#include "base/text.h"
#include "loaders/model/load.h"
#include "tools/builtin/builtin_files.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"

namespace signalbox::tools {

LoadPolicy load_policy(const CommonOptions& options) {
  if (options.load == "copy") return LoadPolicy::copy;
  if (options.load == "map") return LoadPolicy::map;
  return options.load == "none" ? LoadPolicy::none : LoadPolicy::automatic;
}

namespace {

OpenOptions open_options(const CommonOptions& options) {
  OpenOptions open;
  const auto device = parse_device(options.device);
  if (!device) throw UsageError("--device", "expected auto, cpu or cuda[:N], found \"" + options.device + "\"");
  if (device->kind == DeviceChoice::Kind::cuda)
    if (const std::string reason = cuda_unavailable(); !reason.empty())
      throw Error(options.device + " (--device)", reason);
  open.device = *device;
  open.threads = options.threads;
  open.isa = options.isa;
  open.numerics = options.numerics;
  open.load = load_policy(options);
  open.chunk = options.chunk;
  open.adapters = options.adapters;
  open.merge_adapters = !options.unmerged;
  open.builtin = builtin_files();
  return open;
}

void set_encoding(const CommonOptions& options, EncodeSetup& setup) {
  setup.template_only_specials = options.special == "template-only";
  if (!options.template_variables.empty())
    setup.template_variables = json::parse(options.template_variables, "--template-variables");
  json::Ref(setup.template_variables, "--template-variables").expect_object();
  if (!options.date.empty()) setup.template_variables.set("date", options.date);
}

}  // namespace

std::unique_ptr<Backend> open_backend(const CommonOptions& options) { return open_backend(open_options(options)); }

namespace {

Session open_model(const CommonOptions& options, const std::function<void(const ModelShape&)>& on_model,
                   const std::function<void(const TensorId&)>& on_adapted) {
  OpenOptions open = open_options(options);
  open.on_adapted = on_adapted;
  open.on_note = [&](const std::string& line) {
    if (!options.quiet) std::fprintf(stderr, "%s\n", line.c_str());
  };
  open.on_warning = [](const std::string& line) { std::fprintf(stderr, "%s\n", line.c_str()); };
  open.on_model = [&](const ModelShape& shape) {
    if (!options.edits.empty()) EditPlan::load(options.edits, shape, options.seed);
    if (on_model) on_model(shape);
  };
  std::unique_ptr<Progress> progress;
  constexpr int64_t megabyte = 1'000'000;
  open.on_upload = [&](int64_t done, int64_t total) {
    if (!progress) progress = std::make_unique<Progress>("loading", total / megabyte, options.quiet, "MB");
    progress->update(done / megabyte);
  };
  Session session = open_session(options.model, open);
  set_encoding(options, session.encode);
  session.options.batch = options.batch;
  session.options.interrupted = &interrupted;
  return session;
}

}  // namespace

Session open_session(const CommonOptions& options, const std::function<void(const ModelShape&)>& on_model) {
  return open_model(options, on_model, {});
}

WritableModel open_writable(const CommonOptions& options, bool writes) {
  std::vector<TensorId> adapted;
  Session session = open_model(options, {}, [&](const TensorId& id) { adapted.push_back(id); });
  const ResolvedModel resolved = resolve_model(options.model, builtin_files());
  if (!options.adapters.empty() && !session.backend->shares_host_memory())
    throw UsageError("--adapter", "expected --device cpu beside it, found " + session.backend->name());
  if (!adapted.empty() && load_config(resolved).model.tied_embeddings != session.model.tied_embeddings)
    throw Error("--adapter", "expected an adapter of both or neither of " + session.path +
                                 "'s tied embeddings, which its checkpoints store as one tensor, found one of either");
  Rewrite rewrite(resolved.files, session.family, session.model, std::move(adapted));
  if (writes) rewrite.store_adapted(session.weights);
  return {std::move(session), std::move(rewrite)};
}

void check_generation(const CommonOptions& options) {
  if (options.ignore_generation_config) return;
  const ResolvedModel resolved = resolve_model(options.model, builtin_files());
  const std::vector<std::string> keys = unapplied_generation(*resolved.files);
  if (keys.empty()) return;
  throw Error(resolved.files->where("generation_config.json"),
              "expected no key that changes greedy text, found " + joined(keys) +
                  ": not applied here (--generation-config ignore generates without)");
}

TextTools open_text(const std::string& model, bool tokenizer_required) {
  const ResolvedModel resolved = resolve_model(model, builtin_files());
  TextTools text = open_text(*resolved.files);
  if (tokenizer_required && !text.tokenizer)
    throw Error(resolved.path, "expected tokenizer.json or tokenizer.model, found neither");
  return text;
}

RunOptions run_options(const Session& session, const SamplingOptions& sampling) {
  RunOptions run = session.options;
  run.stop_strings = sampling.stop;
  run.ignore_eos = sampling.ignore_eos;
  if (!sampling.stop.empty() && !session.tokenizer)
    throw Error("--stop", "expected a model with a tokenizer, found none");
  for (const std::string& stop : sampling.stop)
    if (stop.empty()) throw UsageError("--stop", "expected some text, found none");
  return run;
}

void tell_cpu_fallback(const CommonOptions& options, const Session& session) {
  if (options.quiet || options.device != "auto" || !built_with_cuda() || session.backend->name() != "cpu") return;
  const std::string reason = cuda_unavailable();
  const bool driver = reason != "no NVIDIA driver found", slow = count_parameters(session.model).total >= slow_on_cpu;
  if (!slow && (!driver || session.path == "builtin")) return;
  std::fprintf(stderr, "running on the CPU: %s (--device cpu asks for it and says nothing)\n", reason.c_str());
}

}  // namespace signalbox::tools
