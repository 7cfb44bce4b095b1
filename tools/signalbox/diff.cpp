// signalbox diff: where two traces part.
#include <CLI/CLI.hpp>

#include "eval/routing/trace_diff.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/flags.h"
#include "tools/terminal/output.h"

namespace signalbox::tools {

using namespace eval;

int diff_command(int argc, char** argv) {
  CLI::App app("Compares two traces: the first probe point that differs, agreement of experts, KL of logits.",
               "signalbox diff");
  app.footer("Example:\n  signalbox diff trace-a trace-b\n\nRecord logits (--points '*router*,logits') to get the KL.");
  std::string a, b;
  double tolerance = 0;
  bool as_machine = false;
  app.add_option("A", a, "a trace directory or its trace.safetensors")->required();
  app.add_option("B", b, "another one")->required();
  app.add_option("--tolerance", tolerance, "differences of values up to this count as equal")
      ->check(in_range(0.0, 1e30))
      ->capture_default_str();
  app.add_flag("--json", as_machine, "machine output");
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  const TraceReader first(a), second(b);
  const TraceComparison result = compare_traces(first, second, tolerance);
  if (result.samples == 0) throw Error(b, "expected samples that " + a + " has too, found none");
  write_stdout(as_machine ? json::dump(comparison_json(result)) + "\n" : comparison_text(result));
  return 0;
}

}  // namespace signalbox::tools
