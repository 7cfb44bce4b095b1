// One connection of the transport: reads requests one after the other, writes what is answered, keeps its deadlines.
// Seen by transport.cpp alone, which compiles Asio.
#pragma once
#include <algorithm>
#include <array>
#include <atomic>
#include <boost/asio/buffer.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstdio>
#include <deque>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>  // before Asio 1.74, which misses it
#include <vector>

#include "base/namespaces.h"
#include "base/text.h"
#include "tools/serve/api_error.h"
#include "tools/serve/request_ids.h"
#include "tools/serve/request_reader.h"
#include "tools/serve/transport.h"

namespace signalbox::tools {

namespace asio = boost::asio;

using Socket = asio::generic::stream_protocol::socket;
using SystemError = boost::system::error_code;
using SteadyClock = std::chrono::steady_clock;

inline SteadyClock::duration duration_of(double seconds) {
  return std::chrono::duration_cast<SteadyClock::duration>(std::chrono::duration<double>(seconds));
}

class Connection;

// What the connections of a transport share.
struct Shared {
  Shared(TransportOptions options, TransportHandler& handler) : options(std::move(options)), handler(handler) {}
  const TransportOptions options;
  TransportHandler& handler;
  asio::io_context io{1};
  std::set<std::shared_ptr<Connection>> connections;
  std::map<std::string, int64_t> of_peer;
  std::atomic<int64_t> n_connections{0};

  // A call for the thread of the sockets, from any thread; they are made in order. It is woken for the first of them,
  // and while they are held, by release().
  void to_sockets(std::function<void()> call) {
    std::lock_guard lock(outbox_mutex);
    outbox.push_back(std::move(call));
    if (outbox.size() == 1 && n_holding == 0) asio::post(io, [this] { make_calls(); });
  }
  void hold() {
    std::lock_guard lock(outbox_mutex);
    ++n_holding;
  }
  void release() {
    std::lock_guard lock(outbox_mutex);
    if (--n_holding == 0 && !outbox.empty()) asio::post(io, [this] { make_calls(); });
  }
  void make_calls() {
    std::vector<std::function<void()>> calls;
    {
      std::lock_guard lock(outbox_mutex);
      calls.swap(outbox);
    }
    size_t n_made = 0;
    try {
      while (n_made < calls.size()) calls[n_made++]();
    } catch (...) {  // the others are made all the same
      std::lock_guard lock(outbox_mutex);
      outbox.insert(outbox.begin(), std::make_move_iterator(calls.begin() + static_cast<ptrdiff_t>(n_made)),
                    std::make_move_iterator(calls.end()));
      asio::post(io, [this] { make_calls(); });
      throw;
    }
  }
  std::mutex outbox_mutex;
  std::vector<std::function<void()>> outbox;
  int n_holding = 0;

  int64_t n_turned_away = 0;  // that still are told so
  bool stopping = false;
};

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(std::shared_ptr<Shared> shared, Socket socket, std::string peer, bool off_loopback)
      : shared_(std::move(shared)),
        socket_(std::move(socket)),
        timer_(shared_->io),
        peer_(std::move(peer)),
        off_loopback_(off_loopback),
        reader_(shared_->options.head) {}

  void start() {
    set_read_deadline(shared_->options.idle_seconds);
    read();
  }

  // Not taken: is told so.
  void turn_away(const ApiError& error) {
    turned_away_ = true;
    refuse(error);
  }

  const std::string& peer() const { return peer_; }
  bool turned_away() const { return turned_away_; }
  bool busy() const { return exchange_ != nullptr || !out_.empty(); }

  // After what is at hand.
  void close_when_done() {
    closing_ = true;
    if (!busy() && !lingering_) close();
  }

  void close() {
    if (closed_) return;
    closed_ = true;
    client_gone();
    SystemError ignored;
    timer_.cancel(ignored);
    socket_.close(ignored);
    if (turned_away_)
      --shared_->n_turned_away;
    else
      shared_->handler.connected(--shared_->n_connections);
    if (auto found = shared_->of_peer.find(peer_);
        found != shared_->of_peer.end() && !turned_away_ && --found->second == 0)
      shared_->of_peer.erase(found);
    shared_->connections.erase(shared_from_this());
  }

