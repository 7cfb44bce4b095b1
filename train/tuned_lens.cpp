#include "train/tuned_lens.h"

#include <map>

#include "eval/lens/translators.h"
#include "kernels/weight_adjoint.h"
#include "train/teacher_loss.h"

namespace signalbox::train {

namespace {

// The streams that leave the layers, of a group's tokens.
class Streams final : public ProbeSink {
 public:
  Streams(int32_t n_layers, int64_t d) : layers_(static_cast<size_t>(n_layers)), d_(d) {}
  bool wants(Point point, int32_t layer) const override {
    return point == Point::resid_out && layer < static_cast<int32_t>(layers_.size());
  }
  void begin(const StepRows& rows) override { n_ = rows.n_rows; }
  void take(Point, int32_t layer, const float* data, int64_t) override {
    layers_[static_cast<size_t>(layer)].assign(data, data + n_ * d_);
  }
  void take_ids(int32_t, const int32_t*, const int32_t*, int64_t) override {}
  void end() override {}
  const float* row(int32_t layer, int64_t r) const { return layers_[static_cast<size_t>(layer)].data() + r * d_; }

 private:
  std::vector<std::vector<float>> layers_;
  int64_t d_, n_ = 0;
};

// Rows [rows, cols] of the device.
class DeviceRows {
 public:
  DeviceRows(Backend& backend, int64_t rows, int64_t cols)
      : memory_(backend.allocate(std::max<size_t>(4, static_cast<size_t>(rows * cols) * sizeof(float)))),
        tensor_(static_cast<float*>(memory_.get()), rows, cols) {}
  operator Tensor() const { return tensor_; }  // NOLINT: it is one
  const Tensor* operator->() const { return &tensor_; }

