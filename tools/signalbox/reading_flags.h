// What lens and vocabulary share: which layers, tokens and ids they read, and where records come from.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/data/chosen_tokens.h"
#include "probes/shape.h"
#include "tools/signalbox/flags.h"

namespace signalbox::tools {

using namespace eval;

struct ReadingFlags {
  std::string layers = "all", positions = "all", span;
  int64_t top = 10;
  std::vector<int32_t> tokens;

  // Throws UsageError for --positions that cannot be meant.
  TokenChoice choice() const;
  // The layers that --layers names, ascending. With `routers` those with a router: one without is refused where it is
  // named and left out of ranges. Throws UsageError.
  std::vector<int32_t> layers_of(const ModelShape& shape, bool routers) const;
};

void add_reading_options(CLI::App& app, ReadingFlags& flags, const std::string& help_of_top,
                         const std::string& help_of_tokens);

// Threads that --threads asks for; 0: all of the machine.
int n_threads(const CommonOptions& options);

}  // namespace signalbox::tools
