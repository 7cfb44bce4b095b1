// signalbox circuit: which parts of a model do something together, and whether they do (docs/circuits.md). A file for
// each subcommand.
#include "tools/signalbox/circuit.h"

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>

#include "eval/findings/format.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/flags.h"

namespace signalbox::tools {

int circuit_command(int argc, char** argv) {
  CLI::App app("Which experts and heads do something together: find, test and draw a circuit.", "signalbox circuit");
  app.footer("Example:\n  signalbox help circuit discover");
  app.require_subcommand(1);
  const Subcommand subcommands[] = {add_circuit_discover(app), add_circuit_test(app), add_circuit_export(app)};
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  for (const Subcommand& subcommand : subcommands)
    if (subcommand.app->parsed()) return subcommand.run(argc, argv);
  return 2;  // not reached: one is required
}

eval::StudyProgress StudyBars::progress() {
  return {[this](const std::string& stage, int64_t runs) {
            done();
            runs_ = 0;
            bar_ = std::make_unique<Progress>(stage, std::max<int64_t>(1, runs), quiet_, "runs");
          },
          [this](int64_t runs) {
            runs_ += runs;
            if (bar_) bar_->update(runs_);
          }};
}

void StudyBars::done() {
  if (bar_) bar_->done();
  bar_.reset();
}

std::string effect_text(double x) { return eval::format_value(x, 4); }

std::string faithfulness_text(const eval::Faithfulness& f) {
  if (std::isnan(f.f)) return "undefined";
  char text[96];
  if (std::isnan(f.ci.lo))
    std::snprintf(text, sizeof text, "%.3f", f.f);
  else
    std::snprintf(text, sizeof text, "%.3f [%.3f, %.3f]", f.f, f.ci.lo, f.ci.hi);
  return text;
}

}  // namespace signalbox::tools
