// The subcommands of `signalbox circuit`, one file each, and what the two that run a model share.
#pragma once
#include <memory>
#include <optional>
#include <string>

#include "base/namespaces.h"
#include "eval/circuit/discover.h"
#include "tools/signalbox/causal.h"
#include "tools/terminal/progress.h"

namespace signalbox::tools {

Subcommand add_circuit_discover(CLI::App& app);
Subcommand add_circuit_test(CLI::App& app);
Subcommand add_circuit_export(CLI::App& app);

// Shows the stages of a study one after the other.
class StudyBars {
 public:
  explicit StudyBars(bool quiet) : quiet_(quiet) {}
  eval::StudyProgress progress();
  void done();

 private:
  bool quiet_;
  int64_t runs_ = 0;
  std::unique_ptr<Progress> bar_;
};

// "0.4213", "-0.0002", "-" where undefined.
std::string effect_text(double x);
// "0.93 [0.90, 0.95]", "undefined".
std::string faithfulness_text(const eval::Faithfulness& f);

}  // namespace signalbox::tools
