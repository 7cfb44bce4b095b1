#include "train/one_block.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/error.h"
#include "base/half.h"
#include "engine/matrix_values.h"
#include "eval/data/dice.h"
#include "train/refit.h"
#include "train/teacher_blocks.h"

namespace signalbox::train {

namespace {

Matrix f32_matrix(const std::vector<float>& values, int64_t rows, int64_t cols) {
  return Matrix{values.data(), DType::f32, rows, cols, cols, nullptr, 0};
}

// Hands on to the measure of experts, and adds up the sigmoid gates of shared experts.
class CalibrationSink final : public ProbeSink {
 public:
  CalibrationSink(ExpertMeasure& measure, const Model& model, const Weights& host) : measure_(measure) {
    for (const LayerMeasures& layer : measure.layers()) {
      const Moe& moe = *model.layers[layer.layer].moe();
      if (moe.shared_gate)
        gates_[layer.layer] = {values_of(std::get<MoeWeights>(host.layers[layer.layer].ffn).shared_scale), 0};
    }
  }
  bool wants(Point point, int32_t layer) const override {
    return measure_.wants(point, layer) || (point == Point::expert_in && gates_.count(layer) > 0);
  }
  void begin(const StepRows& rows) override {
    n_rows_ = rows.n_rows;
    measure_.begin(rows);
  }
  void take(Point point, int32_t layer, const float* data, int64_t width) override {
    if (measure_.wants(point, layer)) measure_.take(point, layer, data, width);
    const auto gate = gates_.find(layer);
    if (point != Point::expert_in || gate == gates_.end()) return;
    for (int64_t r = 0; r < n_rows_; ++r) {
      double z = 0;
      for (int64_t c = 0; c < width; ++c)
        z += static_cast<double>(data[r * width + c]) * static_cast<double>(gate->second.weights[c]);
      gate->second.sum += 1 / (1 + std::exp(-z));
    }
  }
  void take_ids(int32_t layer, const int32_t* ids, const int32_t* original, int64_t n_slots) override {
    measure_.take_ids(layer, ids, original, n_slots);
  }
  void end() override { measure_.end(); }
  double mean_gate(int32_t layer, int64_t tokens) const {
    const auto gate = gates_.find(layer);
    return gate == gates_.end() ? 1 : gate->second.sum / static_cast<double>(tokens);
  }

