// The way back of one request: an answer, or a stream.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "tools/serve/http.h"

namespace signalbox::tools {

// All may be called from any thread, and do nothing once the client has gone.
class Exchange {
 public:
  virtual ~Exchange() = default;

  // Either one answer, ...
  virtual void answer(HttpAnswer answer) = 0;
  // ... or a stream of events: start, any number of sends, and its end. abort() closes the connection in the middle, so
  // that nobody takes what was sent for the whole.
  virtual void start_stream() = 0;
  virtual void send(std::string bytes) = 0;
  virtual void end_stream() = 0;
  virtual void abort() = 0;

  virtual bool gone() const = 0;
  virtual size_t unsent() const = 0;  // bytes that wait for the client
  // Called once, on the thread of the sockets, when the client goes before the answer is whole; at once where it has.
  virtual void on_gone(std::function<void()> call) = 0;
  // For the log.
  virtual void tell_tokens(int64_t n_given, int64_t n_generated) = 0;
};

// What was done, for the log and the metrics.
struct HandledRequest {
  std::string method, path, id;
  int status = 0;
  int64_t n_given = 0, n_generated = 0;
  double seconds = 0;
  bool gone = false;  // the client left before the end
};

}  // namespace signalbox::tools
