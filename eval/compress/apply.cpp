// Plans as models.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <mutex>
#include <numeric>

#include "base/error.h"
#include "base/thread_pool.h"
#include "engine/matrix_values.h"
#include "eval/compress/neurons.h"
#include "eval/compress/plan.h"
#include "eval/compress/stored.h"

namespace signalbox::eval {

namespace {

// Sums of an expert's parameters, each neuron at its place among the neurons of the one that stays.
class GroupMean {
 public:
  GroupMean(int64_t n, int64_t d, bool biases)
      : n_(n),
        d_(d),
        gate_(n * d),
        up_(n * d),
        down_(n * d),
        gate_bias_(biases ? n : 0),
        up_bias_(biases ? n : 0),
        down_bias_(biases ? d : 0) {}

  // factor[j]: what neuron j's up is to be multiplied with, and its down divided by; 0: a neuron that gives nothing.
  void add(const MoeWeights& weights, int32_t expert, double share, const std::vector<int32_t>& of,
           const std::vector<double>& factor) {
    const std::vector<float> gate = values_of(weights.gate[expert]), up = values_of(weights.up[expert]),
                             down = values_of(weights.down[expert]);
    for (int64_t i = 0; i < n_; ++i) {
      const int64_t j = of[static_cast<size_t>(i)];
      const double f = factor[static_cast<size_t>(j)];
      for (int64_t c = 0; c < d_; ++c) {
        gate_[i * d_ + c] += share * gate[j * d_ + c];
        up_[i * d_ + c] += share * f * up[j * d_ + c];
        if (f != 0) down_[c * n_ + i] += share / f * down[c * n_ + j];
      }
      if (gate_bias_.empty()) continue;
      gate_bias_[i] += share * weights.gate_bias[expert].data[j];
      up_bias_[i] += share * f * weights.up_bias[expert].data[j];
    }
    for (size_t c = 0; c < down_bias_.size(); ++c) down_bias_[c] += share * weights.down_bias[expert].data[c];
  }

  StoredExpert stored(const std::function<DType(Role)>& dtype) const {
    StoredExpert out;
    out.gate = stored_matrix(gate_, n_, d_, dtype(Role::expert_gate), out.owners);
    out.up = stored_matrix(up_, n_, d_, dtype(Role::expert_up), out.owners);
    out.down = stored_matrix(down_, d_, n_, dtype(Role::expert_down), out.owners);
    if (gate_bias_.empty()) return out;
    out.gate_bias = stored_vector(gate_bias_, dtype(Role::expert_gate_bias), out.owners);
    out.up_bias = stored_vector(up_bias_, dtype(Role::expert_up_bias), out.owners);
    out.down_bias = stored_vector(down_bias_, dtype(Role::expert_down_bias), out.owners);
    return out;
  }

 private:
  int64_t n_, d_;
  std::vector<double> gate_, up_, down_;  // [n, d], [n, d], [d, n]
  std::vector<double> gate_bias_, up_bias_, down_bias_;
};

StoredExpert merge_group(const Model& model, const MoeWeights& weights, int32_t layer, const MergeGroup& group,
                         Backend& backend, const ApplyOptions& options) {
  const int32_t leader = group.experts.front();
  const Neurons first = read_neurons(weights, leader, model.activation);
  GroupMean mean(first.n, weights.gate[leader].cols, !weights.gate_bias.empty());
  for (size_t m = 0; m < group.experts.size(); ++m) {
    std::vector<int32_t> of(static_cast<size_t>(first.n));
    std::vector<double> factor(of.size(), 1);
    if (m == 0) {
      std::iota(of.begin(), of.end(), 0);
      for (size_t i = 0; i < of.size(); ++i) factor[i] = first.scales && first.up_length[i] == 0 ? 0 : 1;
    } else {
      const Neurons other = read_neurons(weights, group.experts[m], model.activation);
      const Alignment alignment = align(first, other, backend);
      of = alignment.of;
      // To the scale of the one that stays; a dead neuron of it has none, and one of the other gives nothing.
      for (size_t i = 0; i < of.size() && first.scales; ++i) {
        const double now = first.up_length[i] > 0 ? first.up_length[i] : 1, was = other.up_length[of[i]];
        factor[of[i]] = was > 0 ? alignment.sign[i] * now / was : 0;
      }
    }
    mean.add(weights, group.experts[m], group.weights[m], of, factor);
  }
  return mean.stored([&](Role role) { return options.stored_dtype({role, layer, leader}); });
}

struct Task {
  const LayerPlan* layer = nullptr;
  const MergeGroup* group = nullptr;
};

void put(ChangedModel& changed, const Task& task, const StoredExpert& merged) {
  const std::vector<int32_t>& experts = task.group->experts;
  put_expert(changed, task.layer->layer, experts.front(), merged);
  for (const int32_t e : experts)
    if (e != experts.front()) share_expert(changed, task.layer->layer, e, experts.front());
}

}  // namespace

ChangedModel apply_plan(const Model& model, const Weights& weights, const Plan& plan, const ApplyOptions& options) {
  if (!plan.merges) {
    KeptExperts kept;
    for (const LayerPlan& layer : plan.layers) kept.emplace_back(layer.layer, layer.keep);
    return keep_experts(model, weights, kept);
  }
  ChangedModel changed = keep_experts(model, weights, {});
  std::vector<Task> tasks;
  for (const LayerPlan& layer : plan.layers)
    for (const MergeGroup& group : layer.groups) tasks.push_back({&layer, &group});
  const int workers = alignment_workers(model, options.threads);
  std::vector<std::unique_ptr<Backend>> backends;
  for (int i = 0; i < workers; ++i)
    backends.push_back(make_cpu_backend({std::max(1, options.threads / workers), options.isa}));
  ThreadPool pool(workers);
  std::mutex mutex;
  int64_t done = 0;
  pool.parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t i, int thread) {
    const Task& task = tasks[static_cast<size_t>(i)];
    const MoeWeights& moe = std::get<MoeWeights>(weights.layers[task.layer->layer].ffn);
    const StoredExpert merged =
        merge_group(model, moe, task.layer->layer, *task.group, *backends[static_cast<size_t>(thread)], options);
    const std::lock_guard lock(mutex);
    put(changed, task, merged);
    if (options.on_merged) options.on_merged(++done, static_cast<int64_t>(tasks.size()));
  });
  return changed;
}

}  // namespace signalbox::eval
