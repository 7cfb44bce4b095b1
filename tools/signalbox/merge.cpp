// signalbox merge: the shards of a run, put together.
#include "eval/store/merge.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "base/error.h"
#include "eval/causal/map.h"
#include "eval/causal/patch_study.h"
#include "eval/experiment/findings.h"
#include "eval/faithfulness/conduct.h"
#include "eval/findings/metrics_file.h"
#include "eval/report/run_report.h"
#include "eval/store/manifest.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/flags.h"
#include "tools/terminal/output.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"
#include "tools/terminal/width.h"

namespace signalbox::tools {

using namespace eval;

int merge_command(int argc, char** argv) {
  CLI::App app(
      "Puts the directories of all shards of a run, of a causal map or of causal patch, together into the one that a "
      "single process would have written (docs/run-directory.md).",
      "signalbox merge");
  app.footer("Example:\n  signalbox merge out/whole out/shard-*");
  std::string out;
  std::vector<std::filesystem::path> shards;
  bool as_json = false, quiet = false;
  app.add_option("OUT", out, "the directory to make; must not exist, or be empty")->required();
  app.add_option("DIR", shards, "the directories of all shards, in any order")->required();
  app.add_flag("--json", as_json, "print what the merge made: metrics.json of a run, else summary.json");
  app.add_flag("--quiet", quiet, "no progress");
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;

  std::unique_ptr<Progress> progress;
  const std::string schema = schema_of(shards.front());
  if (schema == map_schema || schema == patch_schema) {
    catch_signals();
    if (schema == map_schema)
      merge_maps(out, shards, {});
    else
      merge_patches(out, shards);
    const json::Value summary = json::parse_file(std::filesystem::path(out) / "summary.json");
    if (as_json) {
      write_stdout(json::dump(summary) + "\n");
    } else {
      const json::Ref of(summary, out);
      write_stdout(out + ": " + std::to_string(of.at("cells").integer()) + " cells of " +
                   std::to_string(of.at("records").integer()) + " records\n");
    }
    return 0;
  }
  MergeOptions options;
  options.finalize = [](const std::filesystem::path& dir) { write_run_report(dir, write_findings(dir)); };
  options.on_progress = [&](int64_t done, int64_t total) {
    stop_if_interrupted();
    if (!progress) progress = std::make_unique<Progress>("merging", total, quiet, "lines");
    progress->update(done);
  };
  for (const std::filesystem::path& shard : shards)
    if (schema_of(shard) == faithfulness_schema)
      throw Error(shard.string(),
                  "expected the directory of a run, found a study of faithfulness (its own command puts "
                  "shards together: signalbox faithfulness ... --out OUT --merge DIR ...)");
  catch_signals();
  merge_runs(out, shards, options);
  progress.reset();
  const RunFindings findings = read_findings(std::filesystem::path(out));
  if (as_json) {
    write_stdout(json::dump(metrics_json(findings)) + "\n");
  } else {
    const std::string report = (std::filesystem::path(out) / "report.html").string();
    write_stdout(findings_text(out, findings, terminal_width(STDOUT_FILENO)) + "\nReport: " + report + "\n");
  }
  return 0;
}

}  // namespace signalbox::tools
