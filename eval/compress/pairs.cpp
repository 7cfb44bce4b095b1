#include "eval/compress/pairs.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <numeric>

#include "base/csv.h"
#include "base/files.h"
#include "base/thread_pool.h"
#include "eval/compress/expert_outputs.h"
#include "eval/compress/neurons.h"
#include "kernels/backend.h"

namespace signalbox::eval {

namespace {

// Adds the cosines of all pairs' outputs on `n` tokens. out [n * n_experts, d]: rows of one token stand together.
void add_cosines(std::vector<float>& out, int64_t n, int32_t n_experts, int64_t d, Backend& backend,
                 std::vector<double>& sums, std::vector<int64_t>& counts) {
  std::vector<float> products(static_cast<size_t>(n_experts) * n_experts);
  std::vector<uint8_t> zero(static_cast<size_t>(n_experts));
  for (int64_t t = 0; t < n; ++t) {
    float* rows = out.data() + t * n_experts * d;
    for (int32_t e = 0; e < n_experts; ++e) {
      float* row = rows + e * d;
      double square = 0;
      for (int64_t c = 0; c < d; ++c) square += static_cast<double>(row[c]) * row[c];
      zero[e] = square == 0;
      const double factor = square > 0 ? 1 / std::sqrt(square) : 0;
      for (int64_t c = 0; c < d; ++c) row[c] = static_cast<float>(row[c] * factor);
    }
    backend.matmul(Tensor(products.data(), n_experts, n_experts), Tensor(rows, n_experts, d),
                   Matrix{rows, DType::f32, n_experts, d, d, nullptr, 0}, {});
    for (int32_t a = 0; a < n_experts; ++a)
      for (int32_t b = 0; b < n_experts; ++b)
        if (!zero[a] && !zero[b]) {
          const size_t at = static_cast<size_t>(a) * n_experts + b;
          sums[at] += std::clamp(static_cast<double>(products[at]), -1.0, 1.0);
          ++counts[at];
        }
  }
}

// All experts on the sampled inputs, some tokens at a time.
void compare_outputs(const Model& model, const MoeWeights& weights, const LayerMeasures& measures, int64_t n_sampled,
                     LayerPairs& pairs, Backend& backend) {
  const Moe& moe = *model.layers[measures.layer].moe();
  const int64_t d = model.d_model, n_experts = moe.router.n_experts;
  constexpr int64_t most_floats = int64_t{1} << 26;
  const int64_t step =
      std::clamp<int64_t>(most_floats / (n_experts * (d + moe.d_ff)), 1, std::max<int64_t>(n_sampled, 1));
  std::vector<int32_t> every(static_cast<size_t>(n_experts));
  std::iota(every.begin(), every.end(), 0);
  ExpertOutputs outputs(backend, model, weights);
  std::vector<double> sums(static_cast<size_t>(n_experts * n_experts));
  std::vector<int64_t> counts(sums.size());
  for (int64_t first = 0; first < n_sampled; first += step) {
    const int64_t n = std::min(step, n_sampled - first);
    add_cosines(outputs.of(measures.inputs.data() + first * d, n, every), n, static_cast<int32_t>(n_experts), d,
                backend, sums, counts);
  }
  for (size_t i = 0; i < sums.size(); ++i)
    if (counts[i] > 0) pairs.output[i] = sums[i] / static_cast<double>(counts[i]);
}

// The pairs whose weights are to be compared.
std::vector<std::pair<int32_t, int32_t>> chosen_pairs(const LayerPairs& pairs, int64_t limit) {
  std::vector<std::pair<int32_t, int32_t>> all;
  for (int32_t a = 0; a < pairs.n_experts; ++a)
    for (int32_t b = a + 1; b < pairs.n_experts; ++b) all.emplace_back(a, b);
  if (limit < static_cast<int64_t>(all.size())) {
    std::stable_sort(all.begin(), all.end(), [&](const auto& x, const auto& y) {
      return pairs.use_score(x.first, x.second) > pairs.use_score(y.first, y.second);
    });
    all.resize(static_cast<size_t>(limit));
    std::sort(all.begin(), all.end());
  }
  return all;
}

}  // namespace

double LayerPairs::use_score(int32_t a, int32_t b) const {
  const double out = at(output, a, b);
  if (!has_outputs) return at(overlap, a, b);
  return (at(overlap, a, b) + (std::isnan(out) ? 0 : out)) / 2;
}

double LayerPairs::merge_score(int32_t a, int32_t b) const {
  const double out = at(output, a, b), sum = at(weight, a, b) + at(overlap, a, b);
  if (!has_outputs) return sum / 2;
  return (sum + (std::isnan(out) ? 0 : out)) / 3;
}

int64_t compared_pairs(const Model& model, const PairOptions& options) {
  if (options.per_layer >= 0) return options.per_layer;
  double one = 0;
  for (const Layer& layer : model.layers)
    if (const Moe* moe = layer.moe()) one += align_products(moe->d_ff, model.d_model);
  return std::max<int64_t>(1, static_cast<int64_t>(std::min(options.products / std::max(one, 1.0), 1e15)));
}

std::vector<LayerPairs> measure_pairs(const Model& model, const Weights& weights,
                                      const std::vector<LayerMeasures>& measures, int64_t n_sampled,
                                      const PairOptions& options) {
  std::vector<LayerPairs> layers;
  const auto backend = make_cpu_backend({options.threads, options.isa});
  int64_t done = 0, total = 0;
  for (const LayerMeasures& measured : measures) total += measured.n_experts;
  for (const LayerMeasures& measured : measures) {
    LayerPairs& pairs = layers.emplace_back();
    pairs.layer = measured.layer;
    pairs.n_experts = measured.n_experts;
    const auto n = static_cast<size_t>(pairs.n_experts) * static_cast<size_t>(pairs.n_experts);
    pairs.weight.assign(n, no_number);
    pairs.output.assign(n, no_number);
    for (int32_t a = 0; a < pairs.n_experts; ++a)
      for (int32_t b = 0; b < pairs.n_experts; ++b) pairs.overlap.push_back(measured.overlap(a, b));
    pairs.has_outputs = n_sampled > 0;
    if (pairs.has_outputs)
      compare_outputs(model, std::get<MoeWeights>(weights.layers[measured.layer].ffn), measured, n_sampled, pairs,
                      *backend);
    done += measured.n_experts;
    if (options.on_outputs) options.on_outputs(done, total);
  }

  struct Task {
    LayerPairs* pairs = nullptr;
    int32_t a = 0, b = 0;
  };
  std::vector<Task> tasks;
  const int64_t limit = compared_pairs(model, options);
  for (LayerPairs& pairs : layers)
    for (const auto& pair : chosen_pairs(pairs, limit)) tasks.push_back({&pairs, pair.first, pair.second});
  const int workers = alignment_workers(model, options.threads);
  std::vector<std::unique_ptr<Backend>> backends;
  for (int i = 0; i < workers; ++i)
    backends.push_back(make_cpu_backend({std::max(1, options.threads / workers), options.isa}));
  ThreadPool pool(workers);
  std::mutex mutex;
  int64_t aligned = 0;
  pool.parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t i, int thread) {
    const Task& task = tasks[static_cast<size_t>(i)];
    const MoeWeights& moe = std::get<MoeWeights>(weights.layers[task.pairs->layer].ffn);
    const double similarity = align(read_neurons(moe, task.a, model.activation),
                                    read_neurons(moe, task.b, model.activation), *backends[static_cast<size_t>(thread)])
                                  .similarity;
    const size_t n = static_cast<size_t>(task.pairs->n_experts);
    task.pairs->weight[static_cast<size_t>(task.a) * n + static_cast<size_t>(task.b)] = similarity;
    task.pairs->weight[static_cast<size_t>(task.b) * n + static_cast<size_t>(task.a)] = similarity;
    const std::lock_guard lock(mutex);
    if (options.on_weights) options.on_weights(++aligned, static_cast<int64_t>(tasks.size()));
  });
  return layers;
}

void write_pairs_csv(const std::filesystem::path& file, const std::vector<LayerPairs>& layers) {
  AtomicFile out(file);
  const auto header = {
      "layer", "expert_a", "expert_b", "weight_similarity", "activation_overlap", "output_similarity", "merge_score"};
  const CsvWriter empty(std::vector<std::string_view>(header.begin(), header.end()));
  out.write(empty.text());
  for (const LayerPairs& pairs : layers) {
    // A layer at a time: there may be millions of pairs.
    CsvWriter csv(std::vector<std::string_view>(header.begin(), header.end()));
    for (int32_t a = 0; a < pairs.n_experts; ++a)
      for (int32_t b = a + 1; b < pairs.n_experts; ++b) {
        csv.cell(int64_t{pairs.layer}).cell(int64_t{a}).cell(int64_t{b});
        csv.cell(pairs.at(pairs.weight, a, b)).cell(pairs.at(pairs.overlap, a, b));
        csv.cell(pairs.at(pairs.output, a, b)).cell(pairs.merge_score(a, b));
        csv.end_row();
      }
    out.write(std::string_view(csv.text()).substr(empty.text().size()));
  }
  out.commit();
}

}  // namespace signalbox::eval
