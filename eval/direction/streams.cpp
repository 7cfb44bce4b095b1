#include "eval/direction/streams.h"

#include "engine/forward.h"

namespace signalbox::eval {

using namespace engine;
using namespace probes;

namespace {

// Adds up rows of resid_out as they come: one job, one batch.
class MeanSink : public ProbeSink {
 public:
  MeanSink(const std::vector<int64_t>& positions, int64_t n_layers, int64_t d)
      : positions_(positions), d_(d), sums_(static_cast<size_t>(n_layers * d)) {}
  bool wants(Point point, int32_t) const override { return point == Point::resid_out; }
  void begin(const StepRows&) override {}
  void take(Point, int32_t layer, const float* data, int64_t width) override {
    double* to = sums_.data() + layer * d_;
    for (const int64_t t : positions_)
      for (int64_t c = 0; c < d_; ++c) to[c] += double{data[t * width + c]};
  }
  void take_ids(int32_t, const int32_t*, const int32_t*, int64_t) override {}
  void end() override {}
  void append_to(std::vector<float>& out) const {
    for (const double sum : sums_) out.push_back(static_cast<float>(sum / static_cast<double>(positions_.size())));
  }

 private:
  const std::vector<int64_t>& positions_;
  int64_t d_;
  std::vector<double> sums_;  // [layers, d]
};

}  // namespace

std::optional<StreamMeans> mean_streams(const Session& session, const std::vector<Job>& jobs,
                                        const std::vector<std::vector<int64_t>>& positions,
                                        const std::atomic<bool>* interrupted,
                                        const std::function<void(int64_t)>& on_progress) {
  StreamMeans means{static_cast<int64_t>(jobs.size()), session.model.n_layers(), session.model.d_model, {}};
  Forward forward = session.forward(0);
  int64_t done = 0;
  for (size_t i = 0; i < jobs.size(); ++i) {
    if (interrupted && *interrupted) return std::nullopt;
    KvPool pool(*session.backend, session.model, KvPool::blocks_for(jobs[i].n_given()));
    SequenceCache sequence(pool);
    Batch batch;
    batch.append(sequence, nullptr, 0, jobs[i].prompt->tokens, {}, jobs[i].n_given(), 0);
    MeanSink sink(positions[i], means.n_layers, means.d);
    forward.run(batch, &sink);
    forward.flush(sink);
    sink.append_to(means.values);
    done += jobs[i].n_given();
    if (on_progress) on_progress(done);
  }
  return means;
}

}  // namespace signalbox::eval
