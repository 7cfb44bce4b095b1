#include "eval/direction/steering.h"

#include <algorithm>
#include <cmath>

namespace signalbox::eval {

using namespace engine;
using namespace kernels;
using namespace probes;

namespace {

// The stream behind every layer at some positions, and all of it behind the last layer.
class StreamSink : public ProbeSink {
 public:
  StreamSink(const std::vector<int64_t>& positions, int64_t n_layers, std::vector<float>& behind,
             std::vector<float>& last)
      : positions_(positions), n_layers_(n_layers), behind_(behind), last_(last) {}
  bool wants(Point point, int32_t) const override { return point == Point::resid_out; }
  void begin(const StepRows& rows) override { n_rows_ = rows.n_rows; }
  void take(Point, int32_t layer, const float* data, int64_t width) override {
    const auto n = static_cast<int64_t>(positions_.size());
    behind_.resize(static_cast<size_t>(n_layers_ * n * width));
    for (int64_t p = 0; p < n; ++p)
      std::copy_n(data + positions_[static_cast<size_t>(p)] * width, width, behind_.begin() + (layer * n + p) * width);
    if (layer + 1 == n_layers_) last_.assign(data, data + n_rows_ * width);
  }
  void take_ids(int32_t, const int32_t*, const int32_t*, int64_t) override {}
  void end() override {}

