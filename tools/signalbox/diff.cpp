// signalbox diff: where two traces part.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <filesystem>

#include "base/text_table.h"
#include "eval/findings/format.h"
#include "eval/routing/saturation.h"
#include "eval/routing/trace_diff.h"
#include "eval/store/staged_files.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/flags.h"
#include "tools/terminal/output.h"
#include "tools/terminal/width.h"

namespace signalbox::tools {

using namespace eval;

namespace {

void write_saturation(const Saturation& found, const std::string& out) {
  const std::vector<std::string> names = {"saturation.csv", "saturation_experts.csv"};
  require_own_directory(out, names, "a comparison");
  StagedFiles files(out, names);
  write_saturation_csv(files.path() / "saturation.csv", found.layers);
  write_expert_saturation_csv(files.path() / "saturation_experts.csv", found.experts);
  files.commit();
}

json::Value number_json(double value) { return std::isfinite(value) ? json::Value(value) : json::Value(); }

json::Value saturation_json(const Saturation& found) {
  json::Value layers = json::Value::array();
  for (const LayerSaturation& row : found.layers)
    layers.push_back(json::Value::object()
                         .set("layer", int64_t{row.layer})
                         .set("tokens", row.tokens)
                         .set("saturation", number_json(row.saturation))
                         .set("ci_lo", number_json(row.saturation_ci.lo))
                         .set("ci_hi", number_json(row.saturation_ci.hi))
                         .set("chance", number_json(row.chance))
                         .set("jaccard", number_json(row.jaccard)));
  return layers;
}

std::string saturation_text(const Saturation& found, const std::string& out) {
  TextTable table({{"layer", true, true}, {"tokens"}, {"saturation"}, {"95 % interval"}, {"by chance"}, {"jaccard"}});
  for (const LayerSaturation& row : found.layers)
    table.add({std::to_string(row.layer), std::to_string(row.tokens), format_value(row.saturation, 3),
               format_interval(row.saturation_ci.lo, row.saturation_ci.hi, 3), format_value(row.chance, 3),
               format_value(row.jaccard, 3)});
  return "\nSaturation: the share of the experts in B's routes that A's routes of the same tokens have, over " +
         std::to_string(found.records) + " records\n\n" + table.text(terminal_width(STDOUT_FILENO)) +
         "\nTables: " + out + "\n";
}

}  // namespace

int diff_command(int argc, char** argv) {
  CLI::App app("Compares two traces: the first probe point that differs, agreement of experts, KL of logits.",
               "signalbox diff");
  app.footer(
      "Example:\n  signalbox diff trace-a trace-b\n  signalbox diff step-1000 step-20000 --out saturation\n\nRecord "
      "logits (--points '*router*,logits') to get the KL.");
  std::string a, b;
  double tolerance = 0;
  std::string out;
  SaturationOptions saturated;
  bool as_machine = false;
  app.add_option("A", a, "a trace directory or its trace.safetensors")->required();
  app.add_option("B", b, "another one")->required();
  app.add_option("--tolerance", tolerance, "differences of values up to this count as equal")
      ->check(in_range(0.0, 1e30))
      ->capture_default_str();
  auto* to = app.add_option("--out", out,
                            "write saturation.csv and saturation_experts.csv: how much of the routes of B, a later "
                            "checkpoint, A has already (docs/routing.md)")
                 ->type_name("DIR");
  app.add_option("--resamples", saturated.resamples, "bootstrap replicates of their intervals")
      ->check(in_range(int64_t{1}, int64_t{10000000}))
      ->capture_default_str()
      ->needs(to);
  app.add_option("--seed", saturated.seed, "seed of resampling")->check(at_least(0))->capture_default_str()->needs(to);
  app.add_option("--threads", saturated.threads, "threads, 0 = all")
      ->check(in_range(0, 1024))
      ->capture_default_str()
      ->needs(to);
  app.add_flag("--json", as_machine, "machine output");
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  const TraceReader first(a), second(b);
  const TraceComparison result = compare_traces(first, second, tolerance);
  if (result.samples == 0) throw Error(b, "expected samples that " + a + " has too, found none");
  json::Value machine = comparison_json(result);
  std::string text = comparison_text(result);
  if (!out.empty()) {
    const Saturation found = saturation(first, second, saturated);
    write_saturation(found, out);
    machine.set("saturation", saturation_json(found)).set("out", out);
    text += saturation_text(found, out);
  }
  write_stdout(as_machine ? json::dump(machine) + "\n" : text);
  return 0;
}

}  // namespace signalbox::tools
