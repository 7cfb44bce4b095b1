#include "eval/report/circuit_report.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/csv.h"
#include "base/json.h"
#include "eval/findings/format.h"
#include "eval/findings/graph.h"
#include "eval/report/charts.h"
#include "eval/report/graph_report.h"
#include "eval/report/page.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

constexpr const char* schema_of_circuit = "signalbox.circuit/1";
constexpr size_t listed_edges = 60;

double number_at(const json::Value& metadata, const char* key) {
  const json::Value* value = metadata.find(key);
  return value && value->is_number() ? value->real() : no_number;
}

bool is_in(const json::Value& metadata) {
  const json::Value* value = metadata.find("in_circuit");
  return value && value->type() == json::Type::boolean && value->boolean();
}

// "L3.H2@5": 3; of no layer: -1.
int64_t layer_in(const std::string& id) {
  if (id.size() < 3 || id[0] != 'L') return -1;
  const size_t end = id.find('.');
  const std::string digits = id.substr(1, end == std::string::npos ? 0 : end - 1);
  return digits.empty() || digits.size() > 6 || digits.find_first_not_of("0123456789") != std::string::npos
             ? -1
             : std::stoll(digits);
}

Graph drawn_graph(const fs::path& file) {
  const json::Value document = json::parse_file(file);
  Graph graph = read_graph_json(json::Ref(document, file.string()));
  for (GraphNode& node : graph.nodes) {
    node.layer = layer_in(node.id);
    node.faint = !is_in(node.metadata);
  }
  for (GraphEdge& edge : graph.edges) {
    edge.weight = number_at(edge.metadata, "effect");
    edge.faint = !is_in(edge.metadata);
  }
  return graph;
}

std::string effect_cells_interval(const json::Value& metadata) {
  const double lo = number_at(metadata, "ci_lo"), hi = number_at(metadata, "ci_hi");
  return std::isfinite(lo) ? format_interval(lo, hi, 4) : "–";
}

std::string edge_table(const Graph& graph) {
  std::vector<const GraphEdge*> order;
  for (const GraphEdge& edge : graph.edges) order.push_back(&edge);
  std::stable_sort(order.begin(), order.end(), [](const GraphEdge* a, const GraphEdge* b) {
    return a->faint != b->faint ? b->faint : std::fabs(a->weight) > std::fabs(b->weight);
  });
  std::vector<std::vector<std::string>> rows;
  for (size_t i = 0; i < std::min(order.size(), listed_edges); ++i) {
    const GraphEdge& edge = *order[i];
    const json::Value* input = edge.metadata.find("input");
    const std::string by = input && input->is_string() ? ", by " + html_escape(input->string()) : "";
    rows.push_back({html_escape(edge.source), html_escape(edge.target), html_escape(edge.relation) + by,
                    format_difference(edge.weight, 4), effect_cells_interval(edge.metadata),
                    format_value(number_at(edge.metadata, "q"), 3), edge.faint ? "no" : "yes"});
  }
  return "<p>The first " + std::to_string(rows.size()) + " of " + std::to_string(graph.edges.size()) +
         ", those of the circuit first, then by size:</p>" +
         html_table({"from", "to", "kind", "effect", "95 % interval", "q", "in the circuit"}, {0, 0, 0, 1, 1, 1, 0},
                    rows);
}

// Of which candidates q counts.
std::string family_text(const json::Ref& circuit, const std::vector<const char*>& kinds) {
  const std::optional<json::Ref> family = circuit.find("q_family");
  if (!family) return "";
  std::string text;
  for (const char* kind : kinds)
    text += (text.empty() ? "" : ", of ") + std::to_string(family->at(kind).integer()) + " candidate " + kind;
  return "<p>q is of " + text + ", whether they were run or not.</p>";
}

double or_none(const json::Ref& value) { return value.is_null() ? no_number : value.number(); }

// Faithfulness at every size on the pairs of each split, and of random circuits.
std::string size_figure(const json::Ref& circuit) {
  const json::Ref sizes = circuit.at("sizes");
  std::vector<DoseLine> lines;
  CsvWriter csv({"size", "added", "discover", "choose", "test", "random", "random_lo", "random_hi"});
  const std::pair<const char*, const char*> splits[] = {
      {"discover", "pairs that found it"}, {"size", "pairs that chose its size"}, {"test", "pairs that test it"}};
  for (const auto& [key, name] : splits) lines.push_back({name, {}});
  DoseLine random{"random circuits", {}};
  for (const json::Ref& one : sizes.items()) {
    const auto size = one.at("size").integer();
    csv.cell(size).cell(one.at("added").is_null() ? std::string() : one.at("added").string());
    for (size_t s = 0; s < 3; ++s) {
      const std::optional<json::Ref> value = one.at("faithfulness").find(splits[s].first);
      const double mean = value ? value->number() : no_number;
      if (std::isfinite(mean)) lines[s].points.push_back({static_cast<double>(size), mean, no_number, no_number});
      csv.cell(mean);
    }
    double mean = no_number, lo = no_number, hi = no_number;
    if (const std::optional<json::Ref> band = one.find("random")) {
      mean = or_none(band->at("mean"));
      lo = or_none(band->at("lo"));
      hi = or_none(band->at("hi"));
      if (std::isfinite(mean)) random.points.push_back({static_cast<double>(size), mean, lo, hi});
    }
    csv.cell(mean).cell(lo).cell(hi).end_row();
  }
  if (!random.points.empty()) lines.push_back(std::move(random));
  std::erase_if(lines, [](const DoseLine& line) { return line.points.empty(); });
  if (lines.empty()) return "";
  return html_figure("sizes-curve", dose_plots(lines, "parts", "faithfulness", no_number),
                     "Which share of the difference between the whole model and none of its parts a circuit of so many "
                     "parts brings back; bars: the middle 95 % of random circuits.",
                     csv.text());
}

