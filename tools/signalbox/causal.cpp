// signalbox causal: what happens to a metric when parts of a forward are changed. A file for each subcommand.
#include "tools/signalbox/causal.h"

#include <CLI/CLI.hpp>

#include "tools/signalbox/commands.h"
#include "tools/signalbox/flags.h"

namespace signalbox::tools {

int causal_command(int argc, char** argv) {
  CLI::App app("What happens to a metric of each record when parts of a forward are changed.", "signalbox causal");
  app.footer("Example:\n  signalbox help causal map");
  app.require_subcommand(1);
  const Subcommand subcommands[] = {
      add_causal_map(app),       add_causal_effects(app),       add_causal_patch(app),  add_causal_edges(app),
      add_causal_attribute(app), add_causal_commutativity(app), add_causal_format(app), add_causal_pipelines(app),
  };
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  for (const Subcommand& subcommand : subcommands)
    if (subcommand.app->parsed()) return subcommand.run(argc, argv);
  return 2;  // not reached: one is required
}

}  // namespace signalbox::tools