 private:
  struct Gate {
    std::vector<float> weights;
    double sum = 0;
  };
  ExpertMeasure& measure_;
  std::map<int32_t, Gate> gates_;
  int64_t n_rows_ = 0;
};

// Tokens drawn without replacement: rows by example, ascending.
std::map<int64_t, std::vector<int64_t>> sampled_tokens(std::span<const Example* const> examples, int64_t n,
                                                       uint64_t seed) {
  std::vector<std::pair<int64_t, int64_t>> all;
  for (size_t i = 0; i < examples.size(); ++i)
    for (int64_t row = 0; row < examples[i]->n_tokens(); ++row) all.emplace_back(static_cast<int64_t>(i), row);
  if (n < static_cast<int64_t>(all.size())) {
    Dice(seed, "distill output sample").shuffle(all);
    all.resize(static_cast<size_t>(n));
    std::sort(all.begin(), all.end());
  }
  std::map<int64_t, std::vector<int64_t>> rows;
  for (const auto& [example, row] : all) rows[example].push_back(row);
  return rows;
}

double alpha_of(const Router& router, const ExpertSums& expert, int64_t keep) {
  if (router.renormalize || router.softmax_over_selected)
    return static_cast<double>(router.scale) / static_cast<double>(keep);
  return expert.tokens() > 0 ? expert.mean_weight() : 0;
}

void check_count(int32_t layer, int64_t n_experts, int64_t keep) {
  if (keep < 1 || keep > n_experts)
    throw Error("--keep", "layer " + std::to_string(layer) + ": expected from 1 to " + std::to_string(n_experts) +
                              " experts, found " + std::to_string(keep));
}

BlockChoice choice_of(const Model& model, const Calibration& calibration, size_t at, std::vector<int32_t> keep) {
  const LayerMeasures& layer = calibration.layers[at];
  BlockChoice choice;
  choice.layer = layer.layer;
  std::sort(keep.begin(), keep.end());
  for (const int32_t e : keep)
    choice.alpha.push_back(alpha_of(model.layers[layer.layer].moe()->router, layer.experts[static_cast<size_t>(e)],
                                    static_cast<int64_t>(keep.size())));
  choice.keep = std::move(keep);
  choice.shared = calibration.shared_gate[at];
  return choice;
}

// Gram matrix [n_experts, n_experts] of the outputs of all experts on the sampled inputs, a mean over tokens.
std::vector<double> output_gram(const Model& model, const MoeWeights& weights, const LayerMeasures& layer,
                                int64_t n_sampled, Backend& backend) {
  const int64_t d = model.d_model, n = layer.n_experts, d_ff = model.layers[layer.layer].moe()->d_ff;
  std::vector<double> gram(static_cast<size_t>(n * n));
  std::vector<float> hidden(static_cast<size_t>(n * d_ff)), out(static_cast<size_t>(n * d));
  std::vector<int32_t> ids(static_cast<size_t>(n));
  std::iota(ids.begin(), ids.end(), 0);
  Route route;
  route.n_slots = static_cast<int32_t>(n);
  route.ids = ids.data();
  for (int64_t t = 0; t < n_sampled; ++t) {
    const Tensor x(const_cast<float*>(layer.inputs.data()) + t * d, 1, d), inner(hidden.data(), n, d_ff),
        outer(out.data(), n, d);
    backend.experts_hidden(inner, x, route, 1, weights.experts(), model.activation, nullptr);
    backend.experts_out(outer, inner, route, 1, weights.experts());
    for (int64_t a = 0; a < n; ++a)
      for (int64_t b = 0; b <= a; ++b) {
        double sum = 0;
        for (int64_t c = 0; c < d; ++c)
          sum += static_cast<double>(out[static_cast<size_t>(a * d + c)]) *
                 static_cast<double>(out[static_cast<size_t>(b * d + c)]);
        gram[static_cast<size_t>(a * n + b)] += sum / static_cast<double>(n_sampled);
      }
  }
  for (int64_t a = 0; a < n; ++a)
    for (int64_t b = 0; b < a; ++b) gram[static_cast<size_t>(b * n + a)] = gram[static_cast<size_t>(a * n + b)];
  return gram;
}

// The largest log-determinant, one more at a time: Cholesky that takes the largest pivot next.
std::vector<int32_t> greedy_determinant(std::vector<double> gram, int64_t n, int64_t keep) {
  std::vector<int32_t> chosen;
  std::vector<uint8_t> taken(static_cast<size_t>(n));
  for (int64_t step = 0; step < keep; ++step) {
    int64_t best = -1;
    for (int64_t e = 0; e < n; ++e)
      if (!taken[static_cast<size_t>(e)] &&
          (best < 0 || gram[static_cast<size_t>(e * n + e)] > gram[static_cast<size_t>(best * n + best)]))
        best = e;
    taken[static_cast<size_t>(best)] = 1;
    chosen.push_back(static_cast<int32_t>(best));
    const double pivot = gram[static_cast<size_t>(best * n + best)];
    if (!(pivot > 0)) continue;  // what is left adds nothing: the lowest ids
    for (int64_t a = 0; a < n; ++a)
      for (int64_t b = 0; b < n; ++b)
        if (!taken[static_cast<size_t>(a)] && !taken[static_cast<size_t>(b)])
          gram[static_cast<size_t>(a * n + b)] -=
              gram[static_cast<size_t>(a * n + best)] * gram[static_cast<size_t>(best * n + b)] / pivot;
  }
  return chosen;
}

double score_of(const ExpertSums& expert, KeepScore score, int64_t tokens) {
  if (expert.tokens() == 0) return -INFINITY;
  const double share = static_cast<double>(expert.tokens()) / static_cast<double>(tokens);
  switch (score) {
    case KeepScore::sf: return share;
    case KeepScore::cp: return expert.mean_weight();
    case KeepScore::acp:
    case KeepScore::do_acp: return share * expert.mean_weight();
    case KeepScore::reap: return expert.reap();
  }
  return 0;
}

// Rows [n, d] behind each other, columns [d, n] beside each other, from neuron `first` on.
void put_neurons(Block& block, int64_t first, const Matrix& gate, const Matrix& up, const Matrix& down, double factor) {
  const std::vector<float> g = values_of(gate), u = values_of(up), w = values_of(down);
  const int64_t n = gate.rows, d = block.d;
  std::copy(g.begin(), g.end(), block.gate.begin() + first * d);
  std::copy(u.begin(), u.end(), block.up.begin() + first * d);
  for (int64_t r = 0; r < d; ++r)
    for (int64_t i = 0; i < n; ++i)
      block.down[static_cast<size_t>(r * block.n + first + i)] =
          static_cast<float>(factor * static_cast<double>(w[static_cast<size_t>(r * n + i)]));
}

Vector stored(const std::vector<float>& values, DType dtype, Weights& owner) {
  auto floats = std::make_shared<std::vector<float>>(values);
  for (float& value : *floats) value = kept_by(dtype, value);
  const Vector out{floats->data(), static_cast<int64_t>(floats->size())};
  owner.owners.push_back(std::move(floats));
  return out;
}

// A dense layer of the original with silent neurons up to `width`.
DenseWeights widened(const DenseWeights& from, int64_t width, int64_t d, Weights& owner) {
  Block block;
  block.n = width;
  block.d = d;
  for (auto* list : {&block.gate, &block.up, &block.down}) list->assign(static_cast<size_t>(width * d), 0);
  put_neurons(block, 0, from.gate, from.up, from.down, 1);
  return {stored_copy(block.gate.data(), width, d, from.gate.dtype, owner.owners),
          stored_copy(block.up.data(), width, d, from.up.dtype, owner.owners),
          stored_copy(block.down.data(), d, width, from.down.dtype, owner.owners)};
}

}  // namespace

Calibration calibrate(Forward& teacher, const Weights& host, const ModelShape& shape,
                      std::span<const Example* const> examples, int64_t sample, uint64_t seed, const Groups& groups,
                      int threads, const std::function<void(int64_t)>& on_progress) {
  ExpertMeasure measure(shape, sampled_tokens(examples, sample, seed), threads);
  CalibrationSink sink(measure, teacher.model(), host);
  int64_t done = 0, first = 0;
  for_each_group(examples, groups, [&](std::span<const Example* const> group) {
    SequenceGroup run(teacher.backend(), teacher.model(), group, first);
    teacher.run(run.batch, &sink);
    teacher.flush(sink);
    first += static_cast<int64_t>(group.size());
    if (on_progress) on_progress(done += tokens_of(group));
  });
  teacher.drop_rows();
  Calibration out;
  out.layers = measure.layers();
  out.tokens = measure.n_tokens();
  out.sampled = measure.n_sampled();
  for (const LayerMeasures& layer : out.layers) out.shared_gate.push_back(sink.mean_gate(layer.layer, out.tokens));
  return out;
}

std::vector<BlockChoice> best_choice(const Model& model, const Weights& host, const Calibration& calibration,
                                     int64_t keep, KeepScore score, Backend& backend) {
  std::vector<BlockChoice> out;
  for (size_t l = 0; l < calibration.layers.size(); ++l) {
    const LayerMeasures& layer = calibration.layers[l];
    check_count(layer.layer, layer.n_experts, keep);
    const int64_t n = layer.n_experts;
    std::vector<double> scores;
    for (const ExpertSums& expert : layer.experts) scores.push_back(score_of(expert, score, calibration.tokens));
    std::vector<int32_t> order(static_cast<size_t>(n));
    std::iota(order.begin(), order.end(), 0);
    if (score == KeepScore::do_acp) {
      std::vector<double> gram =
          output_gram(model, std::get<MoeWeights>(host.layers[layer.layer].ffn), layer, calibration.sampled, backend);
      const auto weight = [&](int64_t e) { return std::max(0.0, scores[static_cast<size_t>(e)]); };
      for (int64_t a = 0; a < n; ++a)
        for (int64_t b = 0; b < n; ++b) gram[static_cast<size_t>(a * n + b)] *= weight(a) * weight(b);
      order = greedy_determinant(std::move(gram), n, keep);
    } else {
      std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
        return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)];
      });
      order.resize(static_cast<size_t>(keep));
    }
    out.push_back(choice_of(model, calibration, l, std::move(order)));
  }
  return out;
}

