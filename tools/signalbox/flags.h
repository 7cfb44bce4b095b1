// Flags that several commands share, and what they say.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "kernels/sampling.h"
#include "tools/signalbox/arguments.h"

namespace CLI {
class App;
}

namespace signalbox::tools {

struct CommonOptions {
  std::string model;
  std::string device = "auto", isa = "auto", numerics = "invariant";
  std::string load = "auto";  // copy | map; "none" of commands that run nothing (engine/resident_weights.h)
  int threads = 0;
  int64_t batch = 8, chunk = 0;  // chunk 0: what suits the device
  uint64_t seed = 0;
  bool json = false, quiet = false;
  std::vector<std::string> adapters;  // directories
  bool unmerged = false;
  std::string special = "parse";
  std::string edits;   // file, empty = none
  std::string trace;   // directory, empty = none
  std::string points;  // globs of --points
  bool compact = false;
  std::string date;                // of strftime_now in templates
  std::string template_variables;  // a JSON object
  bool ignore_generation_config = false;
};

// MODEL and the flags of every command that runs records.
void add_run_options(CLI::App& app, CommonOptions& options);
// The same without MODEL and --edits, which an experiment has in its spec.
void add_experiment_options(CLI::App& app, CommonOptions& options);
// For commands whose records go one after the other: the flag that all take says that it changes nothing.
void say_batch_changes_nothing(CLI::App& app);
void add_device_options(CLI::App& app, CommonOptions& options);
// --adapter, which add_experiment_options has: of every command that runs a model.
void add_adapter_option(CLI::App& app, CommonOptions& options);
// Of one where it can mean nothing: it is refused, and `why` says what was expected.
void refuse_adapter_option(CLI::App& app, const std::string& why);
// --adapter-unmerged, of commands whose jobs come of prepare_run (tools/signalbox/prepare.h).
void add_unmerged_option(CLI::App& app, CommonOptions& options);
// --generation-config, of commands that generate.
void add_generation_config_option(CLI::App& app, CommonOptions& options);

struct SamplingOptions {
  Sampling sampling;
  int64_t max_tokens = 128, samples = 1;
  std::vector<std::string> stop;
  bool ignore_eos = false;
};
void add_sampling_options(CLI::App& app, SamplingOptions& options);

}  // namespace signalbox::tools
