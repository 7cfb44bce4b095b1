// From the first connection to the last: readiness, keys, sockets, queues, clients that leave, signals.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <fstream>
#include <thread>

#include "tests/serve/server_process.h"
#include "tests/support.h"
#include "tools/serve/transport.h"

namespace {

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::test;

std::string completion(const std::string& more) {
  return R"({"model":"builtin","prompt":"Once upon a time","temperature":0,"ignore_eos":true,)" + more + "}";
}

// Waits until something holds; a test that fails here has waited for ten seconds.
template <class Holds>
bool soon(Holds holds) {
  for (int i = 0; i < 1000; ++i) {
    if (holds()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

}  // namespace

TEST_CASE("serve: keys are asked for where there are some") {
  TemporaryDirectory scratch;
  write_file(scratch / "keys", "0123456789abcdef\n\nanother-key-of-many-bytes\n");
  write_file(scratch / "short", "short\n");
  const ServerProcess server("builtin", {"--api-key-file", (scratch / "keys").string(), "--served-name", "mine"});
  const auto status = [&](const std::string& path, const std::string& field) {
    Connection connection(server.port());
    return connection.request("GET", path, "", "Host: localhost\r\n" + field).status;
  };
  CHECK(status("/health", "") == 200);
  CHECK(status("/v1/models", "") == 401);
  CHECK(status("/v1/models", "Authorization: Bearer\r\n") == 401);
  CHECK(status("/v1/models", "Authorization: Bearer 0123456789abcdeF\r\n") == 401);
  CHECK(status("/v1/models", "Authorization: 0123456789abcdef\r\n") == 401);
  CHECK(status("/v1/models", "X-Api-Key: 0123456789abcdef\r\n") == 401);
  CHECK(status("/v1/models?key=0123456789abcdef", "") == 401);
  CHECK(status("/v1/models", "Authorization: Bearer 0123456789abcdef\r\n") == 200);
  CHECK(status("/v1/models/mine", "Authorization: Bearer another-key-of-many-bytes\r\n") == 200);
  CHECK(status("/v1/models/other", "Authorization: Bearer another-key-of-many-bytes\r\n") == 404);
  CHECK(status("/metrics", "") == 401);
  // The same without keys: a header without a key is no error.
  Connection open(shared_server().port());
  CHECK(open.request("GET", "/v1/models", "", "Host: localhost\r\nAuthorization: Bearer \r\n").status == 200);
  const Ran ran =
      run_command(binary() + " serve builtin --port 0 --quiet --api-key-file " + (scratch / "short").string());
  CHECK(ran.code == 1);
  CHECK(ran.err.find("at least 16 bytes") != std::string::npos);
}

TEST_CASE("serve: a unix socket of its own; addresses that cannot be end with one line") {
  TemporaryDirectory scratch;
  const std::string path = (scratch / "made/s.sock").string();
  {
    ServerProcess server("builtin", {"--socket", path});
    CHECK(server.ready().find("url")->is_null());
    CHECK(server.ready().find("socket")->string() == path);
    struct stat of_socket = {}, of_directory = {};
    REQUIRE(::stat(path.c_str(), &of_socket) == 0);
    REQUIRE(::stat((scratch / "made").c_str(), &of_directory) == 0);
    CHECK((of_socket.st_mode & 0777) == 0600);
    CHECK((of_directory.st_mode & 0777) == 0700);
    Connection connection(path);
    CHECK(connection.request("GET", "/health").status == 200);
    const Ran second = run_command(binary() + " serve builtin --quiet --socket " + path);
    CHECK(second.code == 1);
    CHECK(lines_of(second.err).size() == 1);
    server.signal(SIGTERM);
    CHECK(server.wait() == 0);
  }
  CHECK_FALSE(std::filesystem::exists(path));
  for (const std::string& words : {"--port " + std::to_string(shared_server().port()), std::string("--host 0.0.0.0"),
                                   std::string("--host example"), "--api-key-file " + (scratch / "none").string(),
                                   std::string("--api-key-file /dev/zero")}) {
    const Ran ran = run_command(binary() + " serve builtin --quiet " + words);
    CAPTURE(ran.err);
    CHECK(ran.code == (words == "--host example" ? 2 : 1));
    CHECK(ran.out.empty());
    CHECK(lines_of(ran.err).size() == 1);
  }
}

TEST_CASE("serve: exactly the overflow of the queue is refused, and the others end") {
  const ServerProcess server("builtin", {"--max-queue", "3", "--batch", "2", "--max-connections", "40"});
  std::atomic<int> n_good{0}, n_full{0}, n_other{0};
  std::vector<std::thread> clients;
  for (int i = 0; i < 24; ++i)
    clients.emplace_back([&] {
      Connection connection(server.port());
      const HttpReply reply = connection.post("/v1/completions", completion("\"max_tokens\":150"));
      if (reply.status == 429) {
        CHECK(reply.field("retry-after") == "1");
        CHECK(reply.json().find("error")->find("type")->string() == "rate_limit_error");
      }
      ++(reply.status == 200 ? n_good : reply.status == 429 ? n_full : n_other);
    });
  for (std::thread& client : clients) client.join();
  CHECK(n_other == 0);
  CHECK(n_good >= 5);
  CHECK(n_good + n_full == 24);
  CHECK(server.metric("signalbox_rejected_total{reason=\"queue\"}") == (n_full > 0 ? n_full.load() : -1));
  CHECK(soon([&] { return server.metric("signalbox_kv_blocks_free") == server.metric("signalbox_kv_blocks"); }));
}

TEST_CASE("serve: who leaves is cancelled, and takes nothing from the others") {
  ServerProcess& server = shared_server();
  const std::string body = completion("\"max_tokens\":480,\"stream\":true");
  const auto cancelled = [&] {
    return std::max<int64_t>(0, server.metric("signalbox_cancelled_total{why=\"client_gone\"}"));
  };
  const int64_t before = cancelled();
  Connection stays(server.port());
  const HttpReply alone = stays.post("/v1/completions", completion("\"max_tokens\":60"));
  for (int i = 0; i < 3; ++i) {
    Connection leaves(server.port());
    leaves.send(
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: " +
        std::to_string(body.size()) + "\r\n\r\n" + body);
    if (i > 0) CHECK_FALSE(leaves.read_some().empty());
    if (i == 2) leaves.finish_sending();
    if (i == 2) CHECK(soon([&] { return cancelled() == before + 3; }));
  }
  const HttpReply beside = stays.post("/v1/completions", completion("\"max_tokens\":60"));
  const auto hash = [](const HttpReply& reply) {
    return reply.json().find("choices")->items()[0].find("signalbox")->find("logits_hash")->string();
  };
  CHECK(hash(beside) == hash(alone));
  CHECK(soon([&] { return server.metric("signalbox_kv_blocks_free") == server.metric("signalbox_kv_blocks"); }));
  CHECK(server.metric("signalbox_requests_running") == 0);
}

TEST_CASE("serve: told to stop, it ends what runs; told twice, at once; and it goes with its parent") {
  const auto start = [](Connection& connection, const char* n) {
    const std::string body = completion("\"max_tokens\":400,\"stream\":true,\"n\":" + std::string(n));
    connection.send(
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: " +
        std::to_string(body.size()) + "\r\n\r\n" + body);
    connection.wait_for_bytes();
  };
  {
    ServerProcess server("builtin");
    Connection connection(server.port());
    start(connection, "1");
    server.signal(SIGTERM);
    const HttpReply reply = connection.read();
    CHECK(reply.whole);
    CHECK(reply.events().back() == "[DONE]");
    CHECK(server.wait() == 0);
  }
  {
    ServerProcess server("builtin");
    Connection connection(server.port());
    start(connection, "128");
    server.signal(SIGTERM);
    std::this_thread::sleep_for(std::chrono::milliseconds(120));
    server.signal(SIGTERM);
    const HttpReply reply = connection.read();
    CHECK_FALSE(reply.whole);
    CHECK(json::parse(reply.events().back(), "event").find("error")->find("code")->string() == "shutdown");
    CHECK(server.wait() == 0);
  }
  ServerProcess server("builtin", {"--exit-with-parent"});
  server.close_input();
  CHECK(server.wait() == 0);
}

namespace {

// Answers nothing: for what the transport does by itself.
struct SilentHandler : TransportHandler {
  Verdict judge(const RequestHead&, bool) override {
    Verdict verdict;
    verdict.max_body = 1 << 20;
    return verdict;
  }
  void handle(HttpRequest request, std::shared_ptr<Exchange> exchange) override {
    HttpAnswer answer;
    answer.body = std::string(request.head.path == "/large" ? 64 << 20 : 2, 'a');
    exchange->answer(std::move(answer));
  }
};

}  // namespace

TEST_CASE("serve: a client that takes its time to read gets all of a long answer") {
  SilentHandler handler;
  TransportOptions options;
  options.port = 0;
  options.idle_seconds = 0.3;
  Transport transport(options, handler);
  std::thread thread([&] { transport.run(); });
  const int port = std::stoi(transport.url().substr(transport.url().rfind(':') + 1));
  {
    Connection kept(port), closing(port);
    kept.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
    closing.send("GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    std::this_thread::sleep_for(std::chrono::milliseconds(2300));  // longer than a closed connection lingers
    CHECK(kept.read().whole);
    CHECK(closing.read().whole);
  }
  transport.close(1);
  thread.join();
}

TEST_CASE("serve: slow heads, bodies and readers are cut, and others are served meanwhile") {
  SilentHandler handler;
  TransportOptions options;
  options.port = 0;
  options.head_seconds = 0.2;
  options.body_seconds = 0.3;
  options.rate_seconds = 0.1;
  options.idle_seconds = 3;
  options.write_seconds = 0.2;
  options.max_connections = 5;
  options.max_requests = 3;
  Transport transport(options, handler);
  std::thread thread([&] { transport.run(); });
  const int port = std::stoi(transport.url().substr(transport.url().rfind(':') + 1));
  {
    Connection head(port), body(port), idle(port), reader(port);
    head.send("GET / HTTP/1.1\r\nHost: a\r\nX: ");
    body.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc");
    reader.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
    Connection good(port), one_more(port);
    for (int i = 0; i < 3; ++i) {
      const HttpReply reply = good.request("GET", "/", "", "Host: a\r\n");
      CHECK(reply.status == 200);
      CHECK(reply.closed == (i == 2));
    }
    CHECK(one_more.read().status == 503);
    CHECK(head.read().status == 408);
    CHECK(body.read().status == 408);
    CHECK(idle.read().status == 0);
    std::this_thread::sleep_for(std::chrono::milliseconds(400));
    CHECK_FALSE(reader.read().whole);
  }
  CHECK(soon([&] { return transport.n_connections() == 0; }));
  transport.close(1);
  thread.join();
}