std::vector<BlockChoice> random_choice(const Model& model, const Calibration& calibration, int64_t keep,
                                       uint64_t seed) {
  std::vector<BlockChoice> out;
  for (size_t l = 0; l < calibration.layers.size(); ++l) {
    const LayerMeasures& layer = calibration.layers[l];
    check_count(layer.layer, layer.n_experts, keep);
    std::vector<int32_t> order(static_cast<size_t>(layer.n_experts));
    std::iota(order.begin(), order.end(), 0);
    Dice(seed, "distill random layer " + std::to_string(layer.layer)).shuffle(order);
    order.resize(static_cast<size_t>(keep));
    out.push_back(choice_of(model, calibration, l, std::move(order)));
  }
  return out;
}

int64_t block_width(const Model& model, int64_t keep) {
  int64_t width = 0;
  for (const int32_t l : model.moe_layers()) {
    const Moe& moe = *model.layers[static_cast<size_t>(l)].moe();
    check_count(l, moe.router.n_experts, keep);
    width = std::max(width, keep * moe.d_ff + moe.d_ff_shared);
  }
  return width;
}

ExpertMatrices Block::Views::experts() const {
  ExpertMatrices out{{&gate, 1}, {&up, 1}, {&down, 1}, {}, {}, {}, nullptr};
  if (biases) {
    out.gate_bias = {&gate_bias, 1};
    out.up_bias = {&up_bias, 1};
    out.down_bias = {&down_bias, 1};
  }
  return out;
}

