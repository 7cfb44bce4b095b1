// Commands whose work goes on where it was stopped, and whose records are run in many changed copies.
#pragma once
#include <functional>
#include <string>

#include "base/namespaces.h"
#include "tools/signalbox/flags.h"

namespace signalbox::tools {

// What kept work tells on standard error, unless quiet: what an earlier process has finished (Kept::on_kept), and that
// the same command goes on; the latter gives the exit code.
std::function<void(const std::string& what)> tell_kept(const CommonOptions& options);
int tell_interrupted(const CommonOptions& options);

// For commands that run many changed copies of a record in one step: --batch and --chunk are about these.
void add_cell_options(CLI::App& app, CommonOptions& options);

}  // namespace signalbox::tools
