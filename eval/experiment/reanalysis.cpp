#include "eval/experiment/reanalysis.h"

#include <optional>

#include "base/error.h"
#include "eval/experiment/collect.h"
#include "eval/experiment/cross_fit.h"
#include "eval/experiment/run_context.h"
#include "eval/experiment/schedule.h"
#include "eval/findings/audit.h"
#include "eval/findings/metrics_file.h"
#include "eval/findings/results.h"
#include "eval/findings/specification_curve.h"
#include "eval/findings/tables.h"
#include "eval/store/manifest.h"

namespace signalbox::eval {

namespace fs = std::filesystem;

bool is_run_directory(const fs::path& dir) { return fs::exists(dir / plan_file) || is_cross_fit_directory(dir); }

std::vector<fs::path> traces_of_directory(const fs::path& dir) {
  if (fs::exists(dir / "trace.safetensors")) return {dir};
  if (!is_run_directory(dir))
    throw Error(dir.string(), std::string("expected a trace directory (trace.safetensors) or a run directory (") +
                                  plan_file + "), found neither");
  if (is_cross_fit_directory(dir)) return {};  // its deals have traces, of records that several of them test
  const RunSchedule schedule = read_schedule(dir);
  std::vector<fs::path> traces;
  for (size_t s = 0; s < schedule.seeds.size(); ++s) {
    const fs::path trace = trace_path(dir, schedule, schedule.baseline_index(), s);
    if (fs::exists(trace / "trace.safetensors")) traces.push_back(trace);
  }
  return traces;
}

namespace {

// The manifest of a run that is not finished; none of any other directory.
std::optional<Manifest> unfinished_manifest(const fs::path& dir) {
  if (schema_of(dir) != run_schema || fs::exists(dir / "metrics.json")) return std::nullopt;
  std::optional<Manifest> manifest = Manifest::read(dir);
  if (!manifest || manifest->status == RunStatus::complete) return std::nullopt;
  return manifest;
}

RunFindings findings_of_schedule(const fs::path& dir, RunSchedule schedule, const FinishedLines* finished,
                                 const std::optional<ReanalysisOptions>& options) {
  if (options) {
    schedule.seed = options->seed;
    schedule.resamples = options->resamples;
  }
  return run_findings(finished ? collect_partial(dir, schedule, *finished) : collect_values(dir, schedule),
                      options ? options->threads : 0);
}

}  // namespace

bool is_unfinished_run(const fs::path& dir) { return unfinished_manifest(dir).has_value(); }

RunFindings partial_findings(const fs::path& dir, const std::optional<ReanalysisOptions>& options) {
  const std::optional<Manifest> manifest = unfinished_manifest(dir);
  if (!manifest) throw Error(dir.string(), "expected a run that is not finished, found none");
  const json::Value* spec = manifest->identity.find("spec");
  const json::Value* fit = spec ? spec->find("cross_fit") : nullptr;
  if (fit && !fit->is_null())
    throw Error(dir.string(),
                "expected a run without \"cross_fit\", or a complete one, found deals that are not all finished (each "
                "of its deals/N can be looked at by itself)");
  if (!manifest->layout || !fs::exists(dir / plan_file) || !fs::exists(dir / records_file))
    throw Error(dir.string(), std::string("expected a run with samples, found one that is ") +
                                  run_status_name(manifest->status) +
                                  " and has none yet: detection and tuning come first (log.txt)");
  const FinishedLines finished(dir, *manifest->layout);
  return findings_of_schedule(dir, read_schedule(dir), &finished, options);
}

RunFindings reanalyze_run(const fs::path& dir, const fs::path& out, const ReanalysisOptions& options) {
  const std::optional<Manifest> manifest = Manifest::read(dir);
  const bool partial = is_unfinished_run(dir);
  if (!partial && (!manifest || manifest->status != RunStatus::complete))
    throw Error(dir.string(), "expected a run that is complete, found one that is not (run its command again)");
  if (is_cross_fit_directory(dir)) {
    made_directory(out);
    return write_cross_fit_findings(dir, out, options);
  }
  RunFindings findings =
      partial ? partial_findings(dir, options) : findings_of_schedule(dir, read_schedule(dir), nullptr, options);
  std::error_code code;
  made_directory(out);
  write_tables(out, findings);
  write_audit(dir, out, findings);
  write_specification_curves(dir, out, findings);
  // What audit.csv was measured on; an analysis of traces that follows writes its own, of the same records and more.
  if (fs::exists(dir / "summary.json"))
    fs::copy_file(dir / "summary.json", out / "summary.json", fs::copy_options::overwrite_existing, code);
  if (code) throw Error((out / "summary.json").string(), "cannot write the file: " + code.message());
  write_metrics(out, findings);
  return findings;
}

std::vector<std::string> findings_files(const fs::path& dir) {
  std::vector<std::string> names = {"metrics.json",
                                    "table.md",
                                    "table.csv",
                                    "table.tex",
                                    "audit.csv",
                                    "audit_correlations.csv",
                                    "specification_curve.csv",
                                    "comparisons.csv",
                                    "summary.json"};
  if (is_cross_fit_directory(dir)) names.insert(names.end(), {"cross_fit.csv", "selection.csv", "audit"});
  return names;
}

}  // namespace signalbox::eval
