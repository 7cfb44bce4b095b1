#include "tools/serve/event_stream.h"

#include <string>

#include "tools/serve/sse.h"

namespace signalbox::tools {

namespace {

constexpr size_t hold_above = 256 << 10, go_on_below = 64 << 10;
constexpr double give_up_seconds = 30, ping_seconds = 15;

}  // namespace

EventStream::EventStream(std::shared_ptr<Exchange> exchange)
    : exchange_(std::move(exchange)), held_(std::make_shared<std::atomic<bool>>(false)) {}

void EventStream::start() {
  if (!started_) exchange_->start_stream();
  started_ = true;
  last_sent_ = Clock::now();
}

void EventStream::send_text(std::string_view event) {
  start();
  exchange_->send(event_frame(event));
  if (exchange_->unsent() > hold_above && !*held_) {
    *held_ = true;
    held_since_ = Clock::now();
  }
}

void EventStream::end() {
  start();
  exchange_->send(std::string(done_frame));
  exchange_->end_stream();
}

void EventStream::fail(const ApiError& error) {
  if (!started_) return exchange_->answer(error_answer(error));
  exchange_->send(event_frame(json::dump(error_object(error))));
  exchange_->abort();
}

bool EventStream::tick(bool pings) {
  const auto seconds_since = [](Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
  };
  if (*held_) {
    if (exchange_->unsent() < go_on_below)
      *held_ = false;
    else if (seconds_since(held_since_) > give_up_seconds)
      return false;
  }
  if (pings && seconds_since(last_sent_) > ping_seconds) {
    start();
    exchange_->send(std::string(ping_frame));
  }
  return true;
}

}  // namespace signalbox::tools