std::string found_text(const json::Ref& circuit) {
  const std::string metric = circuit.at("metric").string();
  std::string found = "The circuit has " + std::to_string(circuit.at("size").integer()) + " of " +
                      std::to_string(circuit.at("active_parts").integer()) + " parts that write anything.";
  const json::Ref test = circuit.at("scores").at("test");
  if (const double faithful = or_none(test.at("faithfulness")); std::isfinite(faithful))
    found += " Alone, with all others taken out (" + circuit.at("ablation").string() + "), it brings back " +
             format_value(faithful, 3) + " " +
             (std::isfinite(or_none(test.at("ci_lo")))
                  ? format_interval(test.at("ci_lo").number(), test.at("ci_hi").number(), 3) + " "
                  : "") +
             "of " + metric + " on the " + std::to_string(test.at("pairs").integer()) +
             " pairs that had no part in finding it.";
  if (!circuit.at("faithful_enough").is_null() && !circuit.at("faithful_enough").boolean())
    found += " That is less than was asked for: no set of the parts that were tried was faithful enough.";
  if (const std::optional<json::Ref> edges = circuit.find("edge_circuit"); edges && !edges->is_null()) {
    found += " Of " + std::to_string(edges->at("candidates").integer()) + " edges among them " +
             std::to_string(edges->at("edges").items().size()) + " are left by acdc";
    if (const double faithful = or_none(edges->at("scores").at("test").at("faithfulness")); std::isfinite(faithful))
      found += ", which alone bring back " + format_value(faithful, 3);
    found += ".";
  }
  const std::optional<json::Ref> completeness = circuit.find("completeness");
  if (completeness && !completeness->at("gap").is_null())
    found += " The largest gap to completeness is " + format_value(completeness->at("gap").number(), 3) + ".";
  return found;
}

}  // namespace

bool is_circuit_directory(const fs::path& dir) {
  return fs::exists(dir / "circuit.json") && fs::exists(dir / "graph.json");
}

std::string render_circuit_report(const fs::path& dir) {
  const json::Value circuit_json = json::parse_file(dir / "circuit.json");
  const json::Ref circuit(circuit_json, (dir / "circuit.json").string());
  if (const json::Ref schema = circuit.at("schema"); schema.string() != schema_of_circuit)
    schema.fail("expected \"" + std::string(schema_of_circuit) + "\", found \"" + schema.string() + "\"");
  const Graph graph = drawn_graph(dir / "graph.json");
  const std::string metric = circuit.at("metric").string(), title = "Circuit of " + circuit.at("model").string();
  std::string body = "<h1>" + html_escape(title) + "</h1><p id=\"question\">Which parts of the model make " +
                     html_escape(metric) +
                     ", and what passes between them?</p><h2 id=\"found\">What was found</h2>"
                     "<div class=\"finding\"><p>" +
                     html_escape(found_text(circuit)) +
                     "</p><p>Scores depend on the ablation and on the pairs; another sample may give another "
                     "circuit.</p></div><h2 id=\"graph\">The circuit</h2>" +
                     graph_figure(graph, title) + "<h2 id=\"sizes\">Sizes</h2>" + size_figure(circuit) +
                     "<h2 id=\"parts\">Parts</h2>" + family_text(circuit, {"parts"}) + graph_node_table(graph) +
                     "<h2 id=\"edges\">Edges</h2>" + family_text(circuit, {"edges", "inputs"}) + edge_table(graph);
  if (const fs::path test = dir / "test.json"; fs::exists(test))
    body += "<h2 id=\"test\">Test on other pairs</h2><details><summary>scores and hypotheses</summary><pre>" +
            html_escape(json::dump(json::parse_file(test), 2)) + "</pre></details>";
  body += "<h2 id=\"run\">What was run</h2><details><summary>settings and scores</summary><pre>" +
          html_escape(json::dump(circuit_json, 2)) + "</pre></details>";
  return html_page(title, body);
}

}  // namespace signalbox::eval
