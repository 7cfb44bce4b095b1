// What a gradient costs: time in forwards over the same tokens, and memory.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "base/memory.h"
#include "engine/gradient.h"
#include "tools/bench/model_bench.h"
#include "tools/bench/random_model.h"
#include "tools/bench/timer.h"

namespace signalbox::tools {

namespace {

class NoPoints : public ProbeSink {
 public:
  bool wants(Point, int32_t) const override { return false; }
  void begin(const StepRows&) override {}
  void take(Point, int32_t, const float*, int64_t) override {}
  void take_ids(int32_t, const int32_t*, const int32_t*, int64_t) override {}
  void end() override {}
};

// Sums for every weight that is not quantised, in one block of memory for all of a shape: what they hold is not looked
// at.
class EveryWeight : public WeightSlopes {
 public:
  explicit EveryWeight(const Session& session) {
    Weights views = session.weights;
    for_each_tensor(session.model, views, [&](const TensorPlace& place) {
      if (place.matrix && place.matrix->dtype == DType::mxfp4) return;
      bytes += place.rows * place.cols * static_cast<int64_t>(sizeof(float));
      places_[weight_name(place.id)] = {place.rows, place.cols};
    });
  }
  void allocate(Backend& backend) {
    for (auto& [name, sum] : places_) {
      const size_t size = static_cast<size_t>(sum.rows * sum.cols) * sizeof(float);
      sum.memory = backend.allocate(size);
      backend.fill(sum.memory.get(), 0, size);
    }
  }
  Tensor sum(const TensorId& id) override {
    const auto found = places_.find(weight_name(id));
    if (found == places_.end()) return {};
    return Tensor(static_cast<float*>(found->second.memory.get()), found->second.rows, found->second.cols);
  }
  int64_t bytes = 0;

 private:
  struct Sum {
    int64_t rows = 0, cols = 0;
    std::shared_ptr<void> memory = nullptr;
  };
  std::map<std::string, Sum> places_;
};

}  // namespace

json::Value ModelBench::gradient(int64_t n_tokens) {
  const Model& model = session_.model;
  Backend& backend = *session_.backend;
  std::vector<int32_t> tokens, targets;
  for (int64_t t = 0; t < n_tokens; ++t) tokens.push_back(static_cast<int32_t>((17 + 31 * t) % model.n_vocab));
  for (int64_t t = 0; t < n_tokens; ++t) targets.push_back(t + 1 < n_tokens ? tokens[static_cast<size_t>(t + 1)] : -1);
  const std::vector<float> factors(targets.size(), 1.f);
  const auto seconds = [&](const std::function<void(const Batch&)>& run) {
    double least = INFINITY;
    repeat([&] {
      KvPool pool(backend, model, KvPool::blocks_for(n_tokens));
      SequenceCache sequence(pool);
      Batch batch;
      batch.append(sequence, nullptr, 0, tokens, {}, n_tokens, n_tokens);
      const double start = now();
      run(batch);
      backend.synchronize();
      least = std::min(least, now() - start);
    });
    return least;
  };
  Forward forward = session_.forward(0);
  const double of_forward = seconds([&](const Batch& batch) { forward.run(batch, nullptr); });
  Gradient gradient(backend, model, session_.weights, 0);
  NoPoints nothing;
  EveryWeight weights(session_);
  const auto back = [&](WeightSlopes* sums) {
    return seconds([&](const Batch& batch) {
      gradient.run(
          batch, nullptr, nothing,
          [&](Tensor logits, Tensor d_logits) {
            backend.log_probs_adjoint(d_logits, logits, targets.data(), factors.data(), false);
          },
          sums);
    });
  };
  const double of_gradient = back(nullptr);
  json::Value line = json::Value::object();
  line.set("tokens", n_tokens)
      .set("forward_seconds", of_forward)
      .set("seconds", of_gradient)
      .set("forwards", of_gradient / of_forward)
      .set("activation_bytes", static_cast<int64_t>(gradient.bytes()))
      .set("weight_bytes", weights.bytes);
  const bool fits = weights.bytes < available_memory() / 2;
  if (fits) weights.allocate(backend);
  const double with_weights = fits ? back(&weights) : 0;
  line.set("seconds_with_weights", fits ? json::Value(with_weights) : json::Value());
  return line.set("forwards_with_weights", fits ? json::Value(with_weights / of_forward) : json::Value());
}

std::string gradient_text(const json::Value& line) {
  const auto number = [&](const char* key) { return line.find(key)->real(); };
  char weights[64] = "", text[256];
  if (!line.find("forwards_with_weights")->is_null())
    std::snprintf(weights, sizeof weights, ", %.1f with those of all weights", number("forwards_with_weights"));
  std::snprintf(
      text, sizeof text,
      "\ngradient over %ld tokens: %.1f forwards%s; %.1f MB of activations, %.1f MB for sums of all weights\n",
      static_cast<long>(line.find("tokens")->integer()), number("forwards"), weights, number("activation_bytes") * 1e-6,
      number("weight_bytes") * 1e-6);
  return text;
}

}  // namespace signalbox::tools