 private:
  std::shared_ptr<void> memory_;
  Tensor tensor_;
};

}  // namespace

TunedLens::TunedLens(Backend& backend, const Model& model, int threads)
    : Trained(backend, threads), d_(model.d_model), n_layers_(static_cast<int32_t>(model.n_layers()) - 1) {
  if (n_layers_ < 1) throw Error("train lens", "expected a model of at least two layers, found one");
  for (int32_t layer = 0; layer < n_layers_; ++layer) {
    add(translator_weight(layer), d_, d_, true, -1);
    add(translator_bias(layer), 1, d_, false, -1);
  }
}

Matrix TunedLens::weight(int32_t layer) const {
  return {parameters_[static_cast<size_t>(2 * layer)].weight(), DType::f32, d_, d_, d_, nullptr, 0};
}
Vector TunedLens::bias(int32_t layer) const { return {parameters_[static_cast<size_t>(2 * layer + 1)].weight(), d_}; }
Tensor TunedLens::weight_slopes(int32_t layer) const {
  return {parameters_[static_cast<size_t>(2 * layer)].slope(), d_, d_};
}
Tensor TunedLens::bias_slopes(int32_t layer) const {
  return {parameters_[static_cast<size_t>(2 * layer + 1)].slope(), 1, d_};
}

void TunedLens::write(const std::filesystem::path& file, const std::string& model) const {
  std::vector<safetensors::TensorHeader> headers;
  for (const Parameter& one : parameters_)
    headers.push_back(
        {one.name, "F32", one.rows == 1 ? std::vector<int64_t>{one.cols} : std::vector<int64_t>{one.rows, one.cols}});
  safetensors::Writer writer(file, headers, {{"schema", translators_schema}, {"model", model}});
  for (const Parameter& one : parameters_) writer.write(one.weight(), one.n() * sizeof(float));
  writer.finish();
}

std::vector<double> LensObjective::run(Forward& model, std::span<const Example* const> examples, const Groups& groups,
                                       double denominator, bool tuned) {
  std::vector<double> sums;
  Backend& backend = model.backend();
  const int64_t d = model.model().d_model, n_vocab = model.model().n_vocab;
  const float eps = model.model().norm_eps;
  const int32_t n_layers = lens_.n_layers();
  by_layer_.assign(static_cast<size_t>(n_layers), 0);
  for_each_group(examples, groups, [&](std::span<const Example* const> group) {
    SequenceGroup run(backend, model.model(), group);
    Streams streams(n_layers, d);
    const Outputs outputs = model.run(run.batch, &streams);
    model.flush(streams);
    model.drop_rows();
    // The rows that have logits, and where they stand.
    std::vector<int32_t> sequences, positions;
    std::vector<int64_t> of_batch;
    int64_t first = 0;
    for (size_t i = 0; i < group.size(); ++i) {
      for (int64_t t = group[i]->n_tokens() - group[i]->n_rows(); t < group[i]->n_tokens(); ++t) {
        sequences.push_back(static_cast<int32_t>(i));
        positions.push_back(static_cast<int32_t>(t));
        of_batch.push_back(first + t);
      }
      first += group[i]->n_tokens();
    }
    const auto rows = static_cast<int64_t>(of_batch.size());
    std::vector<double> lost(of_batch.size());
    for (int32_t layer = 0; layer < n_layers; ++layer) {
      const DeviceRows x(backend, rows, d), moved(backend, rows, d), normed(backend, rows, d),
          logits(backend, rows, n_vocab);
      for (int64_t r = 0; r < rows; ++r)
        std::copy_n(streams.row(layer, of_batch[static_cast<size_t>(r)]), d, x->row(r));
      if (tuned) {
        backend.matmul(moved, x, lens_.weight(layer), lens_.bias(layer));
        backend.add(moved, moved, x);
      } else {
        backend.copy(moved->data, x->data, static_cast<size_t>(rows * d) * sizeof(float));
      }
      backend.rmsnorm(normed, moved, weights_.final_norm, eps);
      backend.matmul(logits, normed, weights_.lm_head, {});
      const std::vector<double> of_rows = teacher_losses(backend, logits, outputs.logits, run.targets, 1);
      for (size_t r = 0; r < of_rows.size(); ++r) {
        lost[r] += of_rows[r] / static_cast<double>(n_layers);
        by_layer_[static_cast<size_t>(layer)] += of_rows[r];
      }
      if (denominator <= 0) continue;
      const DeviceRows d_logits(backend, rows, n_vocab), d_normed(backend, rows, d), d_moved(backend, rows, d),
          ones(backend, rows, 1);
      std::fill_n(ones->data, rows, 1.f);
      teacher_losses_adjoint(backend, d_logits, logits, outputs.logits, run.targets, 1,
                             1 / (denominator * static_cast<double>(n_layers)));
      backend.matmul_adjoint(d_normed, d_logits, weights_.lm_head, false);
      backend.rmsnorm_adjoint(d_moved, d_normed, moved, weights_.final_norm, eps, false);
      const SummedRows summed{sequences, positions, {}, {}};
      WeightAdjointOps& ops = weight_adjoints(backend);
      ops.outer_sum(lens_.weight_slopes(layer), d_moved, x, summed);
      ops.outer_sum(lens_.bias_slopes(layer), ones, d_moved, summed);
    }
    add_sums(sums, group, lost);
  });
  return sums;
}

std::vector<double> LensObjective::losses(Forward& model, std::span<const Example* const> examples,
                                          const Groups& groups) {
  return run(model, examples, groups, 0, true);
}

std::vector<double> LensObjective::losses_and_slopes(Gradient& model, std::span<const Example* const> examples,
                                                     const Groups& groups, double denominator, WeightSlopes&) {
  return run(model.forward(), examples, groups, denominator, true);
}

std::vector<double> LensObjective::by_layer(Forward& model, std::span<const Example* const> examples,
                                            const Groups& groups, bool tuned) {
  run(model, examples, groups, 0, tuned);
  int64_t n = 0;
  for (const Example* example : examples) n += example->n_targets();
  std::vector<double> out = by_layer_;
  for (double& sum : out) sum /= static_cast<double>(n);
  return out;
}

}  // namespace signalbox::train
