// signalbox regimes: one set of base prompts under several prompt programs, and which experts the programs have in
// common. Three forms: expand (records out), trace (records, run and recorded), and the analysis of traces.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <thread>

#include "eval/data/programs.h"
#include "eval/routing/recurring.h"
#include "eval/routing/regime_traces.h"
#include "eval/routing/trace_set.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/jobs_plan.h"
#include "tools/signalbox/open.h"
#include "tools/signalbox/record.h"
#include "tools/terminal/output.h"
#include "tools/terminal/width.h"

namespace signalbox::tools {

using namespace eval;

namespace {

namespace fs = std::filesystem;

int expand(int argc, char** argv) {
  CLI::App app("Writes the records that prompt programs make of base records, to standard output.",
               "signalbox regimes expand");
  app.footer(
      "Example:\n  echo '{\"id\":\"a\",\"prompt\":\"What is 2 + 3?\"}' | signalbox regimes expand --programs regimes "
      "--input -");
  std::string programs_file, input;
  std::vector<std::string> names;
  bool quiet = false;
  app.add_option("--programs", programs_file, "a file of prompt programs (docs/regimes.md), or regimes")->required();
  app.add_option("--input", input, "base records; - = standard input")->type_name("FILE")->required();
  app.add_option("--program", names, "only this program (may be given several times)")->allow_extra_args(false);
  app.add_flag("--quiet", quiet, "no messages");
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  std::vector<Program> programs = load_programs(programs_file);
  select_programs(programs, names);
  for (const Derived& derived : apply_programs(programs, read_records(input)))
    write_stdout(json::dump(derived.record.source) + "\n");
  for (const Program& program : programs)
    if (program.has_settings() && !quiet)
      std::fprintf(stderr,
                   "%s has settings of its own (samples, temperature, ...), which records do not carry: regimes trace "
                   "and run apply them\n",
                   program.name.c_str());
  return 0;
}

int trace(int argc, char** argv) {
  CLI::App app("Runs base records under every prompt program and records the routes into one trace directory.",
               "signalbox regimes trace");
  app.footer(
      "Example:\n  echo '[{\"name\":\"R0\"},{\"name\":\"R1\",\"suffix\":\" Think.\"}]' > /tmp/p.json\n"
      "  signalbox regimes trace builtin --programs /tmp/p.json --input tools/builtin/heldout/two_hop.jsonl "
      "--max-tokens 40 --out /tmp/regimes");
  CommonOptions options;
  SamplingOptions sampling;
  std::string programs_file, input;
  bool dry_run = false;
  add_run_options(app, options);
  app.add_option("--programs", programs_file, "a file of prompt programs (docs/regimes.md), or regimes")->required();
  app.add_option("--input", input, "base records; - = standard input")->type_name("FILE")->required();
  app.add_option("--out", options.trace, "directory of the trace")->type_name("DIR");
  app.add_flag("--dry-run", dry_run, "say what it would take, measuring the speed for a moment, and write nothing");
  app.add_option("--max-tokens", sampling.max_tokens, "generate this many tokens at most")
      ->check(in_range(1, 1 << 24))
      ->capture_default_str();
  app.add_option("--points", options.points, "points to record; default *.router.ids,*.router.weights")
      ->type_name("GLOBS");
  app.add_flag("--compact", options.compact, "router.weights as F16");
  add_sampling_options(app, sampling);
  add_generation_config_option(app, options);
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  if (options.trace.empty() && !dry_run) throw UsageError("--out", "expected a directory (or --dry-run), found none");

  const std::vector<Program> programs = load_programs(programs_file);
  const std::vector<Derived> derived = apply_programs(programs, read_records(input));
  std::vector<Record> records;
  for (const Derived& one : derived) records.push_back(one.record);
  check_generation(options);
  Session session = open_session(options);
  if (!options.trace.empty()) keep_date(options, session, records, regimes_schema);
  sampling.sampling.seed = options.seed;
  // Positions are checked by program below.
  PreparedRun run = prepare_run(options, session, std::move(records), Generate{0, sampling.sampling});
  JobsOfCommand jobs;
  jobs.doing = "tracing";
  jobs.schema = regimes_schema;
  jobs.work.set("programs", programs_json(programs));
  jobs.generate = settings_of(sampling);
  jobs.running = run_options(session, sampling);
  run.set_jobs(jobs_of_programs(run.jobs(), derived, programs, *jobs.generate, session.model.max_positions));
  if (dry_run) {
    const int64_t kept = samples_kept_of(options, session, run, jobs, argc, argv);
    const auto regime_of = [&](const Job& job) { return run.record_of(job.index).condition; };
    print_jobs_plan(options, session, run, jobs.running, {"regime", "regimes", "the command", "", regime_of}, kept);
    return 0;
  }
  if (run_jobs_of_command(options, session, run, jobs, argc, argv) == RecordingEnd::interrupted) return 3;
  tell_trace(options);
  return 0;
}

int analyze(int argc, char** argv) {
  CLI::App app(
      "Routing profiles of generations under several regimes, and the experts that recur.\nOther forms: signalbox "
      "regimes expand --help, signalbox regimes trace --help.",
      "signalbox regimes");
  app.footer("Example:\n  signalbox regimes /tmp/regimes --baseline R0");
  std::vector<std::string> directories;
  RegimeOptions options;
  options.threads = 0;
  std::string out;
  size_t top = 10;
  bool json_output = false, quiet = false, csv = false;
  app.add_option("DIR", directories, "trace directories whose records have condition (the regime) and base")
      ->required();
  app.add_option("--baseline", options.baseline, "the regime that others are compared with")->capture_default_str();
  app.add_option("--persistence", options.sampled,
                 "the regime whose trajectories show persistence (default: the one with the most a prompt)");
  app.add_option(
      "--persistence-baseline", options.sampled_baseline,
      "the baseline's own words, sampled (default: a regime that has them and several trajectories a prompt)");
  app.add_option("--level", options.level, "level of q")->check(in_range(0.0, 1.0))->capture_default_str();
  app.add_option("--out", out, "directory for the results (default DIR/regimes)")->type_name("DIR");
  app.add_option("--top", top, "experts to print")->check(in_range(0, 1000000))->capture_default_str();
  app.add_flag("--profiles-csv", csv, "write every trajectory's profile as profiles.csv too (large)");
  app.add_option("--resamples", options.resamples, "bootstrap and sign-flip replicates")
      ->check(in_range(1, 10000000))
      ->capture_default_str();
  app.add_option("--seed", options.seed, "seed of resampling")->capture_default_str();
  app.add_option("--threads", options.threads, "threads, 0 = all")->check(in_range(0, 1024))->capture_default_str();
  app.add_flag("--json", json_output, "print summary.json");
  app.add_flag("--quiet", quiet, "print nothing");
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  if (out.empty()) {
    if (directories.size() > 1)
      throw UsageError("--out", "expected a directory where there are several DIRs, found none");
    out = directories[0] + "/regimes";
  }
  if (options.threads == 0) options.threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));

