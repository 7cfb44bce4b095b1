// Gradients of weights, of adapters and of attention patterns: against PyTorch's autograd
// (tests/goldens/weight_goldens.py), against central differences of the product, and what must hold exactly: bits that
// depend on the sequences and their order alone.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>

#include "base/safetensors.h"
#include "engine/device_weights.h"
#include "engine/gradient.h"
#include "kernels/weight_adjoint.h"
#include "loaders/families/family.h"
#include "loaders/model/load.h"
#include "tests/memory_sink.h"
#include "tests/support.h"

namespace {

using namespace signalbox;
using namespace signalbox::tools;
namespace fs = std::filesystem;

const fs::path goldens = test::goldens_dir();
constexpr int64_t n_target = 6;

// Sums of everything, or of what is named.
class KeptSums : public WeightSlopes {
 public:
  KeptSums(const Model& model, Weights& weights) {
    for_each_tensor(model, weights, [&](const TensorPlace& place) { add(place.id, place.rows, place.cols); });
    if (model.tied_embeddings) add({Role::lm_head, -1, -1}, model.n_vocab, model.d_model);
  }
  struct Sum {
    TensorId id;
    int64_t rows = 0, cols = 0;
    std::vector<float> values;
    Tensor view() { return Tensor(values.data(), rows, cols); }
  };
  struct OfAdapter {
    std::vector<float> a, b, d_a, d_b;
    Adapter adapter;
  };
  Tensor sum(const TensorId& id) override {
    const auto found = sums.find(weight_name(id));
    return found == sums.end() ? Tensor() : found->second.view();
  }
  const Adapter* adapter(const TensorId& id) override {
    const auto found = adapters.find(weight_name(id));
    return found == adapters.end() ? nullptr : &found->second.adapter;
  }
  Tensor sum_of_a(const TensorId& id) override {
    OfAdapter& of = adapters.at(weight_name(id));
    return Tensor(of.d_a.data(), of.adapter.a.rows, of.adapter.a.cols);
  }
  Tensor sum_of_b(const TensorId& id) override {
    OfAdapter& of = adapters.at(weight_name(id));
    return Tensor(of.d_b.data(), of.adapter.b.rows, of.adapter.b.cols);
  }
  void adapt(const std::string& name, int64_t rank) {
    const Sum& of = sums.at(name);
    OfAdapter& made = adapters[name];
    for (int64_t i = 0; i < rank * of.cols; ++i) made.a.push_back(std::sin(0.7f * static_cast<float>(i + 1)));
    for (int64_t i = 0; i < rank * of.rows; ++i) made.b.push_back(std::cos(0.9f * static_cast<float>(i + 1)));
    made.d_a.resize(made.a.size());
    made.d_b.resize(made.b.size());
    made.adapter = {
        {made.a.data(), DType::f32, rank, of.cols, of.cols}, {made.b.data(), DType::f32, of.rows, rank, rank}, 0.5f};
  }
  std::map<std::string, Sum> sums;
  std::map<std::string, OfAdapter> adapters;

 private:
  void add(const TensorId& id, int64_t rows, int64_t cols) {
    sums[weight_name(id)] = {id, rows, cols, std::vector<float>(static_cast<size_t>(rows * cols), 0.f)};
  }
};

struct Learner {
  LoadedModel loaded;
  std::unique_ptr<Backend> backend;
  Weights weights;
  explicit Learner(const std::string& name, const CpuOptions& options = {})
      : loaded(load_model((goldens / name / "model").string())),
        backend(make_cpu_backend(options)),
        weights(upload_weights(*backend, loaded.model, loaded.weights, {})) {}

