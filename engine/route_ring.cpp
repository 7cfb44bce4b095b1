#include "engine/route_ring.h"

#include <algorithm>
#include <bit>

namespace signalbox::engine {

RouteRing::RouteRing(Backend& backend, std::vector<int32_t> layers, int64_t n_experts, int32_t n_slots)
    : backend_(backend), layers_(std::move(layers)), n_experts_(n_experts), n_slots_(n_slots) {}

bool RouteRing::serves(const ProbeSink& sink, std::span<const int32_t> layers, int64_t n_layers) {
  for (int i = 0; i < n_points; ++i) {
    const Point point = static_cast<Point>(i);
    switch (point) {
      case Point::router_ids:
      case Point::router_weights:
      case Point::router_margin:
      case Point::router_group_margin:
      case Point::router_logits:
      case Point::router_scores: continue;
      default: break;
    }
    for (int64_t l = -1; l < n_layers; ++l)
      if (sink.wants(point, static_cast<int32_t>(l))) return false;
  }
  return !layers.empty();
}

int64_t RouteRing::width(Array array) const {
  switch (array) {
    case margin:
    case group_margin: return 1;
    case logits:
    case scores: return n_experts_;
    default: return n_slots_;
  }
}

size_t RouteRing::array_bytes(Array array, int64_t n_tokens) const {
  return static_cast<size_t>(static_cast<int64_t>(layers_.size()) * n_tokens * width(array)) * 4;
}

int64_t RouteRing::mask() const { return wanted_; }

void RouteRing::want(const ProbeSink& sink, bool edited) {
  unsigned wanted = 0;
  for (const int32_t l : layers_) {
    if (sink.wants(Point::router_ids, l)) wanted |= 1u << ids | (edited ? 1u << original : 0u);
    if (sink.wants(Point::router_weights, l)) wanted |= 1u << weights;
    if (sink.wants(Point::router_margin, l)) wanted |= 1u << margin;
    if (sink.wants(Point::router_group_margin, l)) wanted |= 1u << group_margin;
    if (sink.wants(Point::router_logits, l)) wanted |= 1u << logits;
    if (sink.wants(Point::router_scores, l)) wanted |= 1u << scores;
  }
  wanted_ = wanted;
}

void RouteRing::reserve(int64_t n_tokens) {
  const bool missing = [&] {
    for (int a = 0; a < n_arrays; ++a)
      if (has(static_cast<Array>(a)) && !device_[a]) return true;
    return false;
  }();
  if (n_tokens <= capacity_ && !missing) return;
  backend_.forget_graphs();
  ++generation_;
  // In powers of two: prompts that grow little by little do not move the ring each time.
  capacity_ = std::max(capacity_, static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(n_tokens))));
  size_t bytes = 0;
  for (int a = 0; a < n_arrays; ++a) {
    const Array array = static_cast<Array>(a);
    device_[a].reset();
    if (!has(array)) continue;
    device_[a] = backend_.allocate(n_steps * array_bytes(array, capacity_));
    bytes += array_bytes(array, capacity_);
  }
  for (auto& host : host_) host = backend_.allocate_host(std::max<size_t>(bytes, 1));
}

uint32_t RouteRing::begin(ProbeSink& sink, int64_t n_tokens, bool edited) {
  const unsigned before = wanted_;
  want(sink, edited);
  bool grows = n_tokens > capacity_;
  for (int a = 0; a < n_arrays; ++a) grows = grows || (has(static_cast<Array>(a)) && !device_[a]);
  if (grows || wanted_ != before) {
    const unsigned now = wanted_;
    wanted_ = before;  // what is on its way was recorded under the old list
    flush(sink);
    wanted_ = now;
    reserve(n_tokens);
  }
  while (pending_.size() >= n_steps - 1) deliver(sink);
  current_ = Step{};
  current_.number = next_++;
  current_.n_tokens = n_tokens;
  current_.edited = edited;
  return current_.number;
}

