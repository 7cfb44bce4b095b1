// The subcommands of `signalbox train`, one file each.
#pragma once
#include "base/namespaces.h"
#include "tools/signalbox/causal.h"

namespace signalbox::tools {

Subcommand add_train_distill(CLI::App& app);
Subcommand add_train_full(CLI::App& app);
Subcommand add_train_experts(CLI::App& app);
Subcommand add_train_apply_experts(CLI::App& app);
Subcommand add_train_lora(CLI::App& app);
Subcommand add_train_rationale(CLI::App& app);
Subcommand add_train_lens(CLI::App& app);
Subcommand add_train_router(CLI::App& app);

}  // namespace signalbox::tools
