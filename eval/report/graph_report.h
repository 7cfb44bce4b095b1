// A graph as a page: one HTML file that opens offline.
#pragma once
#include <string>

#include "base/namespaces.h"
#include "eval/findings/graph.h"

namespace signalbox::eval {

// The picture, with a table of the nodes below. `lead`: one sentence of plain text on what it is.
std::string render_graph_page(const Graph& graph, const std::string& title, const std::string& lead);

// Of such a page: the picture, drawn of a data block that a page has once, and the table.
std::string graph_figure(const Graph& graph, const std::string& label);
std::string graph_node_table(const Graph& graph);

}  // namespace signalbox::eval