  // Adds the gradients of the sum of log p of the last tokens of each sequence, `at_once` sequences a run.
  void run(const std::vector<std::vector<int32_t>>& texts, WeightSlopes& sums, size_t at_once) {
    test::MemorySink slopes(PointSet::parse("embed", probe_shape(loaded.model)));
    run(texts, &sums, slopes, at_once);
  }
  void run(const std::vector<std::vector<int32_t>>& texts, WeightSlopes* sums, ProbeSink& slopes, size_t at_once) {
    Gradient gradient(*backend, loaded.model, weights, 0);
    for (size_t begin = 0; begin < texts.size(); begin += at_once) {
      KvPool pool(*backend, loaded.model, 64);
      Batch batch;
      std::vector<int32_t> targets;
      std::vector<SequenceCache> caches;
      caches.reserve(at_once);
      for (size_t i = begin; i < std::min(texts.size(), begin + at_once); ++i) {
        caches.emplace_back(pool);
        const int64_t n = static_cast<int64_t>(texts[i].size()), rows = std::min(n, n_target + 1);
        batch.append(caches.back(), nullptr, static_cast<int64_t>(i), texts[i], {}, n, rows);
        for (int64_t t = n - rows; t < n; ++t) targets.push_back(t + 1 < n ? texts[i][static_cast<size_t>(t + 1)] : -1);
      }
      const std::vector<float> factors(targets.size(), 1.f);
      gradient.run(
          batch, nullptr, slopes,
          [&](Tensor logits, Tensor d_logits) {
            backend->log_probs_adjoint(d_logits, logits, targets.data(), factors.data(), false);
          },
          sums);
    }
  }
};

json::Value listed(const safetensors::File& file, const char* key) { return json::parse(file.metadata().at(key), key); }

std::vector<int32_t> tokens_of(const safetensors::File& file) {
  const json::Value tokens = listed(file, "tokens");
  std::vector<int32_t> ids;
  for (const json::Value& id : tokens.items()) ids.push_back(static_cast<int32_t>(id.integer()));
  return ids;
}

// Norm and three projections, as the goldens have them.
std::vector<double> numbers_of(const std::vector<float>& g, int64_t rows, int64_t cols) {
  std::vector<double> found(4, 0.0);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) {
      const double x = static_cast<double>(g[static_cast<size_t>(i * cols + j)]);
      found[0] += x * x;
      for (int p = 0; p < 3; ++p)
        found[static_cast<size_t>(p) + 1] += x * std::cos(0.37 * static_cast<double>(i + 1) * (p + 1)) *
                                             std::cos(0.53 * static_cast<double>(j + 1) * (p + 1));
    }
  found[0] = std::sqrt(found[0]);
  return found;
}

}  // namespace

TEST_CASE("gradient: that of every weight of every family equals autograd's") {
  for (const std::string name : {"deepseek_v2_full", "deepseek_v2_lite", "gpt_oss", "mixtral", "mixtral_window_f16",
                                 "olmoe", "qwen2_moe", "qwen2_moe_step_bf16", "qwen3_moe"}) {
    CAPTURE(name);
    const auto file = safetensors::File::open(goldens / name / "weight_gradients.safetensors");
    std::map<std::string, std::vector<double>> want;
    const json::Value names = listed(*file, "names");
    const auto& info = file->at("numbers");
    for (size_t i = 0; i < names.items().size(); ++i) {
      std::vector<double>& to = want[names.items()[i].string()];
      to.resize(4);
      std::memcpy(to.data(), file->data(info) + i * 32, 32);
    }
    Learner learner(name);
    KeptSums sums(learner.loaded.model, learner.loaded.weights);
    learner.run({tokens_of(*file)}, sums, 1);
    const json::Value config = json::parse_file(goldens / name / "model/config.json");
    const auto* family = loaders::families::find_family(learner.loaded.family);
    REQUIRE(family);
    std::set<std::string> compared;
    if (learner.loaded.model.tied_embeddings) {
      auto& embed = sums.sums.at("embed").values;
      for (size_t i = 0; i < embed.size(); ++i) embed[i] += sums.sums.at("lm_head").values[i];
      sums.sums.erase("lm_head");
    }
    for (auto& entry : sums.sums) {
      const std::string& tensor = entry.first;
      KeptSums::Sum& sum = entry.second;
      std::vector<std::string> known = {tensor};
      for (const auto& source : loaders::families::sources(*family, sum.id)) known.push_back(source.name);
      const auto found = std::find_if(known.begin(), known.end(), [&](const auto& one) { return want.contains(one); });
      CAPTURE(tensor);
      if (sum.id.role == Role::selection_bias) continue;
      REQUIRE(found != known.end());
      const std::vector<double>& expected = want.at(*found);
      const std::vector<double> got = numbers_of(sum.values, sum.rows, sum.cols);
      // A projection is of vectors of about sqrt(rows cols) / 2.
      const double room = 1e-4 * (expected[0] + 1e-9), wide = std::sqrt(static_cast<double>(sum.rows * sum.cols));
      CHECK(std::fabs(got[0] - expected[0]) <= room);
      for (size_t p = 1; p < 4; ++p) CHECK(std::fabs(got[p] - expected[p]) <= room * wide);
      compared.insert(*found);
    }
    for (const auto& one : want) CHECK_MESSAGE((compared.contains(one.first) || one.second[0] == 0), one.first);
    CHECK(compared.size() > 30);
  }
}

