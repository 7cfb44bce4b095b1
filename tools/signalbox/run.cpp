// signalbox run: a whole experiment in a run directory.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "base/sha256.h"
#include "eval/experiment/conduct.h"
#include "eval/experiment/findings.h"
#include "eval/experiment/identity.h"
#include "eval/experiment/split.h"
#include "eval/findings/metrics_file.h"
#include "eval/report/run_report.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/dry_run.h"
#include "tools/signalbox/experiment.h"
#include "tools/signalbox/facts.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/open.h"
#include "tools/terminal/output.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"
#include "tools/terminal/width.h"

namespace signalbox::tools {

using namespace eval;

namespace {

namespace fs = std::filesystem;

json::Value info_of(const CommonOptions& options, const Session& session, const Experiment& experiment, int argc,
                    char** argv) {
  json::Value info = work_info(options, session, argc, argv);
  info.set("data_path", fs::absolute(experiment.spec.data).string());
  return info.set("spec_given", experiment.spec.source)
      .set("spec_hash", sha256_hex(json::dump(experiment.spec.source)));
}

// One progress bar at a time, one for each stage.
class Stages {
 public:
  explicit Stages(bool quiet) : quiet_(quiet) {}
  void begin(const std::string& what, int64_t total, const std::string& unit) {
    progress_ = std::make_unique<Progress>(what, total, quiet_, unit, lines_);
  }
  void kept(int64_t done) {
    if (progress_) progress_->start_at(done);
  }
  void update(int64_t done) {
    if (progress_) progress_->update(done);
  }
  void note(const std::string& line) {
    if (progress_) progress_->done();
    if (!quiet_) std::fprintf(stderr, "%s\n", line.c_str());
  }
  void end() { progress_.reset(); }

