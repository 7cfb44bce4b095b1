// Bytes that are no request, or could be two: what is refused, with which status, and that nothing behind it is taken
// for a request.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "tests/serve/server_process.h"
#include "tools/serve/access.h"
#include "tools/serve/api_error.h"
#include "tools/serve/request_reader.h"
#include "tools/serve/sse.h"

namespace {

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::test;

// The status that a reader gives to bytes, in pieces of `step`; 200: a request, 0: more is expected.
int read_bytes(const std::string& bytes, size_t step, HttpRequest* out = nullptr, int64_t limit = 1000) {
  RequestReader reader;
  std::string waiting;
  try {
    for (size_t at = 0; at < bytes.size(); at += step) {
      waiting += bytes.substr(at, step);
      waiting.erase(0, reader.put(waiting));
      if (reader.stage() == RequestReader::Stage::head_done) {
        reader.take_body(limit);
        waiting.erase(0, reader.put(waiting));
      }
      if (reader.stage() == RequestReader::Stage::done) {
        HttpRequest request = reader.take();
        if (out) *out = std::move(request);
        return 200;
      }
    }
  } catch (const ApiError& error) {
    return error.status;
  }
  return 0;
}

struct WireCase {
  std::string bytes;
  int status;
};

std::string with_fields(size_t n) {
  std::string out = "GET / HTTP/1.1\r\nHost: a\r\n";
  for (size_t i = 0; i < n; ++i) out += "X" + std::to_string(i) + ": 1\r\n";
  return out + "\r\n";
}

const std::string post_start = "POST / HTTP/1.1\r\nHost: a\r\n";

const std::vector<WireCase> wire_cases = {
    {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 200},
    {"GET /a?b=c HTTP/1.0\r\nHost: a\r\n\r\n", 200},
    {post_start + "Content-Length: 5\r\n\r\nabcde", 200},
    {post_start + "Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n", 200},
    {post_start + "Transfer-Encoding: Chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n", 200},
    {post_start + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200},
    {"GET / HTTP/1.1\r\n\r\n", 403},
    {"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 403},
    {"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
    {"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400},
    {"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
    {"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 400},
    {"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 400},
    {"GET / HTTP/1.1\nHost: a\r\n\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: a\r\n X: b\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n\tc\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: a\r\nX: b\x01\r\n\r\n", 400},
    {std::string("GET / HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n", 36), 400},
    {"GET /a\x80 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
    {"GET /<script> HTTP/1.1\r\nHost: a\r\n\r\n", 400},
    {"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
    {"\x16\x03\x01\x02", 400},
    {"G@T / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 400},
    {"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n", 400},
    {post_start + "\r\n", 411},
    {post_start + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nabcde", 400},
    {post_start + "Content-Length: 5, 5\r\n\r\nabcde", 400},
    {post_start + "Content-Length: +5\r\n\r\nabcde", 400},
    {post_start + "Content-Length: 0x5\r\n\r\nabcde", 400},
    {post_start + "Content-Length: -5\r\n\r\nabcde", 400},
    {post_start + "Content-Length: 99999999999999999999\r\n\r\n", 400},
    {post_start + "Content-Length: 1001\r\n\r\n", 413},
    {post_start + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
    {post_start + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400},
    {post_start + "Transfer-Encoding: identity\r\n\r\n", 400},
    {post_start + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400},
    {post_start + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400},
    {post_start + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
    {"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
    {post_start + "Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nabcde\r\n0\r\n\r\n", 400},
    {post_start + "Transfer-Encoding: chunked\r\n\r\nxyz\r\nabcde\r\n0\r\n\r\n", 400},
    {post_start + "Transfer-Encoding: chunked\r\n\r\n5\r\nabcdeXX0\r\n\r\n", 400},
    {post_start + "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: y\r\n\r\n", 400},
    {post_start + "Transfer-Encoding: chunked\r\n\r\n3e9\r\n" + std::string(1001, 'a') + "\r\n0\r\n\r\n", 413},
    {with_fields(90), 200},
    {with_fields(101), 431},
    {with_fields(1200), 431},
    {"GET /" + std::string(8200, 'a') + " HTTP/1.1\r\nHost: a\r\n\r\n", 414},
    {"GET / HTTP/1.1\r\nHost: a\r\nX: " + std::string(17000, 'a') + "\r\n\r\n", 431},
    {std::string(9000, 'A'), 414},
};

}  // namespace

TEST_CASE("serve: heads and bodies are read strictly, however they arrive") {
  for (const WireCase& one : wire_cases)
    for (const size_t step : {size_t{1}, size_t{7}, size_t{4096}}) {
      CAPTURE(one.bytes.substr(0, 120));
      CAPTURE(step);
      CHECK(read_bytes(one.bytes, step) == one.status);
    }
  HttpRequest request;
  REQUIRE(read_bytes(wire_cases[4].bytes, 3, &request) == 200);
  CHECK(request.body == "abcde");
  REQUIRE(read_bytes(wire_cases[1].bytes, 3, &request) == 200);
  CHECK(request.head.path == "/a");
  CHECK(request.head.query == "b=c");
  CHECK_FALSE(request.head.keep_alive);
}

TEST_CASE("serve: a wrong request is answered once and closes the connection; the next one finds the server alive") {
  const ServerProcess& server = shared_server();
  for (const std::string& bad :
       {std::string("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                    "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /health HTTP/1.1\r\n"
                    "Host: localhost\r\n\r\n"),
        std::string("GET /health HTTP/1.1\r\nHost: localhost\r\n folded\r\n\r\n"), std::string("nonsense\r\n\r\n"),
        std::string("GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nabcd")}) {
    Connection connection(server.port());
    connection.send(bad);
    const HttpReply reply = connection.read();
    CHECK(reply.status == 400);
    CHECK(reply.closed);
    CHECK(reply.json().find("error")->find("type")->string() == "invalid_request_error");
    CHECK(reply.count("x-request-id") == 1);
    CHECK(connection.read().status == 0);
  }
  Connection connection(server.port());
  for (int i = 0; i < 3; ++i) CHECK(connection.request("GET", "/health").status == 200);
  CHECK(connection.request("HEAD", "/health").status == 200);
}

TEST_CASE("serve: Host, Origin, Sec-Fetch-Site and content type decide together") {
  struct Part {
    const char* field;
    bool good;
  };
  const std::vector<Part> hosts = {
      {"Host: localhost", true},         {"Host: 127.0.0.1:80", true},   {"Host: [::1]:5", true},
      {"Host: LOCALHOST:9", true},       {"Host: evil.example", false},  {"Host: localhost.evil.example", false},
      {"Host: user@localhost", false},   {"Host: localhost:99x", false}, {"Host: localhost:99999", false},
      {"Host: 127.0.0.1.nip.io", false}, {"Host: 0.0.0.0", false}};
  const std::vector<Part> origins = {{"", true},
                                     {"Origin: http://SELF", true},
                                     {"Origin: null", false},
                                     {"Origin: https://SELF", false},
                                     {"Origin: http://evil.example", false},
                                     {"Origin: http://localhost.evil.example", false}};
  const std::vector<Part> sites = {{"", true},
                                   {"Sec-Fetch-Site: same-origin", true},
                                   {"Sec-Fetch-Site: none", true},
                                   {"Sec-Fetch-Site: cross-site", false},
                                   {"Sec-Fetch-Site: same-site", false}};
  int64_t n = 0;
  for (const Part& host : hosts)
    for (const Part& origin : origins)
      for (const Part& site : sites) {
        std::string text = std::string("GET /x HTTP/1.1\r\n") + host.field + "\r\n";
        std::string own = origin.field;
        if (const size_t at = own.find("SELF"); at != std::string::npos)
          own.replace(at, 4, std::string(host.field).substr(6));
        for (const std::string& field : {own, std::string(site.field)})
          if (!field.empty()) text += field + "\r\n";
        const RequestHead head = read_head(text + "\r\n", {});
        bool passes = true;
        try {
          check_access(head, {});
        } catch (const ApiError& error) {
          CHECK(error.status == 403);
          passes = false;
        }
        CAPTURE(text);
        CHECK(passes == (host.good && origin.good && site.good));
        ++n;
      }
  CHECK(n == 330);

  // On every path, before anything else; and no answer has a header of CORS.
  const ServerProcess& server = shared_server();
  for (const char* path : {"/", "/health", "/v1/models", "/v1/completions", "/metrics", "/none"}) {
    Connection connection(server.port());
    const HttpReply reply = connection.request("GET", path, "", "Host: evil.example\r\n");
    CHECK(reply.status == 403);
    for (const auto& field : reply.fields) CHECK_FALSE(field.first.starts_with("access-control"));
  }
  const auto status = [&](const std::string& method, const std::string& path, const std::string& fields) {
    Connection connection(server.port());
    return connection.request(method, path, "{}", "Host: localhost\r\n" + fields);
  };
  CHECK(status("POST", "/v1/completions", "").status == 415);
  CHECK(status("POST", "/v1/completions", "Content-Type: text/plain\r\n").status == 415);
  const HttpReply form = status("POST", "/v1/completions", "Content-Type: application/x-www-form-urlencoded\r\n");
  CHECK(form.status == 415);
  CHECK(form.body.find("-H 'Content-Type: application/json'") != std::string::npos);
  CHECK(status("POST", "/v1/completions", "Content-Type: application/json; charset=latin1\r\n").status == 415);
  CHECK(status("POST", "/v1/completions", "Content-Type: application/json; charset=UTF-8\r\n").status == 400);
  CHECK(status("POST", "/none", "Content-Type: application/json\r\n").status == 404);
  const HttpReply wrong = status("GET", "/v1/completions", "");
  CHECK(wrong.status == 405);
  CHECK(wrong.field("allow") == "POST");
  CHECK(status("OPTIONS", "/v1/completions", "").status == 405);
  CHECK(status("DELETE", "/health", "").field("allow") == "GET, HEAD");
}

TEST_CASE("serve: events are one line each, whatever is in them") {
  CHECK(event_frame("{\"a\":\"b\"}") == "data: {\"a\":\"b\"}\n\n");
  CHECK(event_frame("\"\xE2\x80\xA8\xE2\x80\xA9\xC2\x85\"") == "data: \"\\u2028\\u2029\\u0085\"\n\n");
}
