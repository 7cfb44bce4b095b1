// signalbox analyze: routing statistics and significance tables from traces.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <optional>

#include "base/files.h"
#include "eval/detect/risk_difference.h"
#include "eval/detect/selection.h"
#include "eval/experiment/collect.h"
#include "eval/experiment/findings.h"
#include "eval/experiment/schedule.h"
#include "eval/findings/audit.h"
#include "eval/findings/metrics_file.h"
#include "eval/findings/results.h"
#include "eval/findings/tables.h"
#include "eval/routing/npmi.h"
#include "eval/routing/usage.h"
#include "eval/store/manifest.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/common.h"

namespace signalbox {

namespace {

namespace fs = std::filesystem;

struct AnalyzeOptions {
  std::vector<std::string> directories;
  std::string out, contrast, phase = "all";
  ContrastOptions detection;
  Marker marker;
  int32_t marker_token = -1;
  size_t top = 20;
  bool json = false, quiet = false;
};

void say(const AnalyzeOptions& options, const std::string& text) {
  if (!options.quiet) std::fprintf(stderr, "%s\n", text.c_str());
}

bool is_run(const fs::path& directory) { return fs::exists(directory / plan_file); }

// The traces that stand for a directory: itself, or of a run its baseline's, one for each seed. Empty for a run without
// traces.
std::vector<fs::path> traces_of(const fs::path& directory) {
  if (fs::exists(directory / "trace.safetensors")) return {directory};
  if (!is_run(directory))
    throw Error(directory.string(), std::string("expected a trace directory (trace.safetensors) or a run directory (") +
                                        plan_file + "), found neither");
  const RunSchedule schedule = read_schedule(directory);
  std::vector<fs::path> traces;
  for (size_t s = 0; s < schedule.seeds.size(); ++s) {
    const fs::path trace = trace_path(directory, schedule, schedule.baseline_index(), s);
    if (fs::exists(trace / "trace.safetensors")) traces.push_back(trace);
  }
  return traces;
}

// The findings of a run once more, with this command's seed and resamples.
void analyze_run(const fs::path& directory, const fs::path& out, const AnalyzeOptions& options) {
  const std::optional<Manifest> manifest = Manifest::read(directory);
  if (!manifest || manifest->status != RunStatus::complete)
    throw Error(directory.string(), "expected a run that is complete, found one that is not (run its command again)");
  RunSchedule schedule = read_schedule(directory);
  schedule.seed = options.detection.seed;
  schedule.resamples = options.detection.resamples;
  RunFindings findings = run_findings(collect_values(directory, schedule), options.detection.threads);
  std::error_code code;
  fs::create_directories(out, code);
  if (code) throw Error(out.string(), "cannot make the directory: " + code.message());
  write_tables(out, findings);
  write_audit(directory, out, findings);
  write_metrics(out, findings);
  if (options.json) return;
  write_stdout(findings_text(directory, findings) + "\n");
}

// The two conditions of --contrast, or those of the records when they have exactly two.
bool choose_contrast(const TraceSet& set, AnalyzeOptions& options) {
  if (!options.contrast.empty()) {
    const size_t colon = options.contrast.find(':');
    if (colon == std::string::npos || colon == 0 || colon + 1 == options.contrast.size())
      throw UsageError("--contrast", "expected A:B, found \"" + options.contrast + "\"");
    // Conditions may hold colons: the split is taken at which both sides are conditions.
    const std::vector<std::string> known = set.conditions();
    const auto is_known = [&](const std::string& name) {
      return std::find(known.begin(), known.end(), name) != known.end();
    };
    options.detection.a = options.contrast.substr(0, colon);
    options.detection.b = options.contrast.substr(colon + 1);
    for (size_t at = colon; at != std::string::npos; at = options.contrast.find(':', at + 1)) {
      const std::string a = options.contrast.substr(0, at), b = options.contrast.substr(at + 1);
      if (!is_known(a) || !is_known(b)) continue;
      options.detection.a = a;
      options.detection.b = b;
    }
    return true;
  }
  const std::vector<std::string> conditions = set.conditions();
  if (conditions.size() == 2) {
    options.detection.a = conditions[0];
    options.detection.b = conditions[1];
    say(options, "contrast: " + conditions[0] + " minus " + conditions[1] +
                     ", the two conditions of the records (--contrast A:B to choose)");
    return true;
  }
  say(options, "no rd.csv: the records have " + std::to_string(conditions.size()) +
                   (conditions.size() == 1 ? " condition" : " conditions") + " (--contrast A:B compares two)");
  return false;
}

json::Value row_json(const RiskDifference& row) {
  json::Value out = json::Value::object();
  out.set("layer", int64_t{row.layer}).set("expert", int64_t{row.expert}).set("rd", row.value());
  out.set("ci_lo", row.ci.lo).set("ci_hi", row.ci.hi).set("p", row.p).set("q", row.q);
  out.set("rd_example", row.rd_example).set("stable", row.stable);
  return out;
}

// The contrast in words and its first experts by |rd|.
std::string contrast_table(const Detection& detection, const AnalyzeOptions& options) {
  const DetectionFacts& facts = detection.facts;
  const ContrastOptions& contrast = options.detection;
  char line[512];
  std::string text = contrast.a + " minus " + contrast.b;
  if (!contrast.span.empty()) text += ", span " + contrast.span;
  if (contrast.phase != Phase::all) text += std::string(", ") + phase_name(contrast.phase) + " tokens";
  if (contrast.length_match) text += ", length matched";
  std::snprintf(line, sizeof line,
                "\n%ld and %ld records (%ld complete pairs), %ld and %ld tokens; %ld resamples, seed %lu\n",
                static_cast<long>(facts.records_a), static_cast<long>(facts.records_b), static_cast<long>(facts.pairs),
                static_cast<long>(facts.tokens_a), static_cast<long>(facts.tokens_b),
                static_cast<long>(contrast.resamples), static_cast<unsigned long>(contrast.seed));
  text += line;
  const auto below =
      std::count_if(detection.rows.begin(), detection.rows.end(), [](const auto& row) { return row.q < 0.05; });
  std::snprintf(line, sizeof line, "%ld of %zu experts at q < 0.05\n\n", static_cast<long>(below),
                detection.rows.size());
  text += line;
  text += "layer  expert    share A   share B        rd   95 % interval              p        q  stable\n";
  for (const RiskDifference& row : top_experts(detection.rows, options.top, 0)) {
    const double a = static_cast<double>(row.a1) / static_cast<double>(facts.tokens_a),
                 b = static_cast<double>(row.a2) / static_cast<double>(facts.tokens_b);
    std::snprintf(line, sizeof line, "%5d  %6d  %7.2f %%  %7.2f %%  %+8.4f  [%+8.4f, %+8.4f]  %8.2g %8.2g  %6.2f\n",
                  row.layer, row.expert, 100 * a, 100 * b, row.value(), row.ci.lo, row.ci.hi, row.p, row.q, row.stable);
    text += line;
  }
  return text + "\nMore often selected is not more important: ablate the candidates (docs/detection.md).\n";
}

std::string marker_table(std::vector<MarkerAssociation> rows, const AnalyzeOptions& options) {
  std::erase_if(rows, [](const MarkerAssociation& row) { return std::isnan(row.value()); });
  std::stable_sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) { return a.value() > b.value(); });
  char line[160];
  std::snprintf(line, sizeof line, "%ld marker tokens of %ld\n\nlayer  expert      npmi   at markers     anywhere\n",
                static_cast<long>(rows.empty() ? 0 : rows[0].markers),
                static_cast<long>(rows.empty() ? 0 : rows[0].tokens));
  std::string text = line;
  for (size_t i = 0; i < std::min(options.top, rows.size()); ++i) {
    std::snprintf(line, sizeof line, "%5d  %6d  %+8.4f %12ld %12ld\n", rows[i].layer, rows[i].expert, rows[i].value(),
                  static_cast<long>(rows[i].at_markers), static_cast<long>(rows[i].selected));
    text += line;
  }
  return text;
}

