// The figures of an analysis directory that scripts of the page draw, with their data.
#pragma once
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::eval {

struct RoutesFigures {
  std::string html;
  std::vector<std::pair<std::string, std::string>> places;  // anchor and name of each section that is there
};

// One section for each question that a table of the directory answers. `contrast`: that of rd.csv too.
RoutesFigures routes_figures(const std::filesystem::path& analysis, bool contrast = true);

}  // namespace signalbox::eval
