#include "train/block_loss.h"

#include "kernels/weight_adjoint.h"
#include "train/one_block.h"
#include "train/teacher_blocks.h"

namespace signalbox::train {

namespace {

// The block of a layer, which of its roles is which, and whose expert it is.
struct StudentBlock {
  ExpertMatrices matrices;
  Role gate, up, down;
  int32_t expert;
};

StudentBlock block_of(const LayerWeights& layer) {
  if (const auto* dense = std::get_if<DenseWeights>(&layer.ffn))
    return {{{&dense->gate, 1}, {&dense->up, 1}, {&dense->down, 1}, {}, {}, {}, nullptr},
            Role::dense_gate,
            Role::dense_up,
            Role::dense_down,
            -1};
  return {std::get<MoeWeights>(layer.ffn).experts(), Role::expert_gate, Role::expert_up, Role::expert_down, 0};
}

// Room for [rows, cols] on the device.
struct Room {
  std::shared_ptr<void> memory;
  Tensor tensor;
  Room(Backend& backend, int64_t rows, int64_t cols)
      : memory(backend.allocate(std::max<size_t>(4, static_cast<size_t>(rows * cols) * sizeof(float)))),
        tensor(static_cast<float*>(memory.get()), rows, cols) {}
};

}  // namespace

std::vector<double> BlockObjective::run(std::span<const Example* const> examples, const Groups& groups,
                                        double denominator, WeightSlopes* slopes) {
  std::vector<double> sums;
  Backend& backend = teacher_.backend();
  const int64_t d = teacher_.model().d_model;
  const Activation& activation = teacher_.model().activation;
  std::vector<int32_t> layers;
  for (const auto& [layer, square] : mean_square_) layers.push_back(layer);
  TeacherBlocks taught(layers, d);
  const auto n_layers = static_cast<double>(layers.size());
  for_each_group(examples, groups, [&](std::span<const Example* const> group) {
    SequenceGroup run(backend, teacher_.model(), group);
    teacher_.run(run.batch, &taught);
    teacher_.flush(taught);
    const int64_t rows = taught.n_rows();
    // Which rows count, and where they stand.
    std::vector<uint8_t> counts;
    std::vector<int32_t> sequences, positions;
    for (size_t i = 0; i < group.size(); ++i)
      for (int64_t t = 0; t < group[i]->n_tokens(); ++t) {
        const int64_t row = t - (group[i]->n_tokens() - group[i]->n_rows());
        counts.push_back(row >= 0 && group[i]->targets[static_cast<size_t>(row)] >= 0);
        sequences.push_back(static_cast<int32_t>(i));
        positions.push_back(static_cast<int32_t>(t));
      }
    std::vector<double> lost(static_cast<size_t>(rows));
    for (const auto& one : mean_square_) {
      const int32_t layer = one.first;
      const double square = one.second;
      const StudentBlock block = block_of(student_.layers[layer]);
      const int64_t n = block.matrices.gate[0].rows;
      const Tensor x(taught.in(layer).data(), rows, d);
      const Room hidden(backend, rows, n), out(backend, rows, d);
      run_block(backend, block.matrices, activation, x, hidden.tensor, out.tensor);
      const double scale = square > 0 ? 1 / (square * n_layers) : 0;
      const std::vector<float>& want = taught.out(layer);
      for (int64_t r = 0; r < rows; ++r) {
        double sum = 0;
        for (int64_t c = 0; c < d; ++c) {
          const double error = static_cast<double>(out.tensor.row(r)[c]) - static_cast<double>(want[r * d + c]);
          sum += error * error;
          out.tensor.row(r)[c] =
              counts[static_cast<size_t>(r)] ? static_cast<float>(2 * scale / denominator * error) : 0.f;
        }
        if (counts[static_cast<size_t>(r)]) lost[static_cast<size_t>(r)] += scale * sum;
      }
      if (!slopes) continue;
      WeightAdjointOps& ops = weight_adjoints(backend);
      const std::vector<int32_t> ids(static_cast<size_t>(rows), 0);
      Route route;
      route.n_slots = 1;
      route.ids = const_cast<int32_t*>(ids.data());
      const Tensor d_out = out.tensor;
      const Room d_hidden(backend, rows, n), d_gate(backend, rows, n), d_up(backend, rows, n), ones(backend, rows, 1);
      std::fill_n(ones.tensor.data, rows, 1.f);
      backend.experts_out_adjoint(d_hidden.tensor, d_out, route, rows, block.matrices);
      ops.experts_slopes(d_gate.tensor, d_up.tensor, d_hidden.tensor, x, route, rows, block.matrices, activation);
      const SummedRows summed{sequences, positions, {}, {}};
      const auto add = [&](Role role, Tensor left, Tensor right) {
        if (const Tensor sum = slopes->sum({role, layer, block.expert})) ops.outer_sum(sum, left, right, summed);
      };
      add(block.down, d_out, hidden.tensor);
      add(block.gate, d_gate.tensor, x);
      add(block.up, d_up.tensor, x);
      if (block.matrices.down_bias.empty()) continue;
      add(Role::expert_down_bias, ones.tensor, d_out);
      add(Role::expert_gate_bias, ones.tensor, d_gate.tensor);
      add(Role::expert_up_bias, ones.tensor, d_up.tensor);
    }
    // Of each example, its rows of logits: as other objectives count.
    size_t row = 0;
    for (const Example* example : group) {
      double sum = 0;
      for (int64_t t = 0; t < example->n_tokens(); ++t) sum += lost[row++];
      sums.push_back(sum);
    }
  });
  teacher_.drop_rows();
  return sums;
}

std::vector<double> BlockObjective::losses(Forward&, std::span<const Example* const> examples, const Groups& groups) {
  return run(examples, groups, 1, nullptr);
}

std::vector<double> BlockObjective::losses_and_slopes(Gradient&, std::span<const Example* const> examples,
                                                      const Groups& groups, double denominator, WeightSlopes& slopes) {
  return run(examples, groups, denominator, &slopes);
}

}  // namespace signalbox::train