// Where the files go: --out, or the only directory's analysis/.
fs::path analysis_directory(const AnalyzeOptions& options) {
  if (options.out.empty() && options.directories.size() > 1)
    throw UsageError("--out", "expected a directory for the analysis of several traces, found none");
  return options.out.empty() ? fs::path(options.directories[0]) / "analysis" : fs::path(options.out);
}

// Analyzes one pool of traces into `out`.
void analyze_traces(const std::vector<fs::path>& traces, const fs::path& out, AnalyzeOptions options) {
  const TraceSet set(traces);
  const TokenFilter filter{options.detection.span, options.detection.phase};
  const bool contrasted = choose_contrast(set, options);

  // Everything is computed before the first file is written.
  const std::vector<Usage> usage = usage_table(set, filter);
  std::optional<Detection> detection;
  if (contrasted) {
    Progress progress("resampling", 2 * options.detection.resamples, options.quiet);
    options.detection.on_progress = [&](int64_t done) {
      progress.update(done);
      stop_if_interrupted();
    };
    detection = detect(set, options.detection);
  }
  std::vector<MarkerAssociation> markers;
  const bool marked = options.marker.token || !options.marker.span.empty();
  if (marked) markers = marker_associations(set, options.marker, filter);

  json::Value summary = json::Value::object();
  if (detection) {
    summary = detection_summary(set, *detection, options.detection);
  } else {
    summary.set("schema", "signalbox.analysis/1").set("traces", traces_summary(set));
  }
  summary.set("span", filter.span.empty() ? json::Value() : json::Value(filter.span));
  summary.set("phase", phase_name(filter.phase)).set("tokens", usage[0].tokens);
  if (marked) {
    json::Value marker = json::Value::object();
    if (options.marker.token) {
      marker.set("token", int64_t{*options.marker.token});
    } else {
      marker.set("span", options.marker.span);
    }
    summary.set("marker", marker.set("markers", markers[0].markers).set("tokens", markers[0].tokens));
  }

  std::error_code code;
  fs::create_directories(out, code);
  if (code) throw Error(out.string(), "cannot make the directory: " + code.message());
  // Tables of an earlier analysis would stand beside a summary that is not theirs.
  for (const char* old : {"summary.json", "rd.csv", "npmi.csv"}) fs::remove(out / old, code);
  write_usage_csv(out / "usage.csv", usage);
  if (detection) write_rd_csv(out / "rd.csv", detection->rows);
  if (marked) write_npmi_csv(out / "npmi.csv", markers);
  write_file_atomically(out / "summary.json", json::dump(summary, 2) + "\n");

  if (options.json) {
    summary.set("out", out.string());
    if (detection) {
      json::Value top = json::Value::array();
      for (const RiskDifference& row : top_experts(detection->rows, options.top, 0)) top.push_back(row_json(row));
      summary.set("top", std::move(top));
    }
    write_stdout(json::dump(summary) + "\n");
    return;
  }
  std::string text;
  if (detection) text += contrast_table(*detection, options) + "\n";
  if (marked) text += marker_table(std::move(markers), options) + "\n";
  text += "Tables: " + out.string() + "\n";
  write_stdout(text);
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
  app.add_option("--out", options.out, "directory for the tables; default DIR/analysis");
  app.add_option("--contrast", options.contrast, "A:B, values of the records' condition: A minus B");
  app.add_option("--span", options.detection.span, "only tokens of this span");
  app.add_option("--phase", options.phase, "all | given | generated: only tokens of this phase")
      ->check(CLI::IsMember({"all", "given", "generated"}))
      ->capture_default_str();
  app.add_flag("--length-match", options.detection.length_match,
               "within each pair, count only the first K tokens of each sample, K those of its shortest");
  app.add_option("--resamples", options.detection.resamples, "B, replicates of the bootstrap and of the null")
      ->check(CLI::Range(int64_t{1}, int64_t{100000000}))
      ->capture_default_str();
  app.add_option("--seed", options.detection.seed, "seed of resampling")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--stable-top", options.detection.stable_top,
                 "N of the column stable: in which share of bootstrap replicates is the expert among the top N?")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str();
  auto* span = app.add_option("--marker", options.marker.span, "npmi.csv: experts that go with tokens of this span");
  app.add_option("--marker-token", options.marker_token, "npmi.csv: experts that go with tokens of this id")
      ->check(CLI::Range(0, INT32_MAX))
      ->excludes(span);
  app.add_option("--top", options.top, "experts in the printed table")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str();
  app.add_option("--threads", options.detection.threads, "threads, 0 = all")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_flag("--json", options.json, "machine output");
  app.add_flag("--quiet", options.quiet, "no progress and no messages");
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  if (options.marker_token >= 0) options.marker.token = options.marker_token;
  options.detection.phase = parse_phase(options.phase, "--phase");
  const fs::path out = analysis_directory(options);
  catch_signals();
  std::vector<fs::path> traces;
  for (const std::string& directory : options.directories)
    for (const fs::path& trace : traces_of(directory)) traces.push_back(trace);
  const bool run = options.directories.size() == 1 && is_run(options.directories[0]);
  if (run) analyze_run(options.directories[0], out, options);
  if (!traces.empty()) {
    analyze_traces(traces, out, options);
  } else if (!run) {
    throw Error("DIR", "expected runs with traces (\"traces\": true in the spec), found none");
  } else if (options.json) {
    write_stdout(json::dump(json::Value::object().set("out", out.string())) + "\n");
  }
  return 0;
}

}  // namespace signalbox
