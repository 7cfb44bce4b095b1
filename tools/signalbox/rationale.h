// The subcommands of `signalbox rationale`, and what they share with `signalbox train rationale`.
#pragma once
#include <string>

#include "base/namespaces.h"
#include "tools/signalbox/causal.h"
#include "train/rationale/factor_losses.h"

namespace signalbox::tools {

Subcommand add_rationale_losses(CLI::App& app);
Subcommand add_rationale_score(CLI::App& app);
Subcommand add_rationale_convert(CLI::App& app);
Subcommand add_rationale_experts(CLI::App& app);

// Flags of the variants of losses. What is not given stays as `forms` has it.
struct FactorFormFlags {
  bool normalize = false, raw = false;
  std::string sentence, diversity, balance, per;
  double temperature = 0;
};
void add_factor_form_options(CLI::App& app, FactorFormFlags& flags);
// Throws UsageError for a temperature without infonce.
void read_factor_forms(const FactorFormFlags& flags, train::FactorForms& forms);

}  // namespace signalbox::tools