Block::Views Block::views() const {
  Views out{f32_matrix(gate, n, d), f32_matrix(up, n, d), f32_matrix(down, d, n), {}, {}, {}, !down_bias.empty()};
  if (out.biases) {
    out.gate_bias = {gate_bias.data(), n};
    out.up_bias = {up_bias.data(), n};
    out.down_bias = {down_bias.data(), d};
  }
  return out;
}

Block concatenated(const Model& model, const Weights& host, const BlockChoice& choice, int64_t width) {
  const Moe& moe = *model.layers[choice.layer].moe();
  const MoeWeights& weights = std::get<MoeWeights>(host.layers[choice.layer].ffn);
  Block block;
  block.layer = choice.layer;
  block.n = width;
  block.d = model.d_model;
  for (auto* list : {&block.gate, &block.up, &block.down}) list->assign(static_cast<size_t>(width * block.d), 0);
  if (moe.bias) {
    for (auto* list : {&block.gate_bias, &block.up_bias}) list->assign(static_cast<size_t>(width), 0);
    block.down_bias.assign(static_cast<size_t>(block.d), 0);
  }
  std::vector<double> down_bias(block.down_bias.size());
  int64_t first = 0;
  for (size_t i = 0; i < choice.keep.size(); ++i, first += moe.d_ff) {
    const auto e = static_cast<size_t>(choice.keep[i]);
    put_neurons(block, first, weights.gate[e], weights.up[e], weights.down[e], choice.alpha[i]);
    if (!moe.bias) continue;
    std::copy_n(weights.gate_bias[e].data, moe.d_ff, block.gate_bias.begin() + first);
    std::copy_n(weights.up_bias[e].data, moe.d_ff, block.up_bias.begin() + first);
    for (size_t c = 0; c < down_bias.size(); ++c)
      down_bias[c] += choice.alpha[i] * static_cast<double>(weights.down_bias[e].data[c]);
  }
  for (size_t c = 0; c < down_bias.size(); ++c) block.down_bias[c] = static_cast<float>(down_bias[c]);
  if (moe.d_ff_shared > 0)
    put_neurons(block, first, weights.shared_gate, weights.shared_up, weights.shared_down, choice.shared);
  return block;
}

void run_block(Backend& backend, const ExpertMatrices& block, const Activation& activation, Tensor x, Tensor hidden,
               Tensor out) {
  const std::vector<int32_t> ids(static_cast<size_t>(x.rows), 0);
  const auto on_device = uploaded(backend, std::span<const int32_t>(ids));
  Route route;
  route.n_slots = 1;
  route.ids = static_cast<int32_t*>(on_device.get());
  backend.experts_hidden(hidden, x, route, x.rows, block, activation, nullptr);
  backend.experts_out(out, hidden, route, x.rows, block);
  backend.synchronize();
}

