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

RunFindings reanalyze_run(const fs::path& dir, const fs::path& out, const ReanalysisOptions& options) {
  const std::optional<Manifest> manifest = Manifest::read(dir);
  if (!manifest || manifest->status != RunStatus::complete)
    throw Error(dir.string(), "expected a run that is complete, found one that is not (run its command again)");
  if (is_cross_fit_directory(dir)) {
    made_directory(out);
    return write_cross_fit_findings(dir, out, options);
  }
  RunSchedule schedule = read_schedule(dir);
  schedule.seed = options.seed;
  schedule.resamples = options.resamples;
  RunFindings findings = run_findings(collect_values(dir, schedule), options.threads);
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
