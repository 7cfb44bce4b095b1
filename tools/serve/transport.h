// Sockets: one thread that accepts, reads requests, and writes what others answer. HTTP/1.1 without TLS, on a loopback
// address or a unix socket.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "tools/serve/exchange.h"
#include "tools/serve/http.h"
#include "tools/serve/request_head.h"

namespace signalbox::tools {

struct TransportOptions {
  std::string host = "127.0.0.1";  // an address, or localhost
  int port = 8080;                 // 0: a free one
  std::filesystem::path socket;    // instead of host and port
  int64_t max_connections = 64;
  int64_t max_of_peer = 16;    // from one address that is not this machine's
  int64_t max_requests = 100;  // of one connection
  HeadLimits head;
  // Seconds. A head and a body from their first byte on; a body brings min_body_rate bytes a second at least.
  double head_seconds = 10, body_seconds = 30, idle_seconds = 30, write_seconds = 30;
  double rate_seconds = 5;  // how often the rate is looked at
  double min_body_rate = 1024;
};

// What is behind the sockets. All calls come from their thread.
class TransportHandler {
 public:
  virtual ~TransportHandler() = default;
  // Before a body is read: what is wrong with the head, or how long the body may be.
  struct Verdict {
    std::optional<HttpAnswer> refusal;
    int64_t max_body = 0;
    int key = -1;
  };
  virtual Verdict judge(const RequestHead& head, bool off_loopback) = 0;
  virtual void handle(HttpRequest request, std::shared_ptr<Exchange> exchange) = 0;
  virtual void handled(const HandledRequest&) {}
  // A connection that was not taken: "connections", "peer".
  virtual void turned_away(const char*) {}
  // How many connections there are now.
  virtual void connected(int64_t) {}
};

bool is_loopback(const std::string& host);

class Transport {
 public:
  // Listens from here on. Throws Error naming the flag: the address is taken, or none.
  Transport(TransportOptions options, TransportHandler& handler);
  ~Transport();
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;

  std::string url() const;     // "http://127.0.0.1:8080"; empty for a unix socket
  std::string socket() const;  // its path; empty for an address

  // The thread of the sockets: returns after close().
  void run();

  // From any thread. No new connections; those that wait for a request are closed, the others after their answer.
  void stop_accepting();
  // Ends run(), after what was answered has been written, or `seconds`.
  void close(double seconds);

  int64_t n_connections() const;

  // While one lives, answers and events of any thread wait for its end, or for go_on(): the thread of the sockets wakes
  // up once for all of them.
  class Together {
   public:
    explicit Together(Transport& transport);
    ~Together();
    Together(const Together&) = delete;
    Together& operator=(const Together&) = delete;
    void go_on();

   private:
    Transport& transport_;
  };

 private:
  class State;
  std::shared_ptr<State> state_;
};

}  // namespace signalbox::tools
