// Routing tables of an analysis, with a bar for each while it is made.
#pragma once
#include <filesystem>

#include "base/namespaces.h"
#include "eval/detect/analysis.h"
#include "eval/routing/route_tables.h"

namespace signalbox::tools {

using namespace eval;

// Writes options.tables of the pool into `dir` and puts what they say of themselves into analysis.summary. Sets
// options.routes.on_progress, which stops where the command is interrupted.
void write_shown_tables(const TraceSet& set, TraceAnalysis& analysis, RouteTableOptions& options,
                        const std::filesystem::path& dir, bool quiet);

}  // namespace signalbox::tools