 private:
  // The answer to the request at hand. Lives as long as somebody may answer.
  class Pending : public Exchange {
   public:
    Pending(std::weak_ptr<Connection> connection, std::shared_ptr<Shared> shared)
        : connection_(std::move(connection)), shared_(std::move(shared)) {}
    void answer(HttpAnswer answer) override {
      to_connection([answer = std::move(answer)](Connection& c, const Pending& self) mutable {
        c.answer(self, std::move(answer));
      });
    }
    void start_stream() override {
      to_connection([](Connection& c, const Pending& self) { c.start_stream(self); });
    }
    void send(std::string bytes) override {
      if (bytes.empty() || gone_) return;
      unsent_ += bytes.size();
      std::lock_guard lock(fresh_mutex_);
      const bool asked = !fresh_.empty();
      fresh_ += bytes;
      if (!asked) to_connection([](Connection& c, Pending& self) { c.send_chunk(self, self.take_fresh()); });
    }
    // What came since the last time: one chunk, one write.
    std::string take_fresh() {
      std::lock_guard lock(fresh_mutex_);
      return std::exchange(fresh_, {});
    }
    void end_stream() override {
      to_connection([](Connection& c, const Pending& self) { c.end_stream(self); });
    }
    void abort() override {
      to_connection([](Connection& c, const Pending& self) {
        if (c.exchange_.get() == &self) c.abort_stream();
      });
    }
    bool gone() const override { return gone_; }
    size_t unsent() const override { return unsent_; }
    void on_gone(std::function<void()> call) override {
      asio::post(shared_->io, [self = self_(), call = std::move(call)]() mutable {
        if (self->gone_)
          call();
        else
          self->call_gone_ = std::move(call);
      });
    }
    void tell_tokens(int64_t n_given, int64_t n_generated) override {
      n_given_ = n_given;
      n_generated_ = n_generated;
    }

    std::shared_ptr<Pending> self_() { return std::static_pointer_cast<Pending>(keep_.lock()); }
    template <class Call>
    void to_connection(Call call) {
      shared_->to_sockets([self = self_(), call = std::move(call)]() mutable {
        if (const auto connection = self->connection_.lock(); connection && !connection->closed_)
          call(*connection, *self);
      });
    }

    std::weak_ptr<Exchange> keep_;
    std::weak_ptr<Connection> connection_;
    std::shared_ptr<Shared> shared_;
    std::function<void()> call_gone_;
    std::mutex fresh_mutex_;
    std::string fresh_;
    std::atomic<bool> gone_{false};
    std::atomic<size_t> unsent_{0};
    std::atomic<int64_t> n_given_{0}, n_generated_{0};
  };

  // ---- reading

  void set_read_deadline(double seconds) {
    read_deadline_ = SteadyClock::now() + duration_of(seconds);
    watch_deadlines();
  }

  // Deadlines move with every request and every write, and are hardly ever met: the timer is set anew only where one
  // comes before what it waits for.
  void watch_deadlines() {
    const auto next = std::min(read_deadline_, write_deadline_);
    if (closed_ || next >= timer_at_) return;
    timer_at_ = next;
    timer_.expires_at(next);
    timer_.async_wait([self = shared_from_this()](SystemError error) {
      if (error || self->closed_) return;
      self->timer_at_ = never;
      const auto now = SteadyClock::now();
      if (now >= self->write_deadline_) return self->close();
      if (now >= self->read_deadline_) {
        self->read_deadline_ = never;
        self->read_too_slow();
      }
      self->watch_deadlines();
    });
  }