RouteRecord RouteRing::record(size_t index, const uint32_t* step) const {
  RouteRecord record;
  record.step = step;
  record.n_steps = n_steps;
  record.step_stride = static_cast<int64_t>(layers_.size()) * capacity_;
  const int64_t first = static_cast<int64_t>(index) * current_.n_tokens;
  auto at = [&]<class T>(T*& pointer, Array array) {
    if (has(array)) pointer = static_cast<T*>(device_[array].get()) + first * width(array);
  };
  at(record.ids, ids);
  at(record.original_ids, original);
  at(record.weights, weights);
  at(record.margin, margin);
  at(record.group_margin, group_margin);
  at(record.logits, logits);
  at(record.scores, scores);
  return record;
}

void RouteRing::download(Step& step) {
  const size_t slot = step.number % n_steps;
  unsigned char* to = static_cast<unsigned char*>(host_[slot].get());
  for (int a = 0; a < n_arrays; ++a) {
    const Array array = static_cast<Array>(a);
    if (!has(array)) continue;
    const size_t bytes = array_bytes(array, step.n_tokens);
    step.ticket = backend_.download_later(
        to, static_cast<unsigned char*>(device_[a].get()) + slot * array_bytes(array, capacity_), bytes);
    to += bytes;
  }
}

void RouteRing::end(const StepRows& rows) {
  Step& step = current_;
  const size_t n = static_cast<size_t>(rows.n_rows);
  step.ranges.assign(rows.ranges.begin(), rows.ranges.end());
  step.tokens.assign(rows.tokens, rows.tokens + n);
  step.positions.assign(rows.positions, rows.positions + n);
  if (rows.phase) step.phase.assign(rows.phase, rows.phase + n);
  if (rows.spans) step.spans.assign(rows.spans, rows.spans + n);
  download(step);
  pending_.push_back(std::move(step));
}

void RouteRing::take_now(ProbeSink& sink) {
  download(current_);
  backend_.wait(current_.ticket);
  hand_over(sink, current_);
}

void RouteRing::hand_over(ProbeSink& sink, const Step& step) const {
  const unsigned char* from = static_cast<const unsigned char*>(host_[step.number % n_steps].get());
  const unsigned char* arrays[n_arrays] = {};
  for (int a = 0; a < n_arrays; ++a) {
    if (!has(static_cast<Array>(a))) continue;
    arrays[a] = from;
    from += array_bytes(static_cast<Array>(a), step.n_tokens);
  }
  for (size_t i = 0; i < layers_.size(); ++i) {
    const int32_t l = layers_[i];
    auto rows = [&](Array array) {
      return reinterpret_cast<const float*>(arrays[array]) + static_cast<int64_t>(i) * step.n_tokens * width(array);
    };
    if (sink.wants(Point::router_logits, l)) sink.take(Point::router_logits, l, rows(logits), n_experts_);
    if (sink.wants(Point::router_scores, l)) sink.take(Point::router_scores, l, rows(scores), n_experts_);
    if (sink.wants(Point::router_ids, l)) {
      const auto* applied = reinterpret_cast<const int32_t*>(rows(ids));
      sink.take_ids(l, applied, step.edited ? reinterpret_cast<const int32_t*>(rows(original)) : applied, n_slots_);
    }
    if (sink.wants(Point::router_weights, l)) sink.take(Point::router_weights, l, rows(weights), n_slots_);
    if (sink.wants(Point::router_margin, l)) sink.take(Point::router_margin, l, rows(margin), 1);
    if (sink.wants(Point::router_group_margin, l)) sink.take(Point::router_group_margin, l, rows(group_margin), 1);
  }
}

void RouteRing::deliver(ProbeSink& sink) {
  Step step = std::move(pending_.front());
  pending_.pop_front();
  backend_.wait(step.ticket);
  try {
    sink.begin({step.n_tokens, step.ranges, step.tokens.data(), step.positions.data(),
                step.phase.empty() ? nullptr : step.phase.data(), step.spans.empty() ? nullptr : step.spans.data()});
    hand_over(sink, step);
    sink.end();
  } catch (...) {
    sink.abandon();
    throw;
  }
}

void RouteRing::drop() noexcept {
  for (const Step& step : pending_) {
    try {
      backend_.wait(step.ticket);  // memory that a copy still writes must stay
    } catch (...) {                // the device has failed: it writes no more
    }
  }
  pending_.clear();
}

void RouteRing::flush(ProbeSink& sink) {
  while (!pending_.empty()) deliver(sink);
}

}  // namespace signalbox::engine
