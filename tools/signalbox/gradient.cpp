// signalbox gradient: how a metric of each record changes with what stands at each point.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "eval/causal/gradient_trace.h"
#include "eval/store/staged_files.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/kept.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/prepare.h"
#include "tools/signalbox/record.h"
#include "tools/terminal/output.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"

namespace signalbox::tools {

using namespace eval;

int gradient_command(int argc, char** argv) {
  CLI::App app("Gradients of a metric of each record at any probe point, routes held (docs/gradients.md).",
               "signalbox gradient");
  app.footer(
      "Example:\n  echo '{\"id\":\"a\",\"prompt\":\"User: hello\",\"target\":\" world\"}' | signalbox gradient builtin "
      "--input - --metric logprob --points '*.router.weights,*.resid_in' --out /tmp/gradients");
  CommonOptions options;
  std::string input, metric, weights, over = "sum";
  add_run_options(app, options);
  app.add_option("--input", input, "records, a JSON object a line; - = standard input")->type_name("FILE")->required();
  app.add_option("--metric", metric, "logprob, nll, logit_diff or kl")
      ->check(one_of({"logprob", "nll", "logit_diff", "kl"}))
      ->type_name("NAME")
      ->required();
  app.add_option("--points", options.points,
                 "points whose gradient is recorded, globs separated by commas; default "
                 "*.router.logits,*.router.weights,*.resid_in")
      ->type_name("GLOBS");
  app.add_option("--weights", weights,
                 "weights whose gradients are added up over the records, globs separated by commas "
                 "(layer.3.router, expert.*, *); without --points no points are recorded then")
      ->type_name("GLOBS");
  app.add_option("--over-records", over, "with --weights: their sum or their mean")
      ->check(one_of({"sum", "mean"}))
      ->capture_default_str();
  app.add_option("--out", options.trace, "directory of the trace")->type_name("DIR")->required();
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;

  GradientRequest request;
  request.metric = parse_metric(metric, "--metric");
  if (request.metric == Metric::kl && options.edits.empty())
    throw UsageError("--metric kl",
                     "expected --edits beside it (at the unedited run its gradient is 0 everywhere), "
                     "found none");
  std::vector<std::string> own = kept_work_names(gradient_files(true));
  for (const std::string& spool : gradient_spools()) own.push_back(spool);
  require_own_directory(options.trace, own, "gradients");
  if (weights.empty() && over != "sum") throw UsageError("--over-records", "expected --weights beside it, found none");
  std::vector<Record> records = read_records(input);
  check_edits(options, records, "gradient has only given tokens");
  Session session = open_session(options);
  session.label = session.path;
  keep_date(options, session, records, gradient_schema);
  PreparedRun run = prepare_run(options, session, std::move(records), Generate{});
  const bool only_weights = options.points.empty() && !weights.empty();
  const std::string globs = options.points.empty() ? "*.router.logits,*.router.weights,*.resid_in" : options.points;
  options.points.clear();
  request.trace = trace_request(options, session, run);
  if (!weights.empty()) request.weights = wanted_weights(weights, session);
  request.mean_of_weights = over == "mean";
  request.trace.points = only_weights ? PointSet() : gradient_points(globs, session.shape);
  request.batch = options.batch;
  if (options.chunk > 0) request.batch_tokens = options.chunk;
  for (size_t i = 0; i < run.records.size(); ++i)
    metric_rows(request.metric, run.records[i], run.made.encoded[i], session.encode);
  JobsOfCommand work;
  work.schema = gradient_schema;
  json::Value settings = json::Value::object();
  settings.set("metric", metric).set("points", only_weights ? "" : globs).set("weights", weights).set("over", over);
  if (!session.backend->invariant()) settings.set("chunk", options.chunk).set("batch", options.batch);
  work.work.set("gradient", std::move(settings));
  KeptWork kept(options.trace, manifest_of_work(options, session, run, work, argc, argv),
                gradient_files(!weights.empty()));
  request.kept = {kept.stage("gradients"), tell_kept(options)};
  // The trace takes its name last.
  const bool is_there = kept.has_files() && std::filesystem::exists(request.kept.stem.string() + ".jsonl");
  catch_signals();
  request.interrupted = &interrupted;
  Progress progress("differentiating", run.total_tokens, options.quiet, "tokens");
  request.on_progress = [&](int64_t tokens) { progress.update(tokens); };
  GradientResult found;
  if (is_there)
    found.metrics = kept_metrics(request.kept, run.made.jobs);
  else
    found = trace_gradients(session, run.records, run.made, request,
                            [&](int64_t i) { return run.records[static_cast<size_t>(i)].source; });
  progress.done();
  if (found.interrupted) {
    kept.interrupt();
    return tell_interrupted(options);
  }
  kept.finish([](const std::filesystem::path&) {});  // all is there
  for (size_t i = 0; i < run.records.size(); ++i) {
    if (options.json) {
      json::Value line = json::Value::object();
      line.set("id", run.records[i].id).set("metric", metric).set("value", found.metrics[i]);
      write_stdout(json::dump(line) + "\n");
    } else {
      char text[96];
      std::snprintf(text, sizeof text, "  %s %.6f\n", metric.c_str(), found.metrics[i]);
      write_stdout(run.records[i].id + text);
    }
  }
  if (!options.quiet && !options.json)
    std::fprintf(stderr, "gradients of %zu points and of %zu weights in %s\n", request.trace.points.all().size(),
                 request.weights.size(), options.trace.c_str());
  return 0;
}

}  // namespace signalbox::tools