  void read_too_slow() {
    // An answer that is still being written has a deadline of its own.
    if (!exchange_ && !out_.empty()) return set_read_deadline(shared_->options.idle_seconds);
    if (exchange_ || lingering_ || in_head_ == Head::none) {
      if (!exchange_) close();
      return;
    }
    if (in_head_ == Head::body && SteadyClock::now() < body_deadline_) {
      const double rate = static_cast<double>(reader_.body_bytes() - body_seen_) / shared_->options.rate_seconds;
      if (rate >= shared_->options.min_body_rate) return watch_rate();
    }
    const TransportOptions& options = shared_->options;
    if (in_head_ != Head::body)
      return refuse(ApiError(408, "request: expected the head within " + short_number(options.head_seconds) + " s"));
    refuse(ApiError(408, "request: expected the body within " + short_number(options.body_seconds) +
                             " s, and at least " + short_number(options.min_body_rate) +
                             " bytes a second of it, found " + std::to_string(reader_.body_bytes()) + " bytes so far"));
  }

  void watch_rate() {
    body_seen_ = reader_.body_bytes();
    const auto left = std::chrono::duration<double>(body_deadline_ - SteadyClock::now()).count();
    set_read_deadline(std::max(0.001, std::min(shared_->options.rate_seconds, left)));
  }

  void read() {
    if (reading_ || closed_) return;
    // What comes behind a request that is being answered is the next one: it may wait, others not.
    if (exchange_ && in_.size() > max_waiting) return;
    reading_ = true;
    socket_.async_read_some(asio::buffer(piece_), [self = shared_from_this()](SystemError error, size_t n) {
      self->reading_ = false;
      if (self->closed_) return;
      if (error) return self->read_ended();
      if (self->lingering_) return self->drain(n);
      self->in_.append(self->piece_.data(), n);
      self->process();
      self->read();
    });
  }

  void read_ended() {
    if (exchange_ && !answered_) return close();  // half closed counts as gone
    closing_ = ended_ = true;
    if (out_.empty()) close();
  }

  // Behind an answer that closes the connection: what the client still sends is thrown away for a moment, or it would
  // lose the answer to a reset.
  void drain(size_t n) {
    drained_ += n;
    if (drained_ > max_drained) return close();
    read();
  }

  void process() {
    try {
      while (!exchange_ && !lingering_ && !closed_) {
        if (reader_.stage() == RequestReader::Stage::head_done) {
          judge();
          continue;
        }
        if (reader_.stage() == RequestReader::Stage::done) {
          begin_exchange();
          continue;
        }
        if (in_.empty()) break;
        if (in_head_ == Head::none) {
          in_head_ = Head::head;
          began_ = SteadyClock::now();
          set_read_deadline(shared_->options.head_seconds);
        }
        const size_t used = reader_.put(in_);
        in_.erase(0, used);
        const auto stage = reader_.stage();
        if (used == 0 || (stage != RequestReader::Stage::head_done && stage != RequestReader::Stage::done)) break;
      }
    } catch (const ApiError& error) {
      refuse(error);
    }
  }

  void judge() {
    TransportHandler::Verdict verdict = shared_->handler.judge(reader_.head(), off_loopback_);
    if (verdict.refusal) {
      // Nobody reads the body of a request that is refused.
      HttpAnswer answer = std::move(*verdict.refusal);
      answer.close = answer.close || reader_.head().has_body();
      log_ = {reader_.head().method, reader_.head().path, "", answer.status};
      keep_alive_ = reader_.head().keep_alive;
      head_only_ = reader_.head().method == "HEAD";
      if (!answer.close) {
        reader_.take_body(0);
        static_cast<void>(reader_.take());
      }
      write_answer(std::move(answer));
      finish_exchange();
      return;
    }
    key_ = verdict.key;
    reader_.take_body(verdict.max_body);
    if (reader_.stage() == RequestReader::Stage::done) return;
    if (reader_.head().expects_continue && in_.empty()) write("HTTP/1.1 100 Continue\r\n\r\n", 0);
    in_head_ = Head::body;
    body_deadline_ = SteadyClock::now() + duration_of(shared_->options.body_seconds);
    watch_rate();
  }