 private:
  bool quiet_;
  std::shared_ptr<ProgressLines> lines_ = std::make_shared<ProgressLines>();
  std::unique_ptr<Progress> progress_;
};

// Says what the run would do. The directory is looked at where there is one.
int tell_plan(const Experiment& experiment, const Session& session, const ConductOptions& conducting,
              const CommonOptions& options) {
  if (!options.quiet)
    for (const std::string& line : experiment.notes) std::fprintf(stderr, "%s\n", line.c_str());
  const int64_t kept = conducting.out.empty() ? 0 : samples_kept(experiment, conducting);
  const RunEstimate estimate = estimate_run(experiment, session, conducting.shard, options.threads);
  write_stdout(options.json ? json::dump(estimate_json(estimate, kept)) + "\n" : estimate_text(estimate, kept));
  return 0;
}

}  // namespace

int run_experiment(ExperimentSpec spec, CommonOptions options, const ExperimentRun& run, int argc, char** argv) {
  if (run.out.empty() && !run.dry_run) throw UsageError("--out", "expected a run directory (or --dry-run), found none");
  std::string told;
  const Shard shard = choose_shard(run.shard, told);
  Experiment experiment = open_experiment(std::move(spec), run.limit);
  if (!told.empty() && !options.quiet) std::fprintf(stderr, "%s\n", told.c_str());

  options.model = experiment.spec.model;
  const std::vector<std::string>& adapters = experiment.spec.adapters;
  if (!adapters.empty() && !options.adapters.empty())
    throw UsageError("--adapter", "expected none beside the spec's \"adapter\", found " + options.adapters.front());
  for (const std::string& adapter : adapters) options.adapters.push_back(experiment.spec.adapter_dir(adapter).string());
  if (experiment.spec.generate) check_generation(options);
  Session session = open_session(options, [&](const ModelShape& shape) { check_edits(experiment.spec, shape); });
  // The model by the name that the spec gives it: traces of shards must be alike wherever it lies. So of its adapters.
  session.label = experiment.spec.source.find("model")->string();
  for (size_t i = 0; i < adapters.size(); ++i) session.adapters[i].path = adapters[i];
  const bool dated = template_tells_date(session.encode, experiment.records);
  if (dated && options.date.empty() && !run.out.empty())
    session.encode.template_variables.set("date", date_of_work(run.out, run_schema));
  if (!session.tokenizer) refuse_without_tokenizer(experiment.spec);

  ConductOptions conducting;
  conducting.out = run.out;
  conducting.shard = shard;
  // Where nothing is there to be compared, weights need not be hashed.
  const bool looks_at_directory = !run.dry_run || (!run.out.empty() && fs::exists(run.out));
  if (run.dry_run && !looks_at_directory) conducting.out.clear();
  if (looks_at_directory)
    conducting.identity =
        experiment_identity(experiment, model_facts(session, options.quiet), session.encode, options.special, dated);
  if (run.dry_run) {
    catch_signals();
    return tell_plan(experiment, session, conducting, options);
  }
  conducting.info = info_of(options, session, experiment, argc, argv);
  conducting.threads = options.threads;
  conducting.on_findings = write_run_report;
  Stages stages(options.quiet);
  ConductEvents events;
  events.on_stage = [&](const std::string& what, int64_t total, const std::string& unit) {
    stages.begin(what, total, unit);
  };
  events.on_kept = [&](int64_t done) { stages.kept(done); };
  events.on_progress = [&](int64_t done) { stages.update(done); };
  events.on_note = [&](const std::string& line) { stages.note(line); };
  tell_cpu_fallback(options, session);
  catch_signals();
  const RunEnd end = conduct(experiment, session, conducting, events);
  stages.end();
  if (end == RunEnd::interrupted) {
    if (!options.quiet) std::fprintf(stderr, "%s: the same command goes on from here\n", run.out.c_str());
    return 3;
  }
  const RunFindings findings = read_findings(fs::path(run.out));
  if (options.json) {
    write_stdout(json::dump(metrics_json(findings)) + "\n");
  } else {
    if (end == RunEnd::was_complete && !options.quiet) std::fprintf(stderr, "%s: was complete\n", run.out.c_str());
    write_stdout(findings_text(run.out, findings, terminal_width(STDOUT_FILENO)) +
                 "\nReport: " + (fs::path(run.out) / "report.html").string() + "\n");
  }
  return 0;
}

void add_experiment_run_options(CLI::App& app, CommonOptions& options, ExperimentRun& run) {
  app.add_option("--out", run.out, "the run directory (docs/run-directory.md)")->type_name("DIR");
  app.add_flag("--dry-run", run.dry_run,
               "check everything and count it, measure the model for a few seconds, and say what the run would take; "
               "nothing is written");
  app.add_option("--shard", run.shard, "I/N: only records whose index is I mod N (default: Slurm's array variables)");
  app.add_option("--limit", run.limit,
                 "only the first N records of each split and condition, pairs whole: a look before the whole run")
      ->check(in_range(int64_t{1}, int64_t{1} << 40));
  // Bytes must not depend on where a run stopped and went on.
  options.numerics = "invariant";
  add_experiment_options(app, options);
  add_generation_config_option(app, options);
}

int run_command(int argc, char** argv) {
  CLI::App app("Runs an experiment (docs/experiments.md) in a directory, or goes on with it where it stopped.",
               "signalbox run");
  app.footer("Example:\n  signalbox run docs/examples/misroute.json --out out/first-run");
  CommonOptions options;
  ExperimentRun run;
  std::string spec_file;
  app.add_option("SPEC", spec_file, "the experiment, a JSON file")->required();
  add_experiment_run_options(app, options, run);
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  ExperimentSpec spec = load_experiment(spec_file);
  if (app.count("--seed") > 0) {
    if (spec.source.find("seeds"))
      throw UsageError("--seed", "expected no seed beside the spec's \"seeds\", found " + std::to_string(options.seed));
    spec.seeds = {options.seed};
  }
  return run_experiment(std::move(spec), options, run, argc, argv);
}

}  // namespace signalbox::tools
