// signalbox trace: the forward over given tokens (and some generated ones), recorded.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "probes/points.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/prepare.h"
#include "tools/terminal/output.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"

namespace signalbox::tools {

using namespace eval;

int trace_command(int argc, char** argv) {
  CLI::App app("Records routes, and any other probe point, into a trace directory (docs/trace.md).", "signalbox trace");
  app.footer(
      "Points (docs/probes.md):\n" + point_list("  ") +
      "\n\nExample:\n  echo '{\"id\":\"a\",\"prompt\":\"User: hello\"}' | signalbox trace builtin --input - --out "
      "/tmp/hello --generate 8");
  CommonOptions options;
  SamplingOptions sampling;
  sampling.max_tokens = 0;
  std::string input;
  add_run_options(app, options);
  app.add_option("--input", input, "records, a JSON object a line; - = standard input")->required();
  app.add_option("--out", options.trace, "directory of the trace")->required();
  app.add_option("--points", options.points,
                 "points to record, globs separated by commas (docs/probes.md); default *.router.ids,*.router.weights");
  app.add_flag("--compact", options.compact, "router.weights as F16");
  app.add_option("--generate", sampling.max_tokens, "generate this many tokens at most")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
  add_sampling_options(app, sampling);
  add_generation_config_option(app, options);
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;

  std::vector<Record> records = read_records(input);
  if (sampling.max_tokens > 0) check_generation(options);
  const Session session = open_session(options);
  sampling.sampling.seed = options.seed;
  PreparedRun run = prepare_run(options, session, std::move(records), Generate{sampling.max_tokens, sampling.sampling},
                                sampling.samples);
  auto trace = open_trace(options, session, run);

  Progress progress("tracing", run.total_tokens, options.quiet);
  int64_t rows = 0;
  RunEvents events;
  events.on_progress = [&](int64_t done) {
    rows = done;
    progress.update(done);
  };
  tell_cpu_fallback(options, *session.backend);
  catch_signals();
  if (!session.run(run.jobs(), run_options(session, sampling), events, trace.get())) return 3;
  progress.done();
  finish_trace(*trace, run);
  const std::string file = options.trace + "/trace.safetensors";
  if (options.json) {
    json::Value summary = json::Value::object();
    summary.set("trace", file).set("samples", static_cast<int64_t>(run.jobs().size())).set("tokens", rows);
    write_stdout(json::dump(summary) + "\n");
  } else if (!options.quiet) {
    std::fprintf(stderr, "%s: %ld samples, %ld tokens\n", file.c_str(), static_cast<long>(run.jobs().size()),
                 static_cast<long>(rows));
  }
  return 0;
}

}  // namespace signalbox::tools