  void begin_exchange() {
    HttpRequest request = reader_.take();
    request.key = key_;
    request.off_loopback = off_loopback_;
    keep_alive_ = request.head.keep_alive;
    head_only_ = request.head.method == "HEAD";
    http11_ = request.head.http11;
    answered_ = streaming_ = false;
    log_ = {request.head.method, request.head.path, "", 0};
    read_deadline_ = never;
    auto pending = std::make_shared<Pending>(weak_from_this(), shared_);
    pending->keep_ = pending;
    exchange_ = pending;
    shared_->handler.handle(std::move(request), std::move(pending));
  }

  // ---- answering

  void answer(const Pending& of, HttpAnswer answer) {
    if (exchange_.get() != &of || answered_ || streaming_) return;
    write_answer(std::move(answer));
    finish_exchange();
    next();
  }

  void write_answer(HttpAnswer answer) {
    log_.status = answer.status;
    if (++n_requests_ >= shared_->options.max_requests || closing_ || shared_->stopping) keep_alive_ = false;
    if (answer.close) keep_alive_ = false;
    std::string text = start_of(answer.status, answer.content_type);
    for (const auto& [name, value] : answer.fields) text += name + ": " + value + "\r\n";
    text += "Content-Length: " + std::to_string(answer.body.size()) + "\r\n\r\n";
    if (!head_only_) text += answer.body;
    answered_ = true;
    write(std::move(text), 0);
  }

  std::string start_of(int status, const std::string& content_type) {
    log_.id = random_id("req_");
    std::string text = "HTTP/1.1 " + std::to_string(status) + " " + std::string(status_text(status)) + "\r\n";
    text += "Content-Type: " + content_type + "\r\nx-request-id: " + log_.id + "\r\n";
    text += "X-Content-Type-Options: nosniff\r\nCross-Origin-Resource-Policy: same-origin\r\n";
    text += keep_alive_ ? "Connection: keep-alive\r\n" : "Connection: close\r\n";
    return text;
  }

  void start_stream(const Pending& of) {
    if (exchange_.get() != &of || answered_ || streaming_) return;
    streaming_ = true;
    log_.status = 200;
    if (++n_requests_ >= shared_->options.max_requests || closing_ || shared_->stopping || !http11_)
      keep_alive_ = false;
    std::string text = start_of(200, "text/event-stream");
    text += "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n";
    text += http11_ ? "Transfer-Encoding: chunked\r\n\r\n" : "\r\n";
    write(std::move(text), 0);
  }

  void send_chunk(const Pending& of, std::string bytes) {
    const size_t n = bytes.size();
    if (exchange_.get() != &of || !streaming_) return;
    if (http11_) {
      char size[32];
      std::snprintf(size, sizeof size, "%zx\r\n", bytes.size());
      bytes = size + bytes + "\r\n";
    }
    write(std::move(bytes), n);
  }

  void end_stream(const Pending& of) {
    if (exchange_.get() != &of || !streaming_) return;
    if (http11_) write("0\r\n\r\n", 0);
    answered_ = true;
    finish_exchange();
    next();
  }

  void abort_stream() {
    answered_ = true;
    keep_alive_ = false;
    finish_exchange();
    closing_ = true;
    if (out_.empty()) close();
  }

  // The request at hand is answered; what is left of the answer is written while the next one is read.
  void finish_exchange() {
    if (exchange_) {
      log_.n_given = exchange_->n_given_;
      log_.n_generated = exchange_->n_generated_;
      sending_ = std::exchange(exchange_, nullptr);
    }
    tell_handled(false);
    in_head_ = Head::none;
    streaming_ = false;
    if (!keep_alive_) linger();
    set_read_deadline(lingering_ ? linger_seconds : shared_->options.idle_seconds);
  }

  void tell_handled(bool gone) {
    if (log_.method.empty()) return;
    log_.gone = gone;
    log_.seconds = std::chrono::duration<double>(SteadyClock::now() - began_).count();
    shared_->handler.handled(std::exchange(log_, {}));
  }