  const std::vector<fs::path> paths(directories.begin(), directories.end());
  const TraceSet traces(paths);
  const RoutingProfiles profiles = read_profiles(traces);
  const RegimeAnalysis analysis = analyze_regimes(profiles, options);
  json::Value from = json::Value::array();
  for (size_t i = 0; i < traces.n_traces(); ++i)
    from.push_back(json::Value::object()
                       .set("dir", directories[i])
                       .set("model_hash", traces.trace(i).metadata("model_hash"))
                       .set("edits", traces.trace(i).metadata("edits")));
  write_regimes(analysis, profiles, options, from, out);
  if (csv) write_profiles_csv(profiles, fs::path(out) / "profiles.csv");
  if (quiet) return 0;
  if (json_output) {
    write_stdout(json::dump(json::parse_file(fs::path(out) / "summary.json")) + "\n");
  } else {
    write_stdout(regimes_text(analysis, options, top, terminal_width(STDOUT_FILENO)));
    if (!profiles.empty.empty())
      std::fprintf(stderr, "%zu samples have no generated token and were left out (summary.json)\n",
                   profiles.empty.size());
  }
  return 0;
}

}  // namespace

int regimes_command(int argc, char** argv) {
  const std::string form = argc > 1 ? argv[1] : "";
  if (form == "expand") return expand(argc - 1, argv + 1);
  if (form == "trace") return trace(argc - 1, argv + 1);
  return analyze(argc, argv);
}

}  // namespace signalbox::tools
