// signalbox train: weights changed by gradients. A file for each subcommand.
#include "tools/signalbox/train.h"

#include <CLI/CLI.hpp>

#include "tools/signalbox/commands.h"
#include "tools/signalbox/flags.h"

namespace signalbox::tools {

int train_command(int argc, char** argv) {
  CLI::App app("Changes a model's weights by gradients of a loss on records.", "signalbox train");
  app.footer("Example:\n  signalbox help train full");
  app.require_subcommand(1);
  const Subcommand subcommands[] = {add_train_full(app), add_train_experts(app), add_train_apply_experts(app),
                                    add_train_lora(app), add_train_distill(app), add_train_rationale(app),
                                    add_train_lens(app), add_train_router(app)};
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  for (const Subcommand& subcommand : subcommands)
    if (subcommand.app->parsed()) return subcommand.run(argc, argv);
  return 2;  // not reached: one is required
}

}  // namespace signalbox::tools