  void next() {
    process();
    read();
  }

  void refuse(const ApiError& error) {
    if (answered_ && lingering_) return;
    keep_alive_ = false;
    if (log_.method.empty()) log_ = {"-", "-", "", error.status};
    write_answer(error_answer(error));
    finish_exchange();
    read();
  }

  // Nothing more is read as requests; the connection is closed when the client has its answer.
  void linger() {
    lingering_ = true;
    in_.clear();
    if (out_.empty()) shut_down_sending();
  }

  // A client that has said all it had to say needs no more time.
  void shut_down_sending() {
    if (ended_) return close();
    SystemError ignored;
    socket_.shutdown(Socket::shutdown_send, ignored);
    set_read_deadline(linger_seconds);
  }

  void client_gone() {
    const auto pending = std::exchange(exchange_, nullptr);
    if (!pending) return;
    pending->gone_ = true;
    log_.n_given = pending->n_given_;
    log_.n_generated = pending->n_generated_;
    tell_handled(true);
    if (pending->call_gone_) std::exchange(pending->call_gone_, nullptr)();
  }

  // ---- writing

  // `counted`: bytes of it that Exchange::unsent() has counted.
  void write(std::string bytes, size_t counted) {
    out_.push_back({std::move(bytes), counted, counted > 0 ? exchange_ : nullptr});
    if (out_.size() == 1) write_some();
  }

  void write_some() {
    write_deadline_ = SteadyClock::now() + duration_of(shared_->options.write_seconds);
    watch_deadlines();
    std::array<asio::const_buffer, 16> pieces;
    for (size_t i = 0; i < std::min(pieces.size(), out_.size()); ++i) pieces[i] = asio::buffer(out_[i].bytes);
    pieces[0] += written_;
    socket_.async_write_some(pieces, [self = shared_from_this()](SystemError error, size_t n) {
      if (self->closed_) return;
      if (error) return self->close();
      self->wrote(n);
    });
  }

  void wrote(size_t n) {
    written_ += n;
    while (!out_.empty() && written_ >= out_.front().bytes.size()) {
      written_ -= out_.front().bytes.size();
      if (out_.front().owner) out_.front().owner->unsent_ -= out_.front().counted;
      out_.pop_front();
    }
    if (!out_.empty()) return write_some();
    write_deadline_ = never;
    if (lingering_)
      shut_down_sending();
    else if (closing_ && !exchange_)
      close();
  }

  static constexpr size_t max_waiting = 64 << 10, max_drained = size_t{64} << 20;
  static constexpr double linger_seconds = 2;
  static constexpr auto never = SteadyClock::time_point::max();

  std::shared_ptr<Shared> shared_;
  Socket socket_;
  asio::steady_timer timer_;
  SteadyClock::time_point read_deadline_ = never, write_deadline_ = never,
                          timer_at_ = never;  // timer_at_: it waits for
  const std::string peer_;
  const bool off_loopback_;
  RequestReader reader_;
  std::array<char, 16384> piece_;
  std::string in_;  // not yet taken
  struct Piece {
    std::string bytes;
    size_t counted = 0;
    std::shared_ptr<Pending> owner;
  };
  std::deque<Piece> out_;
  size_t written_ = 0;  // of the first
  enum class Head : uint8_t { none, head, body };
  Head in_head_ = Head::none;
  SteadyClock::time_point began_ = SteadyClock::now(), body_deadline_;
  int64_t body_seen_ = 0, n_requests_ = 0;
  int key_ = -1;
  std::shared_ptr<Pending> exchange_, sending_;  // being answered; answered last
  HandledRequest log_;
  bool keep_alive_ = false, http11_ = true, head_only_ = false;
  bool answered_ = false, streaming_ = false, reading_ = false, lingering_ = false, closing_ = false, closed_ = false;
  bool ended_ = false;  // the client sends no more
  bool turned_away_ = false;
  size_t drained_ = 0;
};

}  // namespace signalbox::tools
