// signalbox trace: the forward over given tokens (and some generated ones), recorded.
#include <CLI/CLI.hpp>

#include "probes/points.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/record.h"

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
  add_unmerged_option(app, options);
  app.add_option("--input", input, "records, a JSON object a line; - = standard input")->type_name("FILE")->required();
  app.add_option("--out", options.trace,
                 "directory of the trace; the same command goes on with one that is not finished")
      ->type_name("DIR")
      ->required();
  app.add_option("--points", options.points,
                 "points to record, globs separated by commas (docs/probes.md); default *.router.ids,*.router.weights")
      ->type_name("GLOBS");
  app.add_flag("--compact", options.compact, "router.weights as F16");
  app.add_option("--generate", sampling.max_tokens, "generate this many tokens at most")
      ->check(in_range(0, 1 << 24))
      ->capture_default_str();
  add_sampling_options(app, sampling);
  add_generation_config_option(app, options);
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;

  std::vector<Record> records = read_records(input);
  if (sampling.max_tokens > 0) check_generation(options);
  check_edits(options, records, sampling.max_tokens > 0 ? "" : "without --generate there are none");
  Session session = open_session(options);
  keep_date(options, session, records, recorded_schema);
  sampling.sampling.seed = options.seed;
  PreparedRun run = prepare_run(options, session, std::move(records), Generate{sampling.max_tokens, sampling.sampling},
                                sampling.samples);
  JobsOfCommand jobs;
  jobs.doing = "tracing";
  jobs.work.set("command", "trace");
  jobs.generate = settings_of(sampling);
  jobs.running = run_options(session, sampling);
  if (run_jobs_of_command(options, session, run, jobs, argc, argv) == RecordingEnd::interrupted) return 3;
  tell_trace(options);
  return 0;
}

}  // namespace signalbox::tools
