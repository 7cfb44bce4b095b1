#include "tools/serve/owner_elsewhere.h"

#include <utility>
#include <vector>

namespace signalbox::tools {

void Telling::post(size_t bytes, std::function<void()> call) {
  std::unique_lock lock(mutex_);
  went_.wait(lock,
             [&] { return ended_ || calls_.empty() || (bytes_ + bytes <= most_bytes && calls_.size() < most_calls); });
  bytes_ += bytes;
  calls_.push_back({bytes, std::move(call)});
  came_.notify_one();
}

void Telling::run() {
  while (true) {
    Call call;
    {
      std::unique_lock lock(mutex_);
      came_.wait(lock, [&] { return ended_ || !calls_.empty(); });
      if (calls_.empty()) return;
      call = std::move(calls_.front());
      calls_.pop_front();
    }
    call.of();
    std::lock_guard lock(mutex_);
    bytes_ -= call.bytes;
    went_.notify_one();
  }
}

void Telling::end() {
  std::lock_guard lock(mutex_);
  ended_ = true;
  came_.notify_all();
  went_.notify_all();
}

void OwnerElsewhere::started(size_t place) {
  telling_.post(0, [owner = owner_, place] { owner->started(place); });
}

void OwnerElsewhere::logits(size_t place, int64_t token, std::span<const float> logits) {
  auto kept = std::make_shared<const std::vector<float>>(logits.begin(), logits.end());
  telling_.post(kept->size() * sizeof(float),
                [owner = owner_, place, token, kept] { owner->logits(place, token, *kept); });
}

void OwnerElsewhere::token(size_t place, int32_t id, const std::string& text) {
  telling_.post(0, [owner = owner_, place, id, text] { owner->token(place, id, text); });
}

void OwnerElsewhere::done(size_t place, Result result) {
  auto kept = std::make_shared<Result>(std::move(result));
  telling_.post(0, [owner = owner_, place, kept] { owner->done(place, std::move(*kept)); });
}

void OwnerElsewhere::failed(size_t place, const std::string& message) {
  telling_.post(0, [owner = owner_, place, message] { owner->failed(place, message); });
}

void OwnerElsewhere::cancelled(size_t place, const std::string& why) {
  telling_.post(0, [owner = owner_, place, why] { owner->cancelled(place, why); });
}

bool OwnerElsewhere::tick() {
  telling_.post(0, [owner = owner_, goes_on = goes_on_] { *goes_on = owner->tick(); });
  return *goes_on_;
}

}  // namespace signalbox::tools
