#include "tools/serve/transport.h"

#include <unistd.h>

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>

#include "base/text.h"
#include "tools/serve/connection.h"  // first of what sees Asio
#include "tools/serve/unix_socket.h"

namespace signalbox::tools {

namespace {

asio::ip::address address_of(const std::string& host) {
  SystemError error;
  const asio::ip::address address = asio::ip::make_address(host == "localhost" ? "127.0.0.1" : host, error);
  if (error) throw Error("--host", "expected an address of this machine or localhost, found " + in_quotes(host));
  return address;
}

}  // namespace

bool is_loopback(const std::string& host) { return address_of(host).is_loopback(); }

class Transport::State : public std::enable_shared_from_this<State> {
 public:
  State(TransportOptions options, TransportHandler& handler)
      : shared(std::make_shared<Shared>(std::move(options), handler)),
        tcp_(shared->io),
        unix_(shared->io),
        retry_(shared->io),
        end_(shared->io),
        work_(asio::make_work_guard(shared->io)) {
    if (shared->options.socket.empty())
      listen_tcp();
    else
      unix_path_ = listen_unix(shared->options.socket, [&](int descriptor) {
        unix_.assign(asio::local::stream_protocol(), descriptor);
        unix_.non_blocking(true);
      });
  }

  ~State() { remove_socket(); }

  void listen_tcp() {
    const std::string where = shared->options.host + ":" + std::to_string(shared->options.port) + " (--port)";
    asio::ip::tcp::endpoint endpoint(address_of(shared->options.host),
                                     static_cast<unsigned short>(shared->options.port));
    try {
      tcp_.open(endpoint.protocol());
      tcp_.set_option(asio::ip::tcp::acceptor::reuse_address(true));
      tcp_.bind(endpoint);
      tcp_.listen(1024);
      endpoint = tcp_.local_endpoint();
    } catch (const boost::system::system_error& error) {
      throw Error(where, "expected an address that is free, found " + ascii_lower(error.code().message()));
    }
    const std::string host = endpoint.address().to_string();
    url = "http://" + (endpoint.address().is_v6() ? "[" + host + "]" : host) + ":" + std::to_string(endpoint.port());
  }

  void accept() {
    if (shared->stopping) return;
    if (unix_path_.empty())
      tcp_.async_accept([self = shared_from_this()](SystemError error, asio::ip::tcp::socket socket) {
        if (error) return self->accept_failed(error);
        SystemError ignored;
        socket.set_option(asio::ip::tcp::no_delay(true), ignored);
        const auto peer = socket.remote_endpoint(ignored).address();
        const bool off = !ignored && !peer.is_loopback();
        self->take(Socket(std::move(socket)), off ? peer.to_string() : "", off);
        self->accept();
      });
    else
      unix_.async_accept([self = shared_from_this()](SystemError error, asio::local::stream_protocol::socket socket) {
        if (error) return self->accept_failed(error);
        self->take(Socket(std::move(socket)), "", false);
        self->accept();
      });
  }

  // Descriptors may be short for a moment.
  void accept_failed(SystemError error) {
    if (error == asio::error::operation_aborted || shared->stopping) return;
    retry_.expires_after(std::chrono::milliseconds(100));
    retry_.async_wait([self = shared_from_this()](SystemError failed) {
      if (!failed) self->accept();
    });
  }

  void take(Socket socket, const std::string& peer, bool off_loopback) {
    SystemError ignored;
    socket.non_blocking(true, ignored);
    const auto connection = std::make_shared<Connection>(shared, std::move(socket), peer, off_loopback);
    const bool full = shared->n_connections >= shared->options.max_connections;
    const bool crowded = off_loopback && shared->of_peer[peer] >= shared->options.max_of_peer;
    if (!full && !crowded) {
      shared->handler.connected(++shared->n_connections);
      if (off_loopback) ++shared->of_peer[peer];
      shared->connections.insert(connection);
      return connection->start();
    }
    shared->handler.turned_away(full ? "connections" : "peer");
    if (shared->n_turned_away >= 64) return;  // no time to say so
    ++shared->n_turned_away;
    shared->connections.insert(connection);
    ApiError error(503,
                   "server: expected at most " +
                       std::to_string(full ? shared->options.max_connections : shared->options.max_of_peer) +
                       " connections" + (full ? "" : " of one address"),
                   "", "too_many_connections");
    error.retry_after = 1;
    connection->turn_away(error);
  }

  void stop_accepting() {
    if (shared->stopping) return;
    shared->stopping = true;
    SystemError ignored;
    tcp_.close(ignored);
    unix_.close(ignored);
    remove_socket();
    for (const auto& connection : std::set(shared->connections)) connection->close_when_done();
  }

  void close(double seconds) {
    stop_accepting();
    work_.reset();
    end_.expires_after(duration_of(seconds));
    end_.async_wait([self = shared_from_this()](SystemError error) {
      if (error) return;
      for (const auto& connection : std::set(self->shared->connections)) connection->close();
    });
    watch_end();
  }

  // run() ends when nothing is left to do: the timer must not keep it.
  void watch_end() {
    if (shared->connections.empty()) {
      SystemError ignored;
      end_.cancel(ignored);
      return;
    }
    retry_.expires_after(std::chrono::milliseconds(5));
    retry_.async_wait([self = shared_from_this()](SystemError error) {
      if (!error) self->watch_end();
    });
  }

  void remove_socket() {
    if (!unix_path_.empty()) ::unlink(std::exchange(unix_path_, {}).c_str());
  }

  std::shared_ptr<Shared> shared;
  std::string url;

 private:
  asio::ip::tcp::acceptor tcp_;
  asio::local::stream_protocol::acceptor unix_;
  asio::steady_timer retry_, end_;
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  std::filesystem::path unix_path_;
};

Transport::Transport(TransportOptions options, TransportHandler& handler)
    : state_(std::make_shared<State>(std::move(options), handler)) {
  state_->accept();
}

Transport::~Transport() = default;

std::string Transport::url() const { return state_->url; }
std::string Transport::socket() const { return state_->shared->options.socket.string(); }
void Transport::run() { state_->shared->io.run(); }

void Transport::stop_accepting() {
  asio::post(state_->shared->io, [state = state_] { state->stop_accepting(); });
}

void Transport::close(double seconds) {
  asio::post(state_->shared->io, [state = state_, seconds] { state->close(seconds); });
}

int64_t Transport::n_connections() const { return state_->shared->n_connections; }

Transport::Together::Together(Transport& transport) : transport_(transport) { transport_.state_->shared->hold(); }
Transport::Together::~Together() { transport_.state_->shared->release(); }

void Transport::Together::go_on() {
  transport_.state_->shared->release();
  transport_.state_->shared->hold();
}

}  // namespace signalbox::tools
