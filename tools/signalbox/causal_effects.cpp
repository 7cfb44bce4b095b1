// signalbox causal effects: what edits do to a metric, through later routes and otherwise (docs/causal-effects.md).
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <memory>

#include "base/text_table.h"
#include "eval/causal/effects.h"
#include "eval/store/staged_files.h"
#include "tools/signalbox/causal.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/prepare.h"
#include "tools/terminal/output.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"
#include "tools/terminal/width.h"

namespace signalbox::tools {

using namespace eval;

namespace {

struct EffectsFlags {
  CommonOptions common;
  std::string input, metric, hold = "ids", out;
};

CLI::App* add_effects_flags(CLI::App& app, EffectsFlags& flags) {
  CLI::App* effects = app.add_subcommand(
      "effects", "what edits do: in all, with later routes held, through routes alone (docs/causal-effects.md)");
  effects->footer(
      "Example:\n  echo '{\"edits\":[{\"op\":\"deactivate\",\"mode\":\"ban\",\"experts\":{\"1\":[0,6]}}]}' > "
      "/tmp/ban.json\n  echo '{\"id\":\"a\",\"prompt\":\"User: hello\",\"target\":\" world\"}' | signalbox causal "
      "effects builtin --input - --metric logprob --edits /tmp/ban.json --out /tmp/effects");
  add_run_options(*effects, flags.common);
  effects->add_option("--input", flags.input, "records, a JSON object a line; - = standard input")
      ->type_name("FILE")
      ->required();
  effects->add_option("--metric", flags.metric, "logprob, nll, logit_diff or kl")
      ->check(one_of({"logprob", "nll", "logit_diff", "kl"}))
      ->type_name("NAME")
      ->required();
  effects
      ->add_option("--hold", flags.hold,
                   "what of later routes is held: ids (weights by the model's rule) or weights too")
      ->check(one_of({"ids", "weights"}))
      ->capture_default_str();
  effects->add_option("--out", flags.out, "directory of effects.csv and propagation.csv")->type_name("DIR")->required();
  return effects;
}

std::string shown(double x) {
  char text[32];
  std::snprintf(text, sizeof text, std::isnan(x) ? "-" : "%.4f", std::fabs(x) < 5e-5 ? 0.0 : x);
  return text;
}

int run_effects(EffectsFlags& flags) {
  CommonOptions& options = flags.common;
  if (options.edits.empty()) throw UsageError("--edits", "expected the edits whose effect is asked for, found none");
  EffectsRequest request;
  request.metric = parse_metric(flags.metric, "--metric");
  request.holds_weights = flags.hold == "weights";
  request.edits_dir = std::filesystem::path(options.edits).parent_path();
  request.seed = options.seed;
  require_own_directory(flags.out, {"effects.csv", "propagation.csv", "summary.json"}, "effects");
  std::vector<Record> records = read_records(flags.input);
  check_edits(options, records, "causal effects has only given tokens");
  Session session = open_session(options);
  session.label = session.path;
  PreparedRun run = prepare_run(options, session, std::move(records), Generate{});
  catch_signals();
  request.interrupted = &interrupted;
  Progress progress("measuring effects", effects_tokens(run.made), options.quiet, "tokens");
  request.on_progress = [&](int64_t tokens) { progress.update(tokens); };
  const Effects effects = measure_effects(session, run.records, run.made, request);
  progress.done();
  if (effects.interrupted) {
    std::fprintf(stderr, "interrupted: nothing is left; the same command begins anew\n");
    return 3;
  }
  write_effects(flags.out, effects, request, session, run.plan->source());
  if (options.json) {
    for (const EffectsRow& row : effects.rows) {
      json::Value line = json::Value::object();
      line.set("id", row.id).set("base", row.base).set("total", row.total);
      const std::pair<const char*, double> parts[] = {
          {"direct", row.direct}, {"routes", row.routes}, {"interaction", row.interaction}};
      for (const auto& [name, value] : parts) line.set(name, std::isnan(value) ? json::Value() : json::Value(value));
      write_stdout(json::dump(line) + "\n");
    }
    return 0;
  }
  TextTable table({{"id", false, true}, {flags.metric}, {"total"}, {"direct"}, {"routes"}, {"interaction"}});
  for (const EffectsRow& row : effects.rows)
    table.add(
        {row.id, shown(row.base), shown(row.total), shown(row.direct), shown(row.routes), shown(row.interaction)});
  write_stdout(table.text(terminal_width(1)));
  if (effects.rows.front().direct != effects.rows.front().direct && !options.quiet)
    std::fprintf(stderr, "the edits act up to the last layer with a router: there are no later routes to hold\n");
  return 0;
}

}  // namespace

Subcommand add_causal_effects(CLI::App& app) {
  auto flags = std::make_shared<EffectsFlags>();
  CLI::App* added = add_effects_flags(app, *flags);
  return {added, [flags](int, char**) { return run_effects(*flags); }};
}

}  // namespace signalbox::tools
