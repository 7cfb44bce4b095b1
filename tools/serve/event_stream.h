// A stream of events to one client: started with the first, slowed down to what the client reads, kept alive in
// silence.
#pragma once
#include <atomic>
#include <chrono>
#include <memory>
#include <string_view>

#include "base/json.h"
#include "base/namespaces.h"
#include "tools/serve/api_error.h"
#include "tools/serve/exchange.h"

namespace signalbox::tools {

class EventStream {
 public:
  explicit EventStream(std::shared_ptr<Exchange> exchange);

  void send(const json::Value& event) { send_text(json::dump(event)); }
  void send_text(std::string_view event);  // JSON
  void end();                              // [DONE], and the stream is whole
  // Before the first event the error is the answer; later it is an event of its own, and the stream breaks off.
  void fail(const ApiError& error);
  // Now and then. `pings`: a comment after a long silence. False: the client has not read for too long.
  bool tick(bool pings);

  // Set while too much waits for the client: GroupWatch::held.
  std::shared_ptr<const std::atomic<bool>> held() const { return held_; }
  Exchange& exchange() { return *exchange_; }

 private:
  using Clock = std::chrono::steady_clock;
  void start();
  const std::shared_ptr<Exchange> exchange_;
  const std::shared_ptr<std::atomic<bool>> held_;
  bool started_ = false;
  Clock::time_point last_sent_ = Clock::now(), held_since_;
};

}  // namespace signalbox::tools
