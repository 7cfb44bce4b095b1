// A graph as studies hand it to other programs: Graphviz, JSON Graph Format 2, Mermaid. eval/report draws the same.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"

namespace signalbox::eval {

struct GraphNode {
  std::string id;                                // unique in the graph
  std::string label;                             // for people; any text
  int64_t layer = -1;                            // nodes of one layer stand together; -1: of none
  json::Value metadata = json::Value::object();  // numbers, booleans, texts and null; kept in order
  bool faint = false;                            // drawn dashed: it is not in what the graph is of
};

struct GraphEdge {
  std::string source, target;  // ids
  std::string relation;        // "feeds"; empty: the graph has one kind
  std::string label;           // at the line; empty: none
  double weight = 0;           // its width, by absolute value; NaN: the thinnest
  json::Value metadata = json::Value::object();
  bool faint = false;
};

struct Graph {
  std::string id;
  std::string label, type;  // empty: none
  bool directed = false;
  json::Value metadata = json::Value::object();
  std::vector<GraphNode> nodes;  // in the order in which they are written
  std::vector<GraphEdge> edges;
};

// Ids and labels are quoted, so that any text stands for itself; a cluster of one rank a layer. An edge's penwidth is
// 1 to 5 by |weight|, its attribute "weight" |weight|; what metadata hold of nodes and edges are attributes too.
// Throws Error for a metadata key that is no name, or a value that is a list or an object.
std::string dot_text(const Graph& graph);

// JSON Graph Format 2 (jsongraphformat.info): labels and relation where they are not empty, everything else under
// "metadata". Both "nodes" and "edges" are always there.
std::string graph_json_text(const Graph& graph);

// Reads what graph_json_text writes, and any graph of that format with one "graph". `layer`, `weight` and `faint` are
// the reader's own to make of the metadata. Throws Error at the key: a node that an edge names and nobody has, a
// key that the format does not have.
Graph read_graph_json(const json::Ref& document);

// A flowchart. Ids are letters, digits and "_" only, so nodes are n0, n1, ... where an id has others.
std::string mermaid_text(const Graph& graph);
// The same for pages that one cannot tell to draw more than Mermaid does of itself: Error naming `where` above 500
// edges or 50,000 characters. Nothing is left out instead.
std::string limited_mermaid_text(const Graph& graph, const std::string& where);
inline constexpr size_t most_mermaid_edges = 500, most_mermaid_characters = 50000;

}  // namespace signalbox::eval
