// Whole sequences of a training that share a forward: as many as fit.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "engine/batch.h"
#include "engine/kv_pool.h"
#include "probes/sink.h"
#include "train/examples.h"
#include "train/namespaces.h"

namespace signalbox::train {

struct Groups {
  int64_t tokens = 512;    // of one forward, but at least one sequence
  int64_t sequences = 64;  // at most
};

void for_each_group(std::span<const Example* const> examples, const Groups& groups,
                    const std::function<void(std::span<const Example* const>)>& visit);

int64_t tokens_of(std::span<const Example* const> examples);

// The sequences of one forward.
struct SequenceGroup {
  KvPool pool;
  std::vector<SequenceCache> caches;
  Batch batch;
  std::vector<int32_t> targets;  // of the rows of logits

  // Samples are numbered from `first_sample` on.
  SequenceGroup(Backend& backend, const Model& model, std::span<const Example* const> examples,
                int64_t first_sample = 0);
};

// Adds each example's sum over its rows to the end of `sums`.
void add_sums(std::vector<double>& sums, std::span<const Example* const> group, std::span<const double> rows);

// No point is asked for.
class NoPoints final : public ProbeSink {
 public:
  bool wants(Point, int32_t) const override { return false; }
  void begin(const StepRows&) override {}
  void take(Point, int32_t, const float*, int64_t) override {}
  void take_ids(int32_t, const int32_t*, const int32_t*, int64_t) override {}
  void end() override {}
  void abandon() override {}
};

// A list in memory of the device.
template <class T>
std::shared_ptr<void> uploaded(Backend& backend, std::span<const T> list) {
  std::shared_ptr<void> memory = backend.allocate(std::max<size_t>(1, list.size()) * sizeof(T));
  backend.upload(memory.get(), list.data(), list.size() * sizeof(T));
  return memory;
}

}  // namespace signalbox::train
