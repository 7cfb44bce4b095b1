// The report of a circuit (`signalbox circuit discover`): its graph, its parts with intervals, its scores.
#pragma once
#include <filesystem>
#include <string>

#include "base/namespaces.h"

namespace signalbox::eval {

bool is_circuit_directory(const std::filesystem::path& dir);

// One HTML page of graph.json, circuit.json and, where it is there, test.json. Throws Error naming the file that is
// missing or wrong.
std::string render_circuit_report(const std::filesystem::path& dir);

}  // namespace signalbox::eval
