// The owner of jobs on a thread of its own: what it makes of tokens and logits (log-probabilities, JSON, text) takes
// nothing from the thread that runs the model.
#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "tools/serve/job_owner.h"
#include "tools/serve/transport.h"

namespace signalbox::tools {

// Calls in the order in which they came, on the thread that is in run(). Who hands over more than is worked off waits.
// Waking up that thread, the one of the sockets and the clients costs as much as a step of a small model: calls are
// worked off at most every `gap`, unless one is urgent. Steps that take longer are told at once.
class Telling {
 public:
  enum class When : uint8_t { soon, at_once };
  // `bytes`: of memory that the call holds. It may wait for wake().
  void post(When when, size_t bytes, std::function<void()> call);
  void wake();
  void run(Transport& transport);  // until end(), and all is done
  void end();

 private:
  static constexpr size_t most_bytes = size_t{64} << 20, most_calls = 4096;
  static constexpr std::chrono::milliseconds gap{4};
  struct Call {
    size_t bytes = 0;
    std::function<void()> of;
  };
  std::mutex mutex_;
  std::condition_variable came_, went_;
  std::deque<Call> calls_;
  size_t bytes_ = 0;
  bool ended_ = false, urgent_ = false, resting_ = false;
};

// Stands before the owner, and calls it there: with tokens, logits and ends once Telling::wake() says that a step is
// over; a job's first token and its end are urgent.
class OwnerElsewhere : public JobOwner {
 public:
  OwnerElsewhere(std::shared_ptr<JobOwner> owner, Telling& telling) : owner_(std::move(owner)), telling_(telling) {}
  void started(size_t place) override;
  void logits(size_t place, int64_t token, std::span<const float> logits) override;
  void token(size_t place, int32_t id, const std::string& text) override;
  void done(size_t place, Result result) override;
  void failed(size_t place, const std::string& message) override;
  void cancelled(size_t place, const std::string& why) override;
  bool tick() override;  // what it said the last time

 private:
  const std::shared_ptr<JobOwner> owner_;
  Telling& telling_;
  std::vector<bool> begun_;  // jobs that have a token
  const std::shared_ptr<std::atomic<bool>> goes_on_ = std::make_shared<std::atomic<bool>>(true);
};

}  // namespace signalbox::tools