TEST_CASE("gradient: that of every attention pattern equals autograd's, whatever shares the batch") {
  for (const std::string name : {"deepseek_v2_full", "gpt_oss", "mixtral_window_f16", "olmoe", "qwen3_moe"}) {
    CAPTURE(name);
    const auto file = safetensors::File::open(goldens / name / "weight_gradients.safetensors");
    const std::vector<int32_t> ids = tokens_of(*file);
    Learner learner(name);
    const auto& info = file->at("pattern");
    const int64_t n_layers = info.shape[0], n = info.shape[1], n_heads = info.shape[2];
    std::vector<double> want(static_cast<size_t>(info.elements()));
    std::memcpy(want.data(), file->data(info), want.size() * sizeof(double));
    std::vector<int32_t> longer = ids;
    longer.insert(longer.end(), ids.begin(), ids.end());
    for (const bool alone : {true, false}) {
      test::MemorySink slopes(PointSet::parse("*.attn.pattern", probe_shape(learner.loaded.model)));
      learner.run(alone ? std::vector<std::vector<int32_t>>{ids} : std::vector<std::vector<int32_t>>{ids, longer},
                  nullptr, slopes, 2);
      double largest = 0;
      for (const double x : want) largest = std::max(largest, std::fabs(x));
      for (int64_t l = 0; l < n_layers; ++l) {
        const auto& got = slopes.samples[0].at(point_name(Point::attn_pattern, static_cast<int32_t>(l))).data;
        REQUIRE(static_cast<int64_t>(got.size()) == n_heads * n * (n + 1) / 2);
        size_t at = 0;  // [n_heads, t + 1] for row t
        for (int64_t i = 0; i < n * n_heads; ++i) {
          double sum = 0;
          for (int64_t j = 0; j <= i / n_heads; ++j)
            sum += static_cast<double>(got[at++]) * std::cos(0.53 * static_cast<double>(j + 1));
          REQUIRE(std::fabs(sum - want[static_cast<size_t>(l * n * n_heads + i)]) <= 1e-4 * largest);
        }
      }
    }
  }
}

TEST_CASE("gradient: that of an adapter is its matrix' seen through it") {
  for (const std::string name : {"olmoe", "deepseek_v2_full", "gpt_oss"}) {
    CAPTURE(name);
    const auto file = safetensors::File::open(goldens / name / "weight_gradients.safetensors");
    Learner learner(name);
    KeptSums sums(learner.loaded.model, learner.loaded.weights);
    const int32_t layer = learner.loaded.model.moe_layers().back();
    for (const auto& [tensor, sum] : sums.sums)
      if (sum.id.layer == layer && sum.rows > 1 && sum.id.role != Role::kv_b) sums.adapt(tensor, 3);
    sums.adapt("lm_head", 2);
    learner.run({tokens_of(*file)}, sums, 1);
    CHECK(sums.adapters.size() > 10);
    size_t nonzero = 0;
    for (const auto& adapted : sums.adapters) {
      const std::string& tensor = adapted.first;
      const KeptSums::OfAdapter& of = adapted.second;
      CAPTURE(tensor);
      const KeptSums::Sum& sum = sums.sums.at(tensor);
      const int64_t rank = of.adapter.a.rows;
      double size = 1e-9;  // d_a = s b^T g, d_b = s g a^T
      for (const float x : sum.values) size = std::max(size, static_cast<double>(std::fabs(x)));
      nonzero += size > 1e-9;
      for (int64_t r = 0; r < rank; ++r) {
        for (int64_t c = 0; c < sum.cols; ++c) {
          double want = 0;
          for (int64_t n = 0; n < sum.rows; ++n)
            want += 0.5 * static_cast<double>(of.b[static_cast<size_t>(n * rank + r)]) *
                    static_cast<double>(sum.values[static_cast<size_t>(n * sum.cols + c)]);
          REQUIRE(std::fabs(static_cast<double>(of.d_a[static_cast<size_t>(r * sum.cols + c)]) - want) <=
                  1e-5 * size * static_cast<double>(sum.rows));
        }
        for (int64_t n = 0; n < sum.rows; ++n) {
          double want = 0;
          for (int64_t c = 0; c < sum.cols; ++c)
            want += 0.5 * static_cast<double>(of.a[static_cast<size_t>(r * sum.cols + c)]) *
                    static_cast<double>(sum.values[static_cast<size_t>(n * sum.cols + c)]);
          REQUIRE(std::fabs(static_cast<double>(of.d_b[static_cast<size_t>(n * rank + r)]) - want) <=
                  1e-5 * size * static_cast<double>(sum.cols));
        }
      }
    }
    CHECK(nonzero > 5);
  }
}

