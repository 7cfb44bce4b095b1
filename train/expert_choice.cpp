#include "train/expert_choice.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "eval/data/dice.h"
#include "probes/activation_store.h"

namespace signalbox::train {

std::vector<LayerScores> expert_scores(Forward& forward, std::span<const Example* const> samples, const Groups& groups,
                                       const std::function<void(int64_t tokens)>& done) {
  const Model& model = forward.model();
  const ModelShape shape = probe_shape(model);
  const std::vector<int32_t> layers = model.moe_layers();
  std::vector<LayerScores> scores;
  for (const int32_t l : layers) {
    const auto n = static_cast<size_t>(model.layers[static_cast<size_t>(l)].moe()->router.n_experts);
    scores.push_back({l, std::vector<double>(n), std::vector<double>(n)});
  }
  const auto n_samples = static_cast<double>(samples.size());
  for_each_group(samples, groups, [&](std::span<const Example* const> group) {
    ActivationStore routes("routes", shape, PointSet::parse("*.router.ids,*.router.weights", shape));
    SequenceGroup run(forward.backend(), model, group);
    forward.run(run.batch, &routes);
    forward.flush(routes);
    std::vector<std::string> ids;
    for (const Example* example : group) ids.push_back(example->prompt->id);
    routes.finish(ids);
    for (size_t s = 0; s < group.size(); ++s) {
      const auto rows = routes.rows(static_cast<int64_t>(s));
      const std::vector<int32_t> chosen = routes.ids(rows);
      const std::vector<float> weights = routes.floats("router.weights", rows);
      const auto n_tokens = static_cast<size_t>(group[s]->n_tokens()), slots = static_cast<size_t>(routes.n_slots());
      for (size_t l = 0; l < layers.size(); ++l) {
        const auto k = static_cast<double>(model.layers[static_cast<size_t>(layers[l])].moe()->router.n_active);
        const size_t n = scores[l].gate.size();
        std::vector<double> gate(n), token(n);
        for (size_t t = 0; t < n_tokens; ++t)
          for (size_t i = 0; i < slots; ++i) {
            const size_t at = (t * layers.size() + l) * slots + i;
            if (chosen[at] < 0) continue;
            gate[static_cast<size_t>(chosen[at])] += static_cast<double>(weights[at]);
            token[static_cast<size_t>(chosen[at])] += 1 / k;
          }
        const double each = 1 / (static_cast<double>(n_tokens) * n_samples);
        for (size_t e = 0; e < n; ++e) {
          scores[l].gate[e] += gate[e] * each;
          scores[l].token[e] += token[e] * each;
        }
      }
    }
    if (done) done(tokens_of(group));
  });
  return scores;
}

std::vector<int32_t> choose_experts(std::span<const double> scores, double p) {
  std::vector<int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)];
  });
  std::vector<int32_t> chosen;
  double sum = 0;
  for (const int32_t e : order) {
    if (sum >= p) break;
    chosen.push_back(e);
    sum += scores[static_cast<size_t>(e)];
  }
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

ExpertsByLayer random_experts(const ExpertsByLayer& like, const Model& model, uint64_t seed) {
  ExpertsByLayer drawn;
  for (const auto& [layer, ids] : like) {
    std::vector<int32_t> all(static_cast<size_t>(model.layers[static_cast<size_t>(layer)].moe()->router.n_experts));
    std::iota(all.begin(), all.end(), 0);
    eval::Dice dice(seed, "experts of layer " + std::to_string(layer));
    dice.shuffle(all);
    all.resize(ids.size());
    std::sort(all.begin(), all.end());
    drawn[layer] = std::move(all);
  }
  return drawn;
}

}  // namespace signalbox::train