std::vector<BlockFit> refit(Forward& teacher, std::span<const Example* const> examples, std::vector<Block>& blocks,
                            const RefitSettings& settings, ThreadPool& pool) {
  std::vector<BlockFit> fits;
  if (blocks.empty()) return fits;
  const int64_t n = blocks.front().n, d = blocks.front().d, one = 8 * (n * n + n * d);
  const auto at_once = static_cast<size_t>(std::max<int64_t>(1, settings.memory / one));
  const auto n_blocks = static_cast<int64_t>(blocks.size());
  int64_t all_tokens = 0, done = 0;
  for (const Example* example : examples) all_tokens += example->n_tokens();
  const int64_t runs = (n_blocks + static_cast<int64_t>(at_once) - 1) / static_cast<int64_t>(at_once);
  std::vector<float> hidden, answers;
  for (size_t from = 0; from < blocks.size(); from += at_once) {
    const std::span<Block> some(blocks.data() + from, std::min(at_once, blocks.size() - from));
    std::vector<Refit> refits;
    std::vector<double> squares(some.size());
    std::vector<int32_t> layers;
    for (const Block& block : some) {
      refits.emplace_back(n, d, pool);
      layers.push_back(block.layer);
    }
    TeacherBlocks taught(layers, d);
    for_each_group(examples, settings.groups, [&](std::span<const Example* const> group) {
      SequenceGroup run(teacher.backend(), teacher.model(), group);
      teacher.run(run.batch, &taught);
      teacher.flush(taught);
      const int64_t rows = taught.n_rows();
      hidden.resize(static_cast<size_t>(rows * n));
      answers.resize(static_cast<size_t>(rows * d));
      for (size_t b = 0; b < some.size(); ++b) {
        const Block::Views views = some[b].views();
        std::vector<float>& y = taught.out(some[b].layer);
        for (const float value : y) squares[b] += static_cast<double>(value) * static_cast<double>(value);
        run_block(teacher.backend(), views.experts(), teacher.model().activation,
                  Tensor(taught.in(some[b].layer).data(), rows, d), Tensor(hidden.data(), rows, n),
                  Tensor(answers.data(), rows, d));
        if (views.biases)
          for (int64_t r = 0; r < rows; ++r)
            for (int64_t c = 0; c < d; ++c) y[static_cast<size_t>(r * d + c)] -= views.down_bias.data[c];
        refits[b].add(hidden, y);
      }
      if (settings.on_progress) settings.on_progress(done += tokens_of(group), runs * all_tokens);
    });
    teacher.drop_rows();
    for (size_t b = 0; b < some.size(); ++b) {
      BlockFit fit;
      fit.layer = some[b].layer;
      fit.mean_square = squares[b] / static_cast<double>(refits[b].tokens());
      // Of what the bias leaves, as a share of all.
      const double share = squares[b] > 0 ? refits[b].squares() / squares[b] : 0;
      fit.before = fit.after = share * refits[b].error(some[b].down);
      if (settings.ridge >= 0) {
        some[b].down = refits[b].solve(settings.ridge, some[b].down);
        fit.after = share * refits[b].error(some[b].down);
      }
      fits.push_back(fit);
    }
  }
  return fits;
}

ChangedModel with_blocks(const Model& original, const Weights& host, const Model& model,
                         const std::vector<Block>& blocks, DType dtype) {
  ChangedModel changed{model, host, {}};
  changed.one_block = true;
  Weights& weights = changed.weights;
  for (const Block& block : blocks) {
    LayerWeights& layer = weights.layers[block.layer];
    const Matrix gate = stored_copy(block.gate.data(), block.n, block.d, dtype, weights.owners),
                 up = stored_copy(block.up.data(), block.n, block.d, dtype, weights.owners),
                 down = stored_copy(block.down.data(), block.d, block.n, dtype, weights.owners);
    if (!model.layers[block.layer].moe()) {
      layer.ffn = DenseWeights{gate, up, down};
      continue;
    }
    MoeWeights moe;
    const std::vector<float> zeros(static_cast<size_t>(block.d));
    moe.router = stored_copy(zeros.data(), 1, block.d, dtype, weights.owners);
    if (model.layers[block.layer].moe()->router.bias) moe.router_bias = stored(std::vector<float>(1), dtype, weights);
    moe.gate = {gate};
    moe.up = {up};
    moe.down = {down};
    if (!block.down_bias.empty()) {
      moe.gate_bias = {stored(block.gate_bias, dtype, weights)};
      moe.up_bias = {stored(block.up_bias, dtype, weights)};
      moe.down_bias = {stored(block.down_bias, dtype, weights)};
    }
    layer.ffn = std::move(moe);
  }
  for (size_t l = 0; l < original.layers.size(); ++l) {
    const Dense* was = std::get_if<Dense>(&original.layers[l].ffn);
    const Dense* is = std::get_if<Dense>(&model.layers[l].ffn);
    if (was && is && is->d_ff != was->d_ff)
      weights.layers[l].ffn = widened(std::get<DenseWeights>(host.layers[l].ffn), is->d_ff, model.d_model, weights);
  }
  return changed;
}

}  // namespace signalbox::train
