// A graph of experts as a picture: a column for each layer, experts below one another.
#pragma once
#include <string>

#include "base/namespaces.h"
#include "eval/findings/graph.h"

namespace signalbox::eval {

// Lines as wide as their weight; those within a layer are arcs beside its column. Nodes have layers and, in their
// metadata, "expert". `weight` names the weights.
std::string graph_picture(const Graph& graph, const std::string& label, const std::string& weight);

}  // namespace signalbox::eval
