// Results of a search's runs on disk: one that was stopped finds what it had, and comes to the same end, for what it
// asks next depends on nothing else.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/store/kept_work.h"
#include "eval/store/line_log.h"

namespace signalbox::eval {

class RunLog {
 public:
  // An empty stem keeps nothing. Tells kept.on_kept of what is there. Throws Error as LineLog does, and for lines of
  // another form. At most 2^20 results; what is behind them would be made again.
  explicit RunLog(const Kept& kept);
  // The numbers of this name, which `make` gives where they are not known yet; none of them may be NaN or infinite, or
  // they are not kept. Names are hashed, so that they may be long.
  std::vector<double> known_or(const std::string& name, const std::function<std::vector<double>()>& make);

 private:
  std::map<std::string, std::vector<double>> known_;
  std::unique_ptr<LineLog> log_;  // null: nothing is kept
};

}  // namespace signalbox::eval
