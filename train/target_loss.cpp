#include "train/target_loss.h"

#include <algorithm>
#include <numeric>

#include "probes/sink.h"

namespace signalbox::train {

namespace {

// A list in memory of the device.
template <class T>
std::shared_ptr<void> uploaded(Backend& backend, std::span<const T> list) {
  std::shared_ptr<void> memory = backend.allocate(std::max<size_t>(1, list.size()) * sizeof(T));
  backend.upload(memory.get(), list.data(), list.size() * sizeof(T));
  return memory;
}

// No point is asked for.
class NoPoints : public ProbeSink {
 public:
  bool wants(Point, int32_t) const override { return false; }
  void begin(const StepRows&) override {}
  void take(Point, int32_t, const float*, int64_t) override {}
  void take_ids(int32_t, const int32_t*, const int32_t*, int64_t) override {}
  void end() override {}
  void abandon() override {}
};

// Sequences of one forward.
struct Group {
  KvPool pool;
  std::vector<SequenceCache> caches;
  Batch batch;
  std::vector<int32_t> targets;  // of the rows of logits

  Group(Backend& backend, const Model& model, std::span<const Example* const> examples)
      : pool(backend, model, blocks(examples)) {
    caches.reserve(examples.size());
    for (size_t i = 0; i < examples.size(); ++i) {
      const Example& example = *examples[i];
      caches.emplace_back(pool);
      batch.append(caches.back(), nullptr, static_cast<int64_t>(i), example.prompt->tokens, {}, example.n_tokens(),
                   example.n_rows());
      targets.insert(targets.end(), example.targets.begin(), example.targets.end());
    }
  }

 private:
  static int64_t blocks(std::span<const Example* const> examples) {
    int64_t n = 0;
    for (const Example* example : examples) n += KvPool::blocks_for(example->n_tokens());
    return n;
  }
};

void for_each_group(std::span<const Example* const> examples, const Groups& groups,
                    const std::function<void(std::span<const Example* const>)>& visit) {
  for (size_t first = 0; first < examples.size();) {
    size_t n = 0;
    int64_t tokens = 0;
    while (first + n < examples.size() && static_cast<int64_t>(n) < groups.sequences &&
           (n == 0 || tokens + examples[first + n]->n_tokens() <= groups.tokens))
      tokens += examples[first + n++]->n_tokens();
    visit(examples.subspan(first, n));
    first += n;
  }
}

// Adds each example's sum, from the rows of a group.
void add_sums(std::vector<double>& sums, std::span<const Example* const> group, std::span<const double> rows) {
  size_t row = 0;
  for (const Example* example : group) {
    const auto n = static_cast<size_t>(example->n_rows());
    sums.push_back(
        std::accumulate(rows.begin() + static_cast<int64_t>(row), rows.begin() + static_cast<int64_t>(row + n), 0.0));
    row += n;
  }
}

int64_t tokens_of(std::span<const Example* const> group) {
  int64_t n = 0;
  for (const Example* example : group) n += example->n_tokens();
  return n;
}

}  // namespace

std::vector<double> target_losses(Backend& backend, Tensor logits, std::span<const int32_t> targets) {
  std::vector<double> losses(targets.size());
  const auto of_rows = uploaded(backend, std::span<const double>(losses));
  const auto on_device = uploaded(backend, targets);
  backend.log_probs(static_cast<double*>(of_rows.get()), logits, static_cast<const int32_t*>(on_device.get()));
  backend.download(losses.data(), of_rows.get(), losses.size() * sizeof(double));
  for (size_t i = 0; i < losses.size(); ++i) losses[i] = targets[i] < 0 ? 0 : -losses[i];
  return losses;
}

void target_losses_adjoint(Backend& backend, Tensor d_logits, Tensor logits, std::span<const int32_t> targets,
                           double denominator) {
  std::vector<float> factors;
  for (const int32_t target : targets) factors.push_back(target < 0 ? 0.f : static_cast<float>(-1 / denominator));
  const auto of_rows = uploaded(backend, std::span<const float>(factors));
  const auto on_device = uploaded(backend, targets);
  backend.log_probs_adjoint(d_logits, logits, static_cast<const int32_t*>(on_device.get()),
                            static_cast<const float*>(of_rows.get()), false);
}

std::vector<double> losses_of(Forward& forward, std::span<const Example* const> examples, const Groups& groups,
                              const std::function<void(int64_t)>& done) {
  std::vector<double> sums;
  for_each_group(examples, groups, [&](std::span<const Example* const> group) {
    Group run(forward.backend(), forward.model(), group);
    const Outputs outputs = forward.run(run.batch, nullptr);
    add_sums(sums, group, target_losses(forward.backend(), outputs.logits, run.targets));
    if (done) done(tokens_of(group));
  });
  return sums;
}

std::vector<double> losses_and_slopes(Gradient& gradient, std::span<const Example* const> examples,
                                      const Groups& groups, double denominator, WeightSlopes& slopes,
                                      const std::function<void(int64_t)>& done) {
  std::vector<double> sums;
  Backend& backend = gradient.forward().backend();
  NoPoints points;
  for_each_group(examples, groups, [&](std::span<const Example* const> group) {
    Group run(backend, gradient.forward().model(), group);
    gradient.run(
        run.batch, nullptr, points,
        [&](Tensor logits, Tensor d_logits) {
          add_sums(sums, group, target_losses(backend, logits, run.targets));
          target_losses_adjoint(backend, d_logits, logits, run.targets, denominator);
        },
        &slopes);
    if (done) done(tokens_of(group));
  });
  return sums;
}

}  // namespace signalbox::train
