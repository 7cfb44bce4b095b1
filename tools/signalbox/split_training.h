// What the trainings have in common that learn from one set of records, stop by another and are judged by a third
// (train distill, train router).
#pragma once
#include <cstdio>
#include <string>

#include "base/namespaces.h"
#include "loaders/open.h"
#include "tools/signalbox/flags.h"
#include "tools/terminal/stage_progress.h"
#include "train/distillation.h"

namespace signalbox::tools {

// Of --data, --stop and --eval, each at least one record; empty: a part of --data. Throws Error.
train::SplitFiles read_split_files(const std::string& data, const std::string& stop, const std::string& eval);

// As a session of these options is opened on a CPU.
loaders::OpenOptions cpu_open_options(const CommonOptions& options);

// A bar for each stage of `work`, and lines of its own, on stderr. A signal ends training itself, between two steps;
// other stages it ends here.
template <class Work>
void tell_stages(Work& work, StageProgress& progress, bool quiet) {
  work.on_progress = [&progress](const std::string& stage, int64_t done, int64_t total, const char* unit) {
    if (stage.starts_with("training")) {
      progress.show(stage, done, total, unit);
    } else {
      progress.update(stage, done, total, unit);
    }
  };
  work.on_note = [&progress, quiet](const std::string& line) {
    progress.end();
    if (!quiet) std::fprintf(stderr, "%s\n", line.c_str());
  };
}

}  // namespace signalbox::tools
