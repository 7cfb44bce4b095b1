#include "tools/signalbox/kept.h"

#include <CLI/CLI.hpp>
#include <cstdio>

namespace signalbox::tools {

std::function<void(const std::string& what)> tell_kept(const CommonOptions& options) {
  return [&options](const std::string& what) {
    if (!options.quiet) std::fprintf(stderr, "%s: kept: %s\n", options.trace.c_str(), what.c_str());
  };
}

int tell_interrupted(const CommonOptions& options) {
  if (!options.quiet) std::fprintf(stderr, "%s: the same command goes on from here\n", options.trace.c_str());
  return 3;
}

void add_cell_options(CLI::App& app, CommonOptions& options) {
  options.batch = 64;
  options.chunk = 512;
  for (const char* flag : {"--batch", "--chunk"}) app.remove_option(app.get_option(flag));
  app.add_option("--batch", options.batch, "changed runs of a record in one step, at most")
      ->check(in_range(1, 4096))
      ->capture_default_str()
      ->group("Prompts and batches");
  app.add_option("--chunk", options.chunk, "tokens of these together, at most (a run alone may have more)")
      ->check(in_range(1, 1 << 20))
      ->capture_default_str()
      ->group("Prompts and batches");
}

}  // namespace signalbox::tools
