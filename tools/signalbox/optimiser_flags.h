// The flags of commands that learn: steps, rates, batches, and how records become examples.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "tools/signalbox/flags.h"
#include "train/training.h"

namespace signalbox::tools {

struct OptimiserFlags {
  train::TrainingSettings settings;
  std::string shape = "constant";
  bool no_end_token = false;
};

// All but --steps, whose meaning is the command's own.
void add_optimiser_options(CLI::App& app, OptimiserFlags& flags);
// --special, --template-variables and --date: how texts become tokens.
void add_encoding_options(CLI::App& app, CommonOptions& options);

// The settings for `steps` (0: none are run, and a warm-up is not looked at). Throws UsageError naming the flag.
train::TrainingSettings training_settings(const OptimiserFlags& flags, const CommonOptions& common, int64_t steps);

// What of them decides the result, for a manifest.
void put_settings(json::Value& work, const OptimiserFlags& flags);

// The end token to put behind targets: none where no record has a target, or under --no-end-token.
std::optional<int32_t> end_token_of(const Session& session, const OptimiserFlags& flags,
                                    std::initializer_list<const std::vector<Record>*> records);

// Tells on stderr how a training into `out` ended. Returns the exit code: 0, or 3 where it was interrupted.
int tell_training_end(train::TrainingEnd ended, const CommonOptions& options, const std::string& out);

}  // namespace signalbox::tools
