// The report of routes: what a trace says token by token, and what its analysis found.
#pragma once
#include <filesystem>
#include <string>

#include "base/namespaces.h"

namespace signalbox::eval {

// What a page about routes is made of. Either directory may be missing from it (an empty path), not both.
struct RoutesPage {
  std::filesystem::path trace;     // with trace.safetensors
  std::filesystem::path analysis;  // of signalbox analyze
  std::string title = "Signalbox routes";
  std::string heading = "Which experts do what";
  std::string introduction;  // HTML below the heading; empty: none
};
std::string render_routes(const RoutesPage& page);

// A trace directory, analysed (DIR/analysis) or not, or an analysis directory: is `dir` one, and which?
bool is_routes_directory(const std::filesystem::path& dir);
RoutesPage routes_of_directory(const std::filesystem::path& dir);

// The text token by token and the maps beside it, with their data: the parts of a page about a trace that has routes.
std::string samples_section(const std::filesystem::path& trace);

}  // namespace signalbox::eval
