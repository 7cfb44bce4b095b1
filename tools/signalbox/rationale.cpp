// signalbox rationale: tokens that a prediction rests on, and how well they are found. A file for each subcommand.
#include "tools/signalbox/rationale.h"

#include <CLI/CLI.hpp>

#include "base/error.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/flags.h"

namespace signalbox::tools {

int rationale_command(int argc, char** argv) {
  CLI::App app("Which tokens a prediction rests on: losses, ERASER scores, and experts as rationales.",
               "signalbox rationale");
  app.footer("Example:\n  signalbox help rationale score");
  app.require_subcommand(1);
  const Subcommand subcommands[] = {add_rationale_convert(app), add_rationale_experts(app), add_rationale_losses(app),
                                    add_rationale_score(app)};
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  for (const Subcommand& subcommand : subcommands)
    if (subcommand.app->parsed()) return subcommand.run(argc, argv);
  return 2;  // not reached: one is required
}

void add_factor_form_options(CLI::App& app, FactorFormFlags& flags) {
  auto* normalize = app.add_flag("--normalize", flags.normalize, "z of a factor divided by its mass");
  app.add_flag("--raw", flags.raw, "z of a factor as the sum that it is")->excludes(normalize);
  app.add_option("--sentence", flags.sentence,
                 "squared | infonce: squared distance, or both directions of a contrast within the batch")
      ->check(one_of({"squared", "infonce"}));
  app.add_option("--temperature", flags.temperature, "of infonce (0.07)")->check(in_range(1e-6, 1e6));
  app.add_option("--per", flags.per, "sentence | token: token loss and entropy as sums over a sentence, or its means")
      ->check(one_of({"sentence", "token"}));
  app.add_option("--balance", flags.balance, "sentence | batch: shares of each sentence, or their mean over the batch")
      ->check(one_of({"sentence", "batch"}));
  app.add_option("--diversity", flags.diversity,
                 "gram | cosine | covariance: of z as they are, of unit z, or of what differs from their batch means")
      ->check(one_of({"gram", "cosine", "covariance"}));
}

void read_factor_forms(const FactorFormFlags& flags, train::FactorForms& forms) {
  using train::FactorForms;
  if (flags.normalize) forms.normalize = true;
  if (flags.raw) forms.normalize = false;
  if (!flags.sentence.empty())
    forms.sentence = flags.sentence == "infonce" ? FactorForms::Sentence::infonce : FactorForms::Sentence::squared;
  if (!flags.per.empty()) forms.per_token = flags.per == "token";
  if (!flags.balance.empty())
    forms.balance = flags.balance == "batch" ? FactorForms::Balance::batch : FactorForms::Balance::sentence;
  if (!flags.diversity.empty())
    forms.diversity = flags.diversity == "gram"     ? FactorForms::Diversity::gram
                      : flags.diversity == "cosine" ? FactorForms::Diversity::cosine
                                                    : FactorForms::Diversity::covariance;
  if (flags.temperature > 0) {
    if (forms.sentence != FactorForms::Sentence::infonce)
      throw UsageError("--temperature", "expected --sentence infonce beside it, found squared");
    forms.temperature = flags.temperature;
  }
}

}  // namespace signalbox::tools
