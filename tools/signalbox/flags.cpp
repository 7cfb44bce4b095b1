#include "tools/signalbox/flags.h"

#include <CLI/CLI.hpp>

#include "base/error.h"

namespace signalbox::tools {

void add_device_options(CLI::App& app, CommonOptions& o) {
  app.add_option("--device", o.device, "auto | cpu | cuda[:N]")->capture_default_str()->group("Running");
  app.add_option("--threads", o.threads, "CPU threads, 0 = all")
      ->check(in_range(0, 1024))
      ->capture_default_str()
      ->group("Running");
  app.add_option("--isa", o.isa, "auto | scalar | avx2 | avx512 | amx")
      ->check(one_of({"auto", "scalar", "avx2", "avx512", "amx"}))
      ->capture_default_str()
      ->group("Running");
  app.add_option("--numerics", o.numerics,
                 "invariant: bits independent of batch, chunk and threads | fast: products of bf16 where the device is "
                 "faster at them (docs/cpu.md, docs/gpu.md)")
      ->check(one_of({"invariant", "fast"}))
      ->capture_default_str()
      ->group("Running");
  app.add_option("--load", o.load,
                 "CPU: copy = weights copied into memory, in large pages; map = read from their files as they are "
                 "used; auto = copy what is large and fits")
      ->check(one_of({"auto", "copy", "map"}))
      ->capture_default_str()
      ->group("Running");
  app.add_option("--seed", o.seed, "seed of sampling and of edits that name none")
      ->check(at_least(0))
      ->capture_default_str()
      ->group("Running");
  app.add_flag("--json", o.json, "machine output")->group("Running");
  app.add_flag("--quiet", o.quiet, "no progress; warnings stay")->group("Running");
}

void add_adapter_option(CLI::App& app, CommonOptions& o) {
  app.add_option("--adapter", o.adapters, "LoRA adapter of the model (docs/adapters.md); several are summed")
      ->type_name("DIR")
      ->allow_extra_args(false)
      ->group("Running");
}

void refuse_adapter_option(CLI::App& app, const std::string& why) {
  app.add_option_function<std::string>("--adapter",
                                       [why](const std::string&) { throw UsageError("--adapter", "expected " + why); })
      ->allow_extra_args(false)
      ->group("");
}

void add_unmerged_option(CLI::App& app, CommonOptions& o) {
  app.add_flag("--adapter-unmerged", o.unmerged,
               "adapters stay beside the weights: no copy of these, slower products (CPU)")
      ->needs(app.get_option("--adapter"))
      ->group("Running");
}

void add_run_options(CLI::App& app, CommonOptions& o) {
  app.add_option("MODEL", o.model, "a directory, org/name[@revision] in the Hugging Face cache, or builtin")
      ->required();
  add_experiment_options(app, o);
  app.add_option("--edits", o.edits, "edit spec (docs/edits.md)")->type_name("FILE");
}

void add_experiment_options(CLI::App& app, CommonOptions& o) {
  add_device_options(app, o);
  add_adapter_option(app, o);
  app.add_option("--batch", o.batch, "sequences at once")
      ->check(in_range(1, 4096))
      ->capture_default_str()
      ->group("Prompts and batches");
  app.add_option("--chunk", o.chunk, "given tokens a forward")
      ->check(in_range(1, 1 << 20))
      ->default_str("512, on a GPU 4096")
      ->group("Prompts and batches");
  app.add_option("--special", o.special,
                 "special tokens spelt out in prompts and messages: parse | template-only (they stay text)")
      ->check(one_of({"parse", "template-only"}))
      ->capture_default_str()
      ->group("Prompts and batches");
  app.add_option("--template-variables", o.template_variables, "a JSON object for the chat template")
      ->type_name("JSON")
      ->group("Prompts and batches");
  app.add_option("--date", o.date, "date that chat templates see, YYYY-MM-DD (default: today)")
      ->type_name("DATE")
      ->check(date_validator())
      ->group("Prompts and batches");
}

void say_batch_changes_nothing(CLI::App& app) {
  app.get_option("--batch")->description("changes nothing here: records go one after the other");
}

void add_generation_config_option(CLI::App& app, CommonOptions& o) {
  app.add_option_function<std::string>(
         "--generation-config", [&o](const std::string& value) { o.ignore_generation_config = value == "ignore"; },
         "keys of the model's generation_config.json that change greedy text and are not applied here "
         "(repetition_penalty, ...): refuse | ignore")
      ->check(one_of({"refuse", "ignore"}))
      ->default_str("refuse");
}

void add_sampling_options(CLI::App& app, SamplingOptions& o) {
  app.add_option("--temperature", o.sampling.temperature, "0 = the most probable token")
      ->check(in_range(0.0, 1000.0))
      ->capture_default_str()
      ->group("Sampling");
  app.add_option("--top-p", o.sampling.top_p, "keep the fewest tokens of this probability")
      ->check(in_range(0.0, 1.0))
      ->capture_default_str()
      ->group("Sampling");
  app.add_option("--top-k", o.sampling.top_k, "keep this many tokens, 0 = all")
      ->check(in_range(0, 1 << 30))
      ->capture_default_str()
      ->group("Sampling");
  app.add_option("--stop", o.stop, "stop at this text (may be given several times)")
      ->allow_extra_args(false)
      ->group("Sampling");
  app.add_option("--samples", o.samples, "samples of each prompt")
      ->check(in_range(1, 1000000))
      ->capture_default_str()
      ->group("Sampling");
  app.add_flag("--ignore-eos", o.ignore_eos, "go on past an end token")->group("Sampling");
}

}  // namespace signalbox::tools
