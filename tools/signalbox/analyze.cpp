// signalbox analyze: routing statistics and significance tables from traces.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>

#include "eval/detect/analysis.h"
#include "eval/experiment/findings.h"
#include "eval/experiment/reanalysis.h"
#include "eval/findings/metrics_file.h"
#include "eval/routing/route_tables.h"
#include "eval/store/staged_files.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/flags.h"
#include "tools/signalbox/shown_tables.h"
#include "tools/signalbox/shown_usage.h"
#include "tools/terminal/output.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"
#include "tools/terminal/width.h"

namespace signalbox::tools {

using namespace eval;

namespace {

namespace fs = std::filesystem;

struct AnalyzeOptions {
  std::vector<std::string> directories;
  std::string out, contrast, phase = "all";
  AnalysisOptions analysis;
  std::string tables = "all";
  RouteTableOptions routes;
  int32_t marker_token = -1;
  size_t top = 20;
  bool json = false, quiet = false;
};

// Where the files go: --out, or the only directory's analysis/.
fs::path analysis_directory(const AnalyzeOptions& options) {
  if (options.out.empty() && options.directories.size() > 1)
    throw UsageError("--out", "expected a directory for the analysis of several traces, found none");
  return options.out.empty() ? fs::path(options.directories[0]) / "analysis" : fs::path(options.out);
}

// A run that is not finished: its findings so far. They are written where --out says, and nowhere else: a final report
// would take files of the run's own directory for its own.
int analyze_unfinished(const fs::path& dir, const AnalyzeOptions& options) {
  const ContrastOptions& detection = options.analysis.detection;
  const ReanalysisOptions reanalysis = {detection.seed, detection.resamples, detection.threads};
  RunFindings findings;
  if (options.out.empty()) {
    findings = partial_findings(dir, reanalysis);
  } else {
    const fs::path inside =
        fs::absolute(options.out).lexically_normal().lexically_relative(fs::absolute(dir / ".").lexically_normal());
    if (!inside.empty() && *inside.begin() != "..")
      throw UsageError("--out", "expected a directory outside " + dir.string() + ", whose run is not finished, found " +
                                    options.out);
    StagedFiles files(options.out, findings_files(dir));
    findings = reanalyze_run(dir, files.path(), reanalysis);
    files.commit();
  }
  write_stdout(options.json ? json::dump(metrics_json(findings)) + "\n"
                            : findings_text(dir, findings, terminal_width(STDOUT_FILENO)));
  return 0;
}

// One pool of traces.
TraceAnalysis analyze(const TraceSet& set, AnalyzeOptions& options) {
  const ChosenContrast contrast = choose_contrast(set, options.contrast);
  if (!contrast.note.empty() && !options.quiet) std::fprintf(stderr, "%s\n", contrast.note.c_str());
  ContrastOptions& detection = options.analysis.detection;
  options.analysis.contrasted = contrast.found;
  detection.a = contrast.a;
  detection.b = contrast.b;
  Progress progress("resampling", n_replicates(set, detection), options.quiet, "resamples");
  detection.on_progress = [&](int64_t done) {
    progress.update(done);
    stop_if_interrupted();
  };
  TraceAnalysis analysis = analyze_traces(set, options.analysis);
  progress.done();
  if (analysis.detection && !options.quiet)
    for (const std::string& warning : analysis.detection->warnings)
      std::fprintf(stderr, "warning: %s\n", warning.c_str());
  return analysis;
}

}  // namespace

int analyze_command(int argc, char** argv) {
  CLI::App app("Routing statistics and significance tables from traces (docs/detection.md).", "signalbox analyze");
  app.footer(
      "Example:\n  signalbox trace builtin --input tools/builtin/heldout/pairs.jsonl --out /tmp/pairs\n"
      "  signalbox analyze /tmp/pairs --contrast without_document:with_document --span question");
  AnalyzeOptions options;
  app.add_option("DIR", options.directories,
                 "trace directories, which form one pool; or run directories: findings, and the baseline's traces")
      ->required();
  app.add_option("--out", options.out,
                 "directory for the tables; default DIR/analysis; none for a run that is not finished")
      ->type_name("DIR");
  app.add_option("--contrast", options.contrast, "A:B, values of the records' condition: A minus B");
  app.add_option("--span", options.analysis.detection.span, "only tokens of this span");
  app.add_option("--phase", options.phase, "all | given | generated: only tokens of this phase")
      ->check(one_of({"all", "given", "generated"}))
      ->capture_default_str();
  app.add_flag("--length-match", options.analysis.detection.length_match,
               "within each pair, count only the first K tokens of each sample, K those of its shortest");
  app.add_option("--resamples", options.analysis.detection.resamples, "B, replicates of the bootstrap and of the null")
      ->check(in_range(int64_t{1}, int64_t{100000000}))
      ->capture_default_str();
  app.add_option("--seed", options.analysis.detection.seed, "seed of resampling")
      ->check(at_least(0))
      ->capture_default_str();
  app.add_option("--stable-top", options.analysis.detection.stable_top,
                 "N of the column stable: in which share of bootstrap replicates is the expert among the top N?")
      ->check(in_range(1, 1 << 30))
      ->capture_default_str();
  app.add_flag("--family-wise", options.analysis.detection.family_wise,
               "rd.csv also has p_maxt: p that holds for all rows together (step-down max-T)");
  auto* span =
      app.add_option("--marker", options.analysis.marker.span, "npmi.csv: experts that go with tokens of this span");
  app.add_option("--marker-token", options.marker_token, "npmi.csv: experts that go with tokens of this id")
      ->check(in_range(0, INT32_MAX))
      ->excludes(span);
  app.add_option("--tables", options.tables,
                 "routing tables to write: all | none | names with commas (docs/routing.md)")
      ->type_name("LIST")
      ->capture_default_str();
  app.add_option("--null-resamples", options.routes.routes.resamples,
                 "replicates of the routing tables' nulls; --resamples where that is given")
      ->check(in_range(int64_t{1}, int64_t{100000000}))
      ->capture_default_str();
  app.add_option("--lags", options.routes.lags, "autocorrelation.csv: lags 1 to N")
      ->check(in_range(int64_t{1}, int64_t{10000}))
      ->capture_default_str();
  app.add_option("--min-count", options.routes.vocabulary.min_count,
                 "vocabulary.csv: tokens that are seen at least so often")
      ->check(at_least(1))
      ->capture_default_str();
  app.add_option("--vocabulary-top", options.routes.vocabulary.top, "vocabulary.csv: rows of each expert, 0 = all")
      ->check(at_least(0))
      ->capture_default_str();
  app.add_option("--top", options.top, "experts in the printed table")
      ->check(in_range(1, 1 << 30))
      ->capture_default_str();
  app.add_option("--threads", options.analysis.detection.threads, "threads, 0 = all")
      ->check(in_range(0, 1024))
      ->capture_default_str();
  app.add_flag("--json", options.json, "machine output");
  app.add_flag("--quiet", options.quiet, "no progress and no messages");
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  if (options.marker_token >= 0) options.analysis.marker.token = options.marker_token;
  options.analysis.detection.phase = parse_phase(options.phase, "--phase");
  options.routes.tables = parse_route_tables(options.tables);
  if (app.count("--resamples") > 0 && app.count("--null-resamples") == 0)
    options.routes.routes.resamples = options.analysis.detection.resamples;
  catch_signals();
  for (const std::string& directory : options.directories)
    if (is_unfinished_run(directory)) {
      if (options.directories.size() == 1) return analyze_unfinished(directory, options);
      throw Error(directory, "expected traces and runs that are finished, found a run that is not");
    }
  const fs::path out = analysis_directory(options);
  std::vector<fs::path> traces;
  for (const std::string& directory : options.directories)
    for (const fs::path& trace : traces_of_directory(directory)) traces.push_back(trace);
  const bool run = options.directories.size() == 1 && is_run_directory(options.directories[0]);
  if (!run && traces.empty())
    throw Error("DIR", "expected runs with traces (\"traces\": true in the spec), found none");
  std::optional<RunFindings> findings;
  std::optional<TraceAnalysis> analysis;
  std::unique_ptr<TraceSet> set;
  if (!traces.empty()) {
    set = std::make_unique<TraceSet>(traces);
    analysis = analyze(*set, options);
  }
  {
    // The new files replace the old ones together.
    std::vector<std::string> names;
    if (run) names = findings_files(options.directories[0]);
    if (analysis)
      for (std::string& name : analysis_files()) names.push_back(std::move(name));
    StagedFiles files(out, names);
    const ContrastOptions& detection = options.analysis.detection;
    if (run)
      findings =
          reanalyze_run(options.directories[0], files.path(), {detection.seed, detection.resamples, detection.threads});
    if (analysis) {
      RouteTableOptions& tables = options.routes;
      tables.routes.filter = {detection.span, detection.phase};
      tables.routes.seed = detection.seed;
      tables.routes.threads = detection.threads;
      write_shown_tables(*set, *analysis, tables, files.path(), options.quiet);
      write_analysis(*analysis, files.path(), options.routes.tables);
    }
    files.commit();
  }
  // What was asked for by name and has no rows, or too few records to say more.
  if (analysis && app.count("--tables") > 0 && !options.quiet) {
    const json::Value* routing = analysis->summary.find("routing");
    if (const json::Value* notes = routing ? routing->find("notes") : nullptr)
      for (const auto& [table, note] : notes->members())
        std::fprintf(stderr, "%s: %s\n", table.c_str(), note.string().c_str());
  }
  if (findings && !options.json)
    write_stdout(findings_text(options.directories[0], *findings, terminal_width(STDOUT_FILENO)) + "\n");
  if (analysis && options.json) {
    write_stdout(json::dump(analysis_json(*analysis, out, options.top)) + "\n");
  } else if (analysis) {
    const int width = terminal_width(STDOUT_FILENO);
    const std::string pictures =
        options.routes.tables.empty()
            ? ""
            : usage_pictures(analysis->usage, out, {width > 0 ? width : usual_width, may_colour(STDOUT_FILENO)}) + "\n";
    write_stdout(pictures + analysis_text(*analysis, options.analysis, out, options.top, width));
  }
  if (!analysis && options.json) write_stdout(json::dump(json::Value::object().set("out", out.string())) + "\n");
  return 0;
}

}  // namespace signalbox::tools
