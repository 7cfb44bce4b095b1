// A bar for each stage of a command, one after the other.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "base/namespaces.h"
#include "tools/terminal/progress.h"
#include "tools/terminal/signals.h"

namespace signalbox::tools {

class StageProgress {
 public:
  explicit StageProgress(bool quiet) : quiet_(quiet) {}
  // A signal ends the command here, between two steps.
  void update(const std::string& stage, int64_t done, int64_t total, const char* unit) {
    stop_if_interrupted();
    show(stage, done, total, unit);
  }
  // The same for work that ends itself when there is a signal.
  void show(const std::string& stage, int64_t done, int64_t total, const char* unit) {
    if (stage != stage_) {
      end();
      bar_ = std::make_unique<Progress>(stage, total, quiet_, unit, lines_);
      stage_ = stage;
    }
    bar_->update(done);
  }
  void end() {
    bar_.reset();
    stage_.clear();
  }

 private:
  bool quiet_;
  std::string stage_;
  std::shared_ptr<ProgressLines> lines_ = std::make_shared<ProgressLines>();
  std::unique_ptr<Progress> bar_;
};

}  // namespace signalbox::tools
