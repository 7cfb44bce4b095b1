#include "tools/signalbox/shown_tables.h"

#include <memory>
#include <string>

#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"

namespace signalbox::tools {

void write_shown_tables(const TraceSet& set, TraceAnalysis& analysis, RouteTableOptions& options,
                        const std::filesystem::path& dir, bool quiet) {
  const auto lines = std::make_shared<ProgressLines>();
  std::string shown;
  std::unique_ptr<Progress> progress;
  const auto show = [&](const std::string& what, const char* unit, int64_t done, int64_t total) {
    if (shown != what) {
      shown = what;
      progress = std::make_unique<Progress>(what, total, quiet, unit, lines);
    }
    progress->update(done);
    stop_if_interrupted();
  };
  options.routes.on_progress = [&](const char* table, int64_t done, int64_t total) {
    show(table, "steps", done, total);
  };
  options.routes.on_tokens = [&](const char* table, int64_t done, int64_t total) {
    show("counting " + std::string(table), "tokens", done, total);
  };
  analysis.summary.set("routing", write_route_tables(set, analysis.usage, options, dir));
  if (progress) progress->done();
}

}  // namespace signalbox::tools
