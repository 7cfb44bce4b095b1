#include "eval/causal/slot_slopes.h"

#include <algorithm>
#include <limits>

namespace signalbox::eval {

using namespace engine;
using namespace kernels;
using namespace probes;

namespace {

// Takes rows of a point of some layers into [T, L, k].
class SlotRows : public ProbeSink {
 public:
  SlotRows(const std::vector<int32_t>& layers, int64_t n_slots) : layers_(layers), n_slots_(n_slots) {}
  void begin(const StepRows& rows) override { n_rows_ = rows.n_rows; }
  void end() override {}

 protected:
  bool has(int32_t layer) const { return std::binary_search(layers_.begin(), layers_.end(), layer); }
  size_t at(int64_t token, int32_t layer) const {
    const auto index = std::lower_bound(layers_.begin(), layers_.end(), layer) - layers_.begin();
    return (static_cast<size_t>(token) * layers_.size() + static_cast<size_t>(index)) * static_cast<size_t>(n_slots_);
  }
  template <class T>
  void put(std::vector<T>& to, int32_t layer, const T* from, int64_t width) const {
    for (int64_t t = 0; t < n_rows_; ++t)
      std::copy_n(from + t * width, width, to.begin() + static_cast<int64_t>(at(t, layer)));
  }

  const std::vector<int32_t>& layers_;
  int64_t n_slots_, n_rows_ = 0;
};

class RoutesTaken : public SlotRows {
 public:
  RoutesTaken(const std::vector<int32_t>& layers, int64_t n_slots, size_t n)
      : SlotRows(layers, n_slots), ids(n, -1), weights(n, 0.f) {}
  bool wants(Point point, int32_t layer) const override {
    return (point == Point::router_ids || point == Point::router_weights) && has(layer);
  }
  void take(Point, int32_t layer, const float* data, int64_t width) override { put(weights, layer, data, width); }
  void take_ids(int32_t layer, const int32_t* data, const int32_t*, int64_t width) override {
    put(ids, layer, data, width);
  }
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

class SlopesTaken : public SlotRows {
 public:
  // of_mean: at a slot, the mean contribution of its expert times dM/d contribution.
  SlopesTaken(const RoutesTaken& routes, const std::vector<int32_t>& layers, int64_t n_slots,
              const std::vector<uint8_t>& asked, const SlotSlopes::MeanContribution& mean)
      : SlotRows(layers, n_slots), slopes(routes.ids.size(), 0.f), routes_(routes), asked_(asked), mean_(mean) {
    if (mean_) of_mean.assign(slopes.size(), 0.0);
  }
  bool wants(Point point, int32_t layer) const override {
    return (point == Point::router_weights || (mean_ && point == Point::expert_contribution)) && has(layer);
  }
  void take(Point point, int32_t layer, const float* data, int64_t width) override {
    if (point == Point::router_weights) return put(slopes, layer, data, width);
    for (int64_t t = 0; t < n_rows_; ++t) {
      if (!asked_[static_cast<size_t>(t)]) continue;
      const float* slope = data + t * width;  // that of the first slot that is used, as of all
      for (int64_t i = 0; i < n_slots_; ++i) {
        const size_t cell = at(t, layer) + static_cast<size_t>(i);
        if (routes_.ids[cell] < 0) continue;
        const std::vector<double>& mean = mean_(layer, routes_.ids[cell]);
        double dot = 0;
        for (size_t c = 0; c < mean.size(); ++c) dot += mean[c] * static_cast<double>(slope[c]);
        of_mean[cell] = dot;
      }
    }
  }
  void take_ids(int32_t, const int32_t*, const int32_t*, int64_t) override {}
  std::vector<float> slopes;  // dM/d weight
  std::vector<double> of_mean;

 private:
  const RoutesTaken& routes_;
  const std::vector<uint8_t>& asked_;
  const SlotSlopes::MeanContribution& mean_;
};

}  // namespace

SlotSlopes::SlotSlopes(const Session& session, std::vector<int32_t> layers, MeanContribution mean_contribution)
    : session_(session),
      layers_(std::move(layers)),
      mean_contribution_(std::move(mean_contribution)),
      gradient_(*session.backend, session.model, session.weights, 0) {}

SlotSlopes::Found SlotSlopes::of(const Job& job, const MetricRows& rows, const std::vector<uint8_t>& asked) {
  const int64_t n_tokens = job.n_given(), n_slots = session_.model.n_active();
  Backend& backend = *session_.backend;
  KvPool pool(backend, session_.model, KvPool::blocks_for(n_tokens));
  SequenceCache sequence(pool);
  Batch batch;
  batch.append(sequence, nullptr, 0, job.prompt->tokens, job.prompt->spans, n_tokens, rows.n_rows());
  RoutesTaken routes(layers_, n_slots, static_cast<size_t>(n_tokens * n_slots) * layers_.size());
  SlopesTaken slopes(routes, layers_, n_slots, asked, mean_contribution_);
  Found found;
  gradient_.run(batch, &routes, slopes, [&](Tensor logits, Tensor d_logits) {
    found.base = metric_value(backend, rows, logits, logits);
    metric_adjoint(backend, rows, d_logits, logits, logits);
  });
  found.estimates.assign(routes.ids.size(), std::numeric_limits<float>::quiet_NaN());
  const size_t row = layers_.size() * static_cast<size_t>(n_slots);
  for (size_t i = 0; i < routes.ids.size(); ++i) {
    if (!asked[i / row] || routes.ids[i] < 0 || (mean_contribution_ && routes.weights[i] == 0)) continue;
    const double own = static_cast<double>(routes.weights[i]) * static_cast<double>(slopes.slopes[i]);
    found.estimates[i] = static_cast<float>((mean_contribution_ ? slopes.of_mean[i] : 0) - own);
  }
  found.experts = std::move(routes.ids);
  return found;
}

}  // namespace signalbox::eval
