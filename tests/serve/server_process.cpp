#include "tests/serve/server_process.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <memory>
#include <sstream>
#include <stdexcept>

#include "base/text.h"
#include "tests/support.h"

namespace signalbox::test {

namespace {

[[noreturn]] void give_up(const std::string& what) { throw std::runtime_error(what + ": " + std::strerror(errno)); }

}  // namespace

std::string HttpReply::field(const std::string& name) const {
  for (const auto& [known, value] : fields)
    if (known == name) return value;
  return "";
}

size_t HttpReply::count(const std::string& name) const {
  size_t n = 0;
  for (const auto& one : fields) n += one.first == name;
  return n;
}

std::vector<std::string> HttpReply::events() const {
  std::vector<std::string> out;
  std::istringstream in(body);
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("data: ")) out.push_back(line.substr(6));
  return out;
}

Connection::Connection(int port) : descriptor_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(descriptor_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) give_up("connect");
  const timeval limit = {20, 0};
  ::setsockopt(descriptor_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
}

Connection::Connection(const std::string& socket_path) : descriptor_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, socket_path.c_str(), sizeof address.sun_path - 1);
  if (::connect(descriptor_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) give_up("connect");
}

Connection::~Connection() { ::close(descriptor_); }

void Connection::send(const std::string& bytes) {
  for (size_t at = 0; at < bytes.size();) {
    const ssize_t n = ::send(descriptor_, bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL);
    if (n <= 0) return;  // closed: what was answered can still be read
    at += static_cast<size_t>(n);
  }
}

void Connection::finish_sending() { ::shutdown(descriptor_, SHUT_WR); }

std::string Connection::read_some() {
  char piece[65536];
  const ssize_t n = ::recv(descriptor_, piece, sizeof piece, 0);
  if (n <= 0) ended_ = true;
  return n <= 0 ? "" : std::string(piece, static_cast<size_t>(n));
}

void Connection::wait_for_bytes() { in_ += read_some(); }

HttpReply Connection::read() {
  HttpReply reply;
  const auto more = [&] {
    if (ended_) return false;
    in_ += read_some();
    return !ended_;
  };
  size_t end;
  while ((end = in_.find("\r\n\r\n")) == std::string::npos)
    if (!more()) return reply;
  std::istringstream head(in_.substr(0, end + 2));
  in_.erase(0, end + 4);
  std::string line;
  std::getline(head, line);
  reply.status = std::stoi(line.substr(line.find(' ')));
  if (reply.status == 100) return read();
  while (std::getline(head, line) && line.size() > 1) {
    const size_t colon = line.find(':');
    reply.fields.emplace_back(ascii_lower(line.substr(0, colon)), std::string(trimmed(line.substr(colon + 1))));
  }
  if (reply.field("transfer-encoding") == "chunked") {
    while (true) {
      size_t size_end;
      while ((size_end = in_.find("\r\n")) == std::string::npos)
        if (!more()) return reply;
      const size_t size = std::stoul(in_.substr(0, size_end), nullptr, 16);
      while (in_.size() < size_end + 4 + size)
        if (!more()) return reply;
      reply.body += in_.substr(size_end + 2, size);
      in_.erase(0, size_end + 4 + size);
      if (size == 0) break;
    }
  } else {
    const size_t size = std::stoul(reply.field("content-length"));
    while (in_.size() < size)
      if (!more()) return reply;
    reply.body = in_.substr(0, size);
    in_.erase(0, size);
  }
  reply.whole = true;
  reply.closed = reply.field("connection") == "close";
  return reply;
}

HttpReply Connection::request(const std::string& method, const std::string& path, const std::string& body,
                              const std::string& fields) {
  std::string text = method + " " + path + " HTTP/1.1\r\n" + fields;
  if (method == "POST") text += "Content-Length: " + std::to_string(body.size()) + "\r\n";
  send(text + "\r\n" + body);
  return read();
}

ServerProcess::ServerProcess(const std::string& model, const std::vector<std::string>& words) {
  std::vector<std::string> all = {binary(), "serve", model, "--json", "--quiet", "--threads", "1"};
  all.insert(all.end(), words.begin(), words.end());
  if (std::find(words.begin(), words.end(), "--socket") == words.end() &&
      std::find(words.begin(), words.end(), "--port") == words.end())
    all.insert(all.end(), {"--port", "0"});
  int input[2], output[2];
  if (::pipe2(input, O_CLOEXEC) != 0 || ::pipe2(output, O_CLOEXEC) != 0) give_up("pipe");
  std::vector<char*> argv;
  for (std::string& word : all) argv.push_back(word.data());
  argv.push_back(nullptr);
  pid_ = ::fork();
  if (pid_ == 0) {
    ::dup2(input[0], STDIN_FILENO);
    ::dup2(output[1], STDOUT_FILENO);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  ::close(input[0]);
  ::close(output[1]);
  input_ = input[1];
  output_ = output[0];
  std::string line;
  for (char c = 0; ::read(output_, &c, 1) == 1 && c != '\n';) line += c;
  if (line.empty()) throw std::runtime_error("serve: no line; exit code " + std::to_string(wait()));
  ready_ = json::parse(line, "serve");
  if (const json::Value* url = ready_.find("url"); url->is_string())
    port_ = std::stoi(url->string().substr(url->string().rfind(':') + 1));
}

ServerProcess::~ServerProcess() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    wait();
  }
  close_input();
  ::close(output_);
}

void ServerProcess::signal(int number) { ::kill(pid_, number); }

void ServerProcess::close_input() {
  if (input_ >= 0) ::close(input_);
  input_ = -1;
}

int ServerProcess::wait() {
  int status = 0;
  if (pid_ > 0) ::waitpid(pid_, &status, 0);
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int64_t ServerProcess::metric(const std::string& name) const {
  Connection connection(port_);
  std::istringstream in(connection.request("GET", "/metrics").body);
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(name + " ")) return std::stoll(line.substr(name.size() + 1));
  return -1;
}

ServerProcess& shared_server() {
  static const auto server = std::make_unique<ServerProcess>(
      "builtin", std::vector<std::string>{"--max-connections", "64", "--exit-with-parent"});
  return *server;
}

namespace {

json::Value run_argv(const std::filesystem::path& folder, const std::string& name, const json::Value& exported) {
  write_file(folder / (name + "record.jsonl"), json::dump(*exported.find("record")) + "\n");
  write_file(folder / (name + "edits.json"), json::dump(json::Value::object().set("edits", *exported.find("edits"))));
  std::string command = "cd " + folder.string() + " && " + binary();
  const auto& argv = exported.find("argv")->items();
  for (size_t i = 1; i < argv.size(); ++i) command += " '" + argv[i].string() + "'";
  const Ran ran = run_command(command + " --quiet");
  if (ran.code != 0) throw std::runtime_error(command + ": " + ran.err);
  return json::parse(lines_of(ran.out).back(), "line");
}

}  // namespace

json::Value run_export(const std::filesystem::path& folder, const json::Value& exported) {
  if (const json::Value* sources = exported.find("sources"))
    for (const auto& [id, source] : sources->members()) run_argv(folder, id + ".", source);
  return run_argv(folder, "", exported);
}

}  // namespace signalbox::test
