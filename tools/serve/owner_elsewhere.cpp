#include "tools/serve/owner_elsewhere.h"

#include <memory>
#include <utility>
#include <vector>

namespace signalbox::tools {

void Telling::post(When when, size_t bytes, std::function<void()> call) {
  std::unique_lock lock(mutex_);
  const auto room = [&] {
    return ended_ || calls_.empty() || (bytes_ + bytes <= most_bytes && calls_.size() < most_calls);
  };
  if (!room()) {
    urgent_ = true;
    came_.notify_one();
    went_.wait(lock, room);
  }
  urgent_ = urgent_ || when == When::at_once;
  bytes_ += bytes;
  calls_.push_back({bytes, std::move(call)});
}

void Telling::wake() {
  std::lock_guard lock(mutex_);
  if (urgent_ || (!resting_ && !calls_.empty())) came_.notify_one();
}

void Telling::run(Transport& transport) {
  using Clock = std::chrono::steady_clock;
  auto last = Clock::now() - gap;
  while (true) {
    std::deque<Call> calls;
    {
      std::unique_lock lock(mutex_);
      resting_ = true;
      came_.wait_until(lock, last + gap, [&] { return ended_ || urgent_; });
      resting_ = false;
      came_.wait(lock, [&] { return ended_ || !calls_.empty(); });
      if (calls_.empty()) return;
      calls.swap(calls_);
      urgent_ = false;
      went_.notify_one();
    }
    last = Clock::now();
    Transport::Together together(transport);
    auto held_since = last;
    for (; !calls.empty(); calls.pop_front()) {
      calls.front().of();
      if (calls.front().bytes > 0) {
        std::lock_guard lock(mutex_);
        bytes_ -= calls.front().bytes;
        went_.notify_one();
      }
      // Nobody waits long for the others.
      if (const auto now = Clock::now(); now - held_since > std::chrono::milliseconds(1)) {
        together.go_on();
        held_since = now;
      }
    }
  }
}

void Telling::end() {
  std::lock_guard lock(mutex_);
  ended_ = true;
  came_.notify_all();
  went_.notify_all();
}

void OwnerElsewhere::started(size_t place) {
  telling_.post(Telling::When::at_once, 0, [owner = owner_, place] { owner->started(place); });
  telling_.wake();
}

void OwnerElsewhere::logits(size_t place, int64_t token, std::span<const float> logits) {
  auto kept = std::make_shared<const std::vector<float>>(logits.begin(), logits.end());
  telling_.post(Telling::When::soon, kept->size() * sizeof(float),
                [owner = owner_, place, token, kept] { owner->logits(place, token, *kept); });
}

void OwnerElsewhere::token(size_t place, int32_t id, const std::string& text) {
  if (begun_.size() <= place) begun_.resize(place + 1);
  const auto when = begun_[place] ? Telling::When::soon : Telling::When::at_once;
  begun_[place] = true;
  telling_.post(when, 0, [owner = owner_, place, id, text] { owner->token(place, id, text); });
}

void OwnerElsewhere::done(size_t place, Result result) {
  auto kept = std::make_shared<Result>(std::move(result));
  telling_.post(Telling::When::at_once, 0, [owner = owner_, place, kept] { owner->done(place, std::move(*kept)); });
}

void OwnerElsewhere::failed(size_t place, const std::string& message) {
  telling_.post(Telling::When::at_once, 0, [owner = owner_, place, message] { owner->failed(place, message); });
  telling_.wake();
}

void OwnerElsewhere::cancelled(size_t place, const std::string& why) {
  telling_.post(Telling::When::at_once, 0, [owner = owner_, place, why] { owner->cancelled(place, why); });
  telling_.wake();
}

bool OwnerElsewhere::tick() {
  telling_.post(Telling::When::soon, 0, [owner = owner_, goes_on = goes_on_] { *goes_on = owner->tick(); });
  return *goes_on_;
}

}  // namespace signalbox::tools
