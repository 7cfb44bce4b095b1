// A server in a process of its own, and a client that writes raw bytes.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"

namespace signalbox::test {

struct HttpReply {
  int status = 0;                                           // 0: the connection was closed without an answer
  std::vector<std::pair<std::string, std::string>> fields;  // names in lower case
  std::string body;                                         // chunks put together
  bool whole = false;                                       // it ended as HTTP says it must
  bool closed = false;                                      // the connection, after it
  std::string field(const std::string& name) const;
  size_t count(const std::string& name) const;
  json::Value json() const { return json::parse(body, "answer"); }
  std::vector<std::string> events() const;  // the data of each event of a stream
};

class Connection {
 public:
  explicit Connection(int port);
  explicit Connection(const std::string& socket_path);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void send(const std::string& bytes);
  void finish_sending();
  HttpReply read();         // one answer
  void wait_for_bytes();    // of an answer: they stay for read()
  std::string read_some();  // what has come; empty: the end
  HttpReply request(const std::string& method, const std::string& path, const std::string& body = "",
                    const std::string& fields = "Host: localhost\r\nContent-Type: application/json\r\n");
  HttpReply post(const std::string& path, const std::string& body) { return request("POST", path, body); }

 private:
  int descriptor_ = -1;
  std::string in_;
  bool ended_ = false;
};

class ServerProcess {
 public:
  // signalbox serve MODEL with these words; waits until it is ready.
  explicit ServerProcess(const std::string& model, const std::vector<std::string>& words = {});
  ~ServerProcess();
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  int port() const { return port_; }
  pid_t pid() const { return pid_; }
  const json::Value& ready() const { return ready_; }
  void signal(int number);
  void close_input();                             // what it reads from
  int wait();                                     // its exit code
  int64_t metric(const std::string& line) const;  // "signalbox_steps_total"; -1: none

 private:
  pid_t pid_ = -1;
  int port_ = 0, input_ = -1, output_ = -1;
  std::string socket_;
  json::Value ready_;
};

// Runs the command of an export, and those of the timelines whose rows its edits take, with their files in `folder`;
// gives the line that it prints.
json::Value run_export(const std::filesystem::path& folder, const json::Value& exported);

// One that all tests share, of the built-in model on one thread.
ServerProcess& shared_server();

}  // namespace signalbox::test
