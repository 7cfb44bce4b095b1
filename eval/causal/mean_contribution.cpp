#include "eval/causal/mean_contribution.h"

#include <algorithm>

#include "base/error.h"

namespace signalbox::eval {

using namespace engine;
using namespace probes;

namespace {

// Hands contributions, by expert, to `add`: those of the slots that are used stand by ascending expert id.
class ContributionSink : public ProbeSink {
 public:
  using Add = std::function<void(int32_t layer, int32_t expert, const float* contribution, int64_t width)>;
  ContributionSink(const std::vector<int32_t>& layers, Add add) : layers_(layers), add_(std::move(add)) {}
  bool wants(Point point, int32_t layer) const override {
    return (point == Point::router_ids || point == Point::expert_contribution) &&
           std::find(layers_.begin(), layers_.end(), layer) != layers_.end();
  }
  void begin(const StepRows& rows) override { n_rows_ = rows.n_rows; }
  void take(Point, int32_t layer, const float* data, int64_t width) override {
    Layer& at = of_layer_[layer];
    at.contributions.assign(data, data + n_rows_ * width);
    at.width = width;
  }
  void take_ids(int32_t layer, const int32_t* ids, const int32_t*, int64_t n_slots) override {
    Layer& at = of_layer_[layer];
    at.ids.assign(ids, ids + n_rows_ * n_slots);
    at.n_slots = n_slots;
  }
  void end() override {
    std::vector<int32_t> used;
    for (auto& [layer, at] : of_layer_) {
      const int64_t width = at.width / at.n_slots;
      for (int64_t t = 0; t < n_rows_; ++t) {
        used.assign(at.ids.begin() + t * at.n_slots, at.ids.begin() + (t + 1) * at.n_slots);
        used.erase(std::remove(used.begin(), used.end(), -1), used.end());
        std::sort(used.begin(), used.end());
        for (size_t i = 0; i < used.size(); ++i)
          add_(layer, used[i], at.contributions.data() + t * at.width + static_cast<int64_t>(i) * width, width);
      }
    }
    of_layer_.clear();
  }

 private:
  struct Layer {
    std::vector<float> contributions;
    std::vector<int32_t> ids;
    int64_t width = 0, n_slots = 0;
  };
  const std::vector<int32_t>& layers_;
  Add add_;
  int64_t n_rows_ = 0;
  std::map<int32_t, Layer> of_layer_;
};

}  // namespace

MeanContributions::MeanContributions(const Session& session, const std::vector<Job>& jobs,
                                     const std::vector<int32_t>& layers) {
  ContributionSink sink(layers, [&](int32_t layer, int32_t expert, const float* contribution, int64_t width) {
    Sum& sum = sums_[{layer, expert}];
    sum.mean.resize(static_cast<size_t>(width));
    for (int64_t c = 0; c < width; ++c) sum.mean[static_cast<size_t>(c)] += static_cast<double>(contribution[c]);
    ++sum.n;
  });
  Forward forward = session.forward(0);
  for (const Job& job : jobs) {  // one after the other, so that sums have one order
    KvPool pool(*session.backend, session.model, KvPool::blocks_for(job.n_given()));
    SequenceCache sequence(pool);
    Batch batch;
    batch.append(sequence, nullptr, job.index, job.prompt->tokens, {}, job.n_given(), 0);
    forward.run(batch, &sink);
  }
  for (auto& [expert, sum] : sums_)
    for (double& x : sum.mean) x /= static_cast<double>(sum.n);
}

const std::vector<double>& MeanContributions::of(int32_t layer, int32_t expert) const {
  const auto found = sums_.find({layer, expert});
  if (found == sums_.end())
    throw Error("--reference", "expected tokens that select expert " + std::to_string(expert) + " of layer " +
                                   std::to_string(layer) + ", found none among the reference records");
  return found->second.mean;
}

}  // namespace signalbox::eval
