// The subcommands of `signalbox causal`, one file each: they add their flags to the command, and run.
#pragma once
#include <functional>

#include "base/namespaces.h"

namespace CLI {
class App;
}

namespace signalbox::tools {

struct Subcommand {
  const CLI::App* app = nullptr;                  // says whether it was the one that was asked for
  std::function<int(int argc, char** argv)> run;  // of the whole command line; returns the exit code
};

Subcommand add_causal_map(CLI::App& app);
Subcommand add_causal_effects(CLI::App& app);
Subcommand add_causal_patch(CLI::App& app);
Subcommand add_causal_edges(CLI::App& app);
Subcommand add_causal_attribute(CLI::App& app);
Subcommand add_causal_commutativity(CLI::App& app);
Subcommand add_causal_format(CLI::App& app);
Subcommand add_causal_pipelines(CLI::App& app);

}  // namespace signalbox::tools