TEST_CASE("gradient: bits of weights depend on neither threads, instruction set nor what shares a run") {
  for (const std::string name : {"deepseek_v2_full", "gpt_oss", "qwen2_moe"}) {
    CAPTURE(name);
    const auto file = safetensors::File::open(goldens / name / "weight_gradients.safetensors");
    const std::vector<int32_t> ids = tokens_of(*file);
    std::vector<int32_t> longer = ids;  // more positions than partial sums
    longer.insert(longer.end(), ids.rbegin(), ids.rend());
    const std::vector<std::vector<int32_t>> texts = {longer, {ids.rbegin(), ids.rend() - 5}, ids};
    const auto bits = [&](const CpuOptions& options, size_t at_once) {
      Learner learner(name, options);
      KeptSums sums(learner.loaded.model, learner.loaded.weights);
      learner.run(texts, sums, at_once);
      std::vector<float> all;
      for (const auto& [tensor, sum] : sums.sums) all.insert(all.end(), sum.values.begin(), sum.values.end());
      return all;
    };
    const std::vector<float> want = bits({1, "auto"}, 1);
    for (const auto& [options, at_once] :
         {std::pair(CpuOptions{3, "auto"}, size_t{1}), std::pair(CpuOptions{1, "scalar"}, size_t{2}),
          std::pair(CpuOptions{2, "auto"}, size_t{3})}) {
      const std::vector<float> got = bits(options, at_once);
      REQUIRE(got.size() == want.size());
      CHECK(std::memcmp(got.data(), want.data(), got.size() * sizeof(float)) == 0);
    }
  }
}

TEST_CASE("gradient: a sum over tokens is the product turned round") {
  // <d_out, x dW^T> = <d_W, dW> for any dW, of rows in any order of several sequences.
  const auto backend = make_cpu_backend({2, "auto"});
  WeightAdjointOps& ops = weight_adjoints(*backend);
  const int64_t n_rows = 70, n = 19, k = 300;
  const auto value = [](int64_t i, double step) {
    return static_cast<float>(std::sin(step * static_cast<double>(i + 1)));
  };
  std::vector<float> d_out, x, change, sum(static_cast<size_t>(n * k), 0.25f);
  for (int64_t i = 0; i < n_rows * n; ++i) d_out.push_back(value(i, 0.31));
  for (int64_t i = 0; i < n_rows * k; ++i) x.push_back(value(i, 0.17));
  for (int64_t i = 0; i < n * k; ++i) change.push_back(value(i, 0.23));
  std::vector<int32_t> sequences, positions, of_out, of_x;
  for (int32_t i = 0; i < 60; ++i) {
    sequences.push_back(i / 35);
    positions.push_back(i % 35);
    of_out.push_back(i * 7 % 70);
    of_x.push_back(69 - i);
  }
  ops.outer_sum(Tensor(sum.data(), n, k), Tensor(d_out.data(), n_rows, n), Tensor(x.data(), n_rows, k),
                {sequences, positions, of_out, of_x});
  double left = 0, right = 0;
  for (size_t row = 0; row < 60; ++row)
    for (int64_t i = 0; i < n; ++i)
      for (int64_t c = 0; c < k; ++c)
        left += static_cast<double>(d_out[static_cast<size_t>(of_out[row] * n + i)]) *
                static_cast<double>(x[static_cast<size_t>(of_x[row] * k + c)]) *
                static_cast<double>(change[static_cast<size_t>(i * k + c)]);
  for (size_t i = 0; i < sum.size(); ++i)
    right += (static_cast<double>(sum[i]) - 0.25) * static_cast<double>(change[i]);
  CHECK(right == doctest::Approx(left).epsilon(1e-4));
}
