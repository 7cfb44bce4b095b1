// Whoever hears of the jobs of a request while they run.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/namespaces.h"
#include "engine/jobs.h"

namespace signalbox::tools {

// Whose jobs run. Calls come one after the other, from one thread, for jobs by their place in the group; done, failed
// and cancelled end a job.
class JobOwner {
 public:
  virtual ~JobOwner() = default;
  virtual void started(size_t) {}
  virtual void logits(size_t, int64_t, std::span<const float>) {}  // GroupWatch::on_logits
  virtual void token(size_t, int32_t, const std::string&) {}       // and the text that became final with it
  virtual void done(size_t place, Result result) = 0;
  virtual void failed(size_t place, const std::string& message) = 0;
  virtual void cancelled(size_t place, const std::string& why) = 0;
  // Now and then, while the group is there: the place to give up, or to let a held group go on. False: cancel it.
  virtual bool tick() { return true; }
};

}  // namespace signalbox::tools
