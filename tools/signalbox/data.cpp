// signalbox data: what is in a file of records, records from other people's files, contrast pairs, splits, generated
// prompts.
#include <CLI/CLI.hpp>

#include "tools/signalbox/commands.h"
#include "tools/signalbox/data_jobs.h"
#include "tools/signalbox/flags.h"

namespace signalbox::tools {

int data_command(int argc, char** argv) {
  CLI::App app(
      "Checks input records, and makes them: from public data sets, as contrast pairs, with splits, or generated.",
      "signalbox data");
  app.footer("Example:\n  signalbox data structural --n 3 --steps 3 --seed 1\n\ndocs/data.md has one for every job.");
  app.require_subcommand(1);
  DataOptions o;
  const DataJob jobs[] = {add_check_job(app, o), add_convert_job(app, o), add_pairs_job(app, o), add_split_job(app, o),
                          add_structural_job(app, o)};
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  for (const DataJob& job : jobs)
    if (job.app->parsed()) return job.run();
  return 2;  // not reached: a subcommand is required
}

}  // namespace signalbox::tools
