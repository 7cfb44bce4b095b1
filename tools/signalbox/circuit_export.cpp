// signalbox circuit export: graph.json for other programs (docs/circuits.md).
#include <CLI/CLI.hpp>

#include "base/files.h"
#include "eval/circuit/exports.h"
#include "eval/report/graph_report.h"
#include "tools/signalbox/circuit.h"
#include "tools/signalbox/flags.h"
#include "tools/terminal/output.h"

namespace signalbox::tools {

using namespace eval;

namespace {

struct ExportFlags {
  std::string dir, format, out;
  bool alone = false;
};

CLI::App* add_export_flags(CLI::App& app, ExportFlags& flags) {
  CLI::App* exported = app.add_subcommand("export", "a circuit's graph for other programs");
  exported->footer("Example:\n  signalbox circuit export /tmp/circuit --format html --out /tmp/circuit.html");
  exported->add_option("DIR", flags.dir, "directory of graph.json")->required();
  exported
      ->add_option("--format", flags.format,
                   "dot (Graphviz), json (JSON Graph Format 2), mermaid, html (one page), neuronpedia, mib (EAP-IG)")
      ->check(one_of({"dot", "json", "mermaid", "html", "neuronpedia", "mib"}))
      ->type_name("NAME")
      ->required();
  exported->add_flag("--circuit-only", flags.alone,
                     "without parts and edges that were measured but are not in the circuit");
  exported->add_option("--out", flags.out, "file (default: standard output)")->type_name("FILE");
  return exported;
}

std::string exported_text(const CircuitGraph& graph, const std::string& format, const std::string& where) {
  if (format == "dot") return dot_text(drawing_of(graph));
  if (format == "json") return circuit_json_text(graph);
  if (format == "mermaid") return limited_mermaid_text(drawing_of(graph), where);
  if (format == "neuronpedia") return neuronpedia_text(graph, where);
  if (format == "mib") return mib_text(graph);
  return render_graph_page(drawing_of(graph), "Circuit of " + graph.context.model,
                           "What each part does to " + graph.context.metric + ", by taking it out (" +
                               graph.context.ablation + "), and what passes between parts.");
}

int run_export(const ExportFlags& flags) {
  const std::filesystem::path file = std::filesystem::path(flags.dir) / graph_file;
  const json::Value document = json::parse_file(file);
  CircuitGraph graph = read_circuit_graph(json::Ref(document, file.string()));
  if (flags.alone) graph = circuit_alone(graph);
  const std::string text = exported_text(graph, flags.format, file.string() + ": --format " + flags.format);
  if (flags.out.empty())
    write_stdout(text);
  else
    write_file_atomically(flags.out, text);
  return 0;
}

}  // namespace

Subcommand add_circuit_export(CLI::App& app) {
  auto flags = std::make_shared<ExportFlags>();
  CLI::App* added = add_export_flags(app, *flags);
  return {added, [flags](int, char**) { return run_export(*flags); }};
}

}  // namespace signalbox::tools
