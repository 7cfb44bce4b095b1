// Routes on their way from the router kernel to a sink: a ring in the device's memory that the kernel writes, drained
// beside later steps into host memory, and handed over in order.
#pragma once
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "base/namespaces.h"
#include "kernels/backend.h"
#include "probes/sink.h"

namespace signalbox::engine {

class RouteRing {
 public:
  // `layers`: those with a router, ascending, each of n_experts. `n_slots`: slots a token.
  RouteRing(Backend& backend, std::vector<int32_t> layers, int64_t n_experts, int32_t n_slots);

  // Whether the sink wants nothing but what the router kernel writes; other points need the forward to stop for them.
  static bool serves(const ProbeSink& sink, std::span<const int32_t> layers, int64_t n_layers);

  // Makes room for the routes of n_tokens tokens; waits for the oldest step where the ring is full, and hands it to the
  // sink. `edited`: original ids are kept apart. Returns the number of the step, which the kernel reads from the
  // device.
  uint32_t begin(ProbeSink& sink, int64_t n_tokens, bool edited);
  // Where the kernel writes the route of layer `index` (of the constructor's list); `step`: begin()'s number, in memory
  // of the device. The same for all steps of as many tokens, until generation() changes.
  RouteRecord record(size_t index, const uint32_t* step) const;
  // Changes when the ring has moved.
  int64_t generation() const { return generation_; }
  // What is recorded, as a number.
  int64_t mask() const;

  // The step is enqueued: its routes will be copied to the host. What `rows` points to is copied at once.
  void end(const StepRows& rows);
  // Hands the step's routes to a sink that is between its begin() and end(), which waits for them.
  void take_now(ProbeSink& sink);
  // Waits for everything that is on its way and hands it over.
  void flush(ProbeSink& sink);
  // Forgets everything that is on its way: its sink is going.
  void drop() noexcept;
  bool empty() const { return pending_.empty(); }

 private:
  enum Array : uint8_t { ids, original, weights, margin, group_margin, logits, scores, n_arrays };
  struct Step {
    uint32_t number = 0;
    int64_t n_tokens = 0;
    bool edited = false;
    uint64_t ticket = 0;
    std::vector<RowRange> ranges;
    std::vector<int32_t> tokens, positions;
    std::vector<uint8_t> phase;
    std::vector<uint32_t> spans;
  };
  bool has(Array array) const { return wanted_ >> array & 1; }
  int64_t width(Array array) const;
  size_t array_bytes(Array array, int64_t n_tokens) const;  // of one step
  void want(const ProbeSink& sink, bool edited);
  void reserve(int64_t n_tokens);
  void download(Step& step);
  void hand_over(ProbeSink& sink, const Step& step) const;
  void deliver(ProbeSink& sink);  // the oldest step

  static constexpr uint32_t n_steps = 4;
  Backend& backend_;
  std::vector<int32_t> layers_;
  int64_t n_experts_;
  int32_t n_slots_;
  unsigned wanted_ = 0;   // bits of Array
  int64_t capacity_ = 0;  // tokens of a step
  int64_t generation_ = 0;
  std::shared_ptr<void> device_[n_arrays], host_[n_steps];
  std::deque<Step> pending_;
  Step current_;
  uint32_t next_ = 0;
};

}  // namespace signalbox::engine