 private:
  const std::vector<int64_t>& positions_;
  int64_t n_layers_, n_rows_ = 0;
  std::vector<float>&behind_, &last_;
};

// to = x + scale v, rounded as the edit `add` rounds.
void add(std::span<float> to, std::span<const float> x, std::span<const float> v, float scale) {
  for (size_t c = 0; c < to.size(); ++c) to[c] = std::fma(scale, v[c], x[c]);
}

}  // namespace

Steering::Steering(const Session& session, const Job& job, const MetricRows& rows, const MetricRows& divergence_rows,
                   std::vector<int64_t> positions, int64_t step_tokens, int64_t step_cells)
    : session_(session),
      backend_(*session.backend),
      job_(job),
      rows_(rows),
      divergence_rows_(divergence_rows),
      positions_(std::move(positions)),
      n_tokens_(job.n_given()),
      n_logits_(std::max(rows.n_rows(), divergence_rows.n_rows())),
      cells_(std::clamp<int64_t>(step_tokens / (n_tokens_ - positions_.front()), 1, step_cells)),
      pool_(backend_, session.model,
            KvPool::blocks_for(n_tokens_) +
                cells_ * (KvPool::blocks_for(n_tokens_ - positions_.front() + KvPool::block_size) + 1)),
      sequence_(pool_),
      whole_(backend_, session.model, session.weights, 0, Buffers::Policy::keep),
      streams_(whole_),
      steered_(backend_, session.model, session.weights, 0),
      lens_(backend_, session.model, session.weights) {
  Batch batch;
  batch.append(sequence_, nullptr, 0, job_.prompt->tokens, job_.prompt->spans, n_tokens_, n_logits_);
  StreamSink sink(positions_, session.model.n_layers(), behind_, last_);
  const Outputs outputs = whole_.run(batch, &sink);
  whole_.flush(sink);
  logits_ = scratch(logits_memory_, outputs.logits.rows, outputs.logits.cols);
  backend_.copy(logits_.data, outputs.logits.data, static_cast<size_t>(logits_.rows * logits_.cols) * sizeof(float));
  const auto of = [&](int64_t count) { return Tensor(logits_.row(n_logits_ - count), count, logits_.cols); };
  base_ = metric_value(backend_, rows_, of(rows_.n_rows()), of(rows_.n_rows()));
}

Tensor Steering::scratch(std::shared_ptr<void>& memory, int64_t rows, int64_t cols) const {
  memory = backend_.allocate(std::max<size_t>(4, static_cast<size_t>(rows * cols) * sizeof(float)));
  return Tensor(static_cast<float*>(memory.get()), rows, cols);
}

std::span<const float> Steering::stream(int64_t layer, size_t p) const {
  const auto d = static_cast<size_t>(session_.model.d_model);
  return std::span(behind_).subspan((static_cast<size_t>(layer) * positions_.size() + p) * d, d);
}

std::vector<double> Steering::effects(int64_t layer, std::span<const float> vectors, std::span<const float> scales,
                                      std::vector<double>* divergence) {
  const auto d = static_cast<size_t>(session_.model.d_model), n = vectors.size() / d, p = positions_.size();
  std::vector<double> out;
  if (divergence) divergence->clear();
  for (size_t begin = 0; begin < n; begin += static_cast<size_t>(cells_)) {
    const size_t count = std::min(n - begin, static_cast<size_t>(cells_));
    const auto some = vectors.subspan(begin * d, count * d), some_scales = scales.subspan(begin * p, count * p);
    if (layer + 1 < session_.model.n_layers())
      run_step(layer, some, some_scales, out, divergence);
    else
      run_head(some, some_scales, out, divergence);
  }
  return out;
}

void Steering::run_step(int64_t layer, std::span<const float> vectors, std::span<const float> scales,
                        std::vector<double>& out, std::vector<double>* divergence) {
  const int64_t first = positions_.front(), count = n_tokens_ - first, d = session_.model.d_model;
  const auto n = vectors.size() / static_cast<size_t>(d);
  const Tensor from = streams_.at(layer + 1);
  std::vector<SequenceCache> forks;
  forks.reserve(n);
  Batch batch;
  std::shared_ptr<void> memory;
  const Tensor x = scratch(memory, static_cast<int64_t>(n) * count, d);
  std::vector<float> sum(static_cast<size_t>(d));
  const int64_t logit_rows = std::min(count, n_logits_);
  for (size_t i = 0; i < n; ++i) {
    forks.push_back(sequence_.fork(first));
    batch.append(forks.back(), nullptr, 0, std::span(job_.prompt->tokens).subspan(static_cast<size_t>(first)), {},
                 n_tokens_, logit_rows);
    const int64_t row = static_cast<int64_t>(i) * count;
    backend_.copy(x.row(row), from.row(first), static_cast<size_t>(count * d) * sizeof(float));
    for (size_t p = 0; p < positions_.size(); ++p) {
      add(sum, stream(layer, p), vectors.subspan(i * static_cast<size_t>(d), static_cast<size_t>(d)),
          scales[i * positions_.size() + p]);
      backend_.upload(x.row(row + positions_[p] - first), sum.data(), sum.size() * sizeof(float));
    }
  }
  const Outputs outputs = steered_.run_from(batch, layer + 1, x, nullptr);
  for (size_t i = 0; i < n; ++i)
    measure(Tensor(outputs.logits.row(static_cast<int64_t>(i) * logit_rows), logit_rows, outputs.logits.cols),
            logit_rows, out, divergence);
}

void Steering::run_head(std::span<const float> vectors, std::span<const float> scales, std::vector<double>& out,
                        std::vector<double>* divergence) {
  const auto d = static_cast<size_t>(session_.model.d_model);
  const int64_t n_vocab = session_.model.n_vocab, begin = n_tokens_ - n_logits_;
  std::vector<float> logits(static_cast<size_t>(n_logits_ * n_vocab));
  std::shared_ptr<void> memory;
  const Tensor own = scratch(memory, n_logits_, n_vocab);
  for (size_t i = 0; i < vectors.size() / d; ++i) {
    std::vector<float> x(last_.begin() + begin * static_cast<int64_t>(d), last_.end());
    for (size_t p = 0; p < positions_.size(); ++p)
      if (const int64_t row = positions_[p] - begin; row >= 0) {
        const std::span<float> to = std::span(x).subspan(static_cast<size_t>(row) * d, d);
        add(to, to, vectors.subspan(i * d, d), scales[i * positions_.size() + p]);
      }
    lens_.logits(x, lens_.divisors(x), logits);
    backend_.upload(own.data, logits.data(), logits.size() * sizeof(float));
    measure(own, n_logits_, out, divergence);
  }
}

// Of logits of the last `count` tokens; those before them are of the unedited run.
void Steering::measure(Tensor logits, int64_t count, std::vector<double>& out, std::vector<double>* divergence) {
  std::shared_ptr<void> memory;
  const Tensor own = scratch(memory, n_logits_, logits_.cols);
  const size_t row_bytes = static_cast<size_t>(logits_.cols) * sizeof(float);
  if (count < n_logits_) backend_.copy(own.data, logits_.data, static_cast<size_t>(n_logits_ - count) * row_bytes);
  backend_.copy(own.row(n_logits_ - count), logits.data, static_cast<size_t>(count) * row_bytes);
  const auto tail = [&](Tensor of, int64_t n) { return Tensor(of.row(n_logits_ - n), n, of.cols); };
  const int64_t n = rows_.n_rows(), m = divergence_rows_.n_rows();
  out.push_back(metric_value(backend_, rows_, tail(own, n), tail(logits_, n)) - base_);
  if (divergence) divergence->push_back(metric_value(backend_, divergence_rows_, tail(own, m), tail(logits_, m)));
}

}  // namespace signalbox::eval
