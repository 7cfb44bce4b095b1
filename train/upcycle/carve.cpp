#include "train/upcycle/carve.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "engine/matrix_values.h"
#include "train/upcycle/clusters.h"

namespace signalbox::train {

namespace {

constexpr int64_t chunk = 1024;  // tokens at once; changes bits of sums, so no setting

// The size of a router's spread on the calibration tokens: small enough that all weights are 1 / routed within about a
// thousandth, large enough that their order survives the rounding of a softmax.
constexpr double largest_spread = 1e-3;
constexpr double largest_scale = 0x1p-8;

Matrix view(const std::vector<float>& values, int64_t rows, int64_t cols) {
  return {values.data(), DType::f32, rows, cols, cols, nullptr, 0};
}

class Block {
 public:
  Block(const Session& session, const FfnInputs& inputs, int64_t layer, ThreadPool& pool)
      : session_(session),
        backend_(*session.backend),
        inputs_(inputs),
        layer_(layer),
        pool_(pool),
        weights_(std::get<DenseWeights>(session.weights.layers[static_cast<size_t>(layer)].ffn)),
        d_(session.model.d_model),
        n_(weights_.gate.rows),
        down_(static_cast<size_t>(d_ * n_)) {
    read_matrix(down_.data(), weights_.down);
  }

  int64_t d_model() const { return d_; }
  int64_t d_ff() const { return n_; }
  int64_t n_tokens() const { return inputs_.n_tokens(); }
  const std::vector<float>& down() const { return down_; }  // [d, n]

  // Tokens first .. first + n, n <= chunk: what the block reads [n, d], its neurons [n, d_ff], its outputs [n, d].
  void read(int64_t first, int64_t n) {
    x.resize(static_cast<size_t>(n * d_));
    h.resize(static_cast<size_t>(n * n_));
    inputs_.read(layer_, first, n, x.data());
    backend_.gated_hidden(Tensor(h.data(), n, n_), Tensor(x.data(), n, d_), weights_.gate, weights_.up,
                          session_.model.activation);
    backend_.synchronize();
  }
  void answer(int64_t n) { product(y, h, n, n_, view(down_, d_, n_)); }
  template <class F>
  void for_each_chunk(F&& f) {
    for (int64_t first = 0; first < n_tokens(); first += chunk) {
      const int64_t n = std::min(chunk, n_tokens() - first);
      read(first, n);
      f(first, n);
    }
  }

  // out [n, w.rows] = a [n, k] w^T
  void product(std::vector<float>& out, const std::vector<float>& a, int64_t n, int64_t k, const Matrix& w) {
    out.resize(static_cast<size_t>(n * w.rows));
    backend_.matmul(Tensor(out.data(), n, w.rows), Tensor(const_cast<float*>(a.data()), n, k), w, {});
    backend_.synchronize();
  }

  // Columns of down, [d, neurons].
  std::vector<float> down_of(std::span<const int32_t> neurons) const {
    std::vector<float> out(neurons.size() * static_cast<size_t>(d_));
    for (int64_t r = 0; r < d_; ++r)
      for (size_t i = 0; i < neurons.size(); ++i)
        out[static_cast<size_t>(r) * neurons.size() + i] = down_[static_cast<size_t>(r * n_ + neurons[i])];
    return out;
  }

  // Of the chunk at hand: sizes [n, parts] of what the parts of `count` neurons each add.
  void part_sizes(std::span<const int32_t> neurons, int64_t count, int64_t n, std::vector<float>& sizes) {
    const int64_t parts = static_cast<int64_t>(neurons.size()) / count;
    sizes.resize(static_cast<size_t>(n * parts));
    std::vector<float> part(static_cast<size_t>(n * count)), out;
    for (int64_t e = 0; e < parts; ++e) {
      const auto mine = neurons.subspan(static_cast<size_t>(e * count), static_cast<size_t>(count));
      pool_.parallel_for(n, [&](int64_t t, int) {
        for (int64_t i = 0; i < count; ++i)
          part[static_cast<size_t>(t * count + i)] = h[static_cast<size_t>(t * n_ + mine[static_cast<size_t>(i)])];
      });
      const std::vector<float> columns = down_of(mine);
      product(out, part, n, count, view(columns, d_, count));
      pool_.parallel_for(n, [&](int64_t t, int) {
        double sum = 0;
        for (int64_t c = 0; c < d_; ++c) {
          const auto value = static_cast<double>(out[static_cast<size_t>(t * d_ + c)]);
          sum += value * value;
        }
        sizes[static_cast<size_t>(t * parts + e)] = static_cast<float>(std::sqrt(sum));
      });
    }
  }

  // Adds n tokens to a fit: a [n, width], answers [n, outputs]. Products of a chunk in f32, their sum in double: ten
  // times as fast as all in double, and far below what the ridge lets through.
  void add(Refit& fit, const std::vector<float>& a, const std::vector<float>& answers, int64_t n) {
    const auto width = static_cast<int64_t>(a.size()) / n, outputs = static_cast<int64_t>(answers.size()) / n;
    const std::vector<float> a_turned = turned(a, n, width), y_turned = turned(answers, n, outputs);
    product(aa_, a_turned, width, n, view(a_turned, width, n));
    product(ya_, y_turned, outputs, n, view(a_turned, width, n));
    double squares = 0;
    for (const float value : answers) squares += static_cast<double>(value) * static_cast<double>(value);
    fit.add_sums(aa_, ya_, squares, n);
  }

  std::vector<float> x, h, y;

 private:
  std::vector<float> turned(const std::vector<float>& matrix, int64_t rows, int64_t cols) const {
    std::vector<float> out(matrix.size());
    pool_.parallel_for((cols + 15) / 16, [&](int64_t task, int) {
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = task * 16; c < std::min(cols, task * 16 + 16); ++c)
          out[static_cast<size_t>(c * rows + r)] = matrix[static_cast<size_t>(r * cols + c)];
    });
    return out;
  }

  const Session& session_;
  Backend& backend_;
  const FfnInputs& inputs_;
  int64_t layer_;
  ThreadPool& pool_;
  const DenseWeights& weights_;
  int64_t d_, n_;
  std::vector<float> down_, aa_, ya_;
};

// |d_i| of every neuron.
std::vector<double> column_lengths(const Block& block) {
  std::vector<double> squares(static_cast<size_t>(block.d_ff()));
  for (int64_t r = 0; r < block.d_model(); ++r)
    for (size_t i = 0; i < squares.size(); ++i) {
      const auto value = static_cast<double>(block.down()[static_cast<size_t>(r * block.d_ff()) + i]);
      squares[i] += value * value;
    }
  for (double& value : squares) value = std::sqrt(value);
  return squares;
}

// In how many tokens each neuron's score is among the top tenth.
std::vector<int64_t> top_counts(Block& block, const std::vector<double>& lengths, ThreadPool& pool) {
  const int64_t n = block.d_ff(), top = std::max<int64_t>(1, n / 10);
  std::vector<uint8_t> high;
  std::vector<int64_t> counts(static_cast<size_t>(n));
  block.for_each_chunk([&](int64_t, int64_t tokens) {
    high.assign(static_cast<size_t>(tokens * n), 0);
    pool.parallel_for(tokens, [&](int64_t t, int) {
      std::vector<std::pair<double, int64_t>> scores;
      for (int64_t i = 0; i < n; ++i)
        scores.emplace_back(
            -std::fabs(static_cast<double>(block.h[static_cast<size_t>(t * n + i)])) * lengths[static_cast<size_t>(i)],
            i);
      std::nth_element(scores.begin(), scores.begin() + top - 1, scores.end());
      for (int64_t i = 0; i < top; ++i) high[static_cast<size_t>(t * n + scores[static_cast<size_t>(i)].second)] = 1;
    });
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t i = 0; i < n; ++i) counts[static_cast<size_t>(i)] += high[static_cast<size_t>(t * n + i)];
  });
  return counts;
}

// Inner products of the centred unit vectors of the scores of `neurons` over all tokens. A neuron whose score never
// changes is at right angles to all, itself included.
std::vector<double> score_gram(Block& block, const std::vector<int32_t>& neurons, const std::vector<double>& lengths,
                               ThreadPool& pool) {
  const auto n = static_cast<int64_t>(neurons.size());
  std::vector<double> gram(static_cast<size_t>(n * n)), sums(static_cast<size_t>(n));
  std::vector<float> scores, part;
  block.for_each_chunk([&](int64_t, int64_t tokens) {
    scores.assign(static_cast<size_t>(n * tokens), 0);
    pool.parallel_for(n, [&](int64_t i, int) {
      const int32_t neuron = neurons[static_cast<size_t>(i)];
      for (int64_t t = 0; t < tokens; ++t) {
        const double h = std::fabs(static_cast<double>(block.h[static_cast<size_t>(t * block.d_ff() + neuron)]));
        const auto score = static_cast<float>(h * lengths[static_cast<size_t>(neuron)]);
        scores[static_cast<size_t>(i * tokens + t)] = score;
        sums[static_cast<size_t>(i)] += static_cast<double>(score);
      }
    });
    block.product(part, scores, n, tokens, view(scores, n, tokens));
    for (size_t i = 0; i < part.size(); ++i) gram[i] += static_cast<double>(part[i]);
  });
  const auto tokens = static_cast<double>(block.n_tokens());
  std::vector<double> scale(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    const double sum = sums[static_cast<size_t>(i)], square = gram[static_cast<size_t>(i * n + i)];
    const double centred = square - sum * sum / tokens;
    scale[static_cast<size_t>(i)] = centred > 1e-6 * square ? 1 / std::sqrt(centred) : 0;
  }
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) {
      double& value = gram[static_cast<size_t>(i * n + j)];
      value = (value - sums[static_cast<size_t>(i)] * sums[static_cast<size_t>(j)] / tokens) *
              scale[static_cast<size_t>(i)] * scale[static_cast<size_t>(j)];
    }
  return gram;
}

// The routed neurons, each expert's one after the other.
std::vector<int32_t> cluster(const std::vector<int32_t>& neurons, const std::vector<int32_t>& group, int64_t n_groups) {
  std::vector<int32_t> out;
  for (int64_t e = 0; e < n_groups; ++e)
    for (size_t i = 0; i < neurons.size(); ++i)
      if (group[i] == e) out.push_back(neurons[i]);
  return out;
}

// Logits of the chunk at hand, less their mean over the experts.
double spread(const std::vector<float>& logits, int64_t tokens, int64_t n) {
  double squares = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    double mean = 0;
    for (int64_t e = 0; e < n; ++e) mean += static_cast<double>(logits[static_cast<size_t>(t * n + e)]);
    mean /= static_cast<double>(n);
    for (int64_t e = 0; e < n; ++e) {
      const double off = static_cast<double>(logits[static_cast<size_t>(t * n + e)]) - mean;
      squares += off * off;
    }
  }
  return squares;
}

std::vector<float> fit_router(Block& block, std::span<const int32_t> routed, const CarveSettings& settings,
                              ThreadPool& pool) {
  const int64_t n = settings.layout.routed(), d = block.d_model(), count = static_cast<int64_t>(routed.size()) / n;
  Refit regression(d, n, pool);
  std::vector<float> sizes, logits;
  double squares = 0;
  block.for_each_chunk([&](int64_t, int64_t tokens) {
    block.part_sizes(routed, count, tokens, sizes);
    block.add(regression, block.x, sizes, tokens);
    for (const float value : block.x) squares += static_cast<double>(value) * static_cast<double>(value);
  });
  const auto tokens = static_cast<double>(block.n_tokens());
  const double mean_diagonal = squares / static_cast<double>(d);
  const std::vector<float> none(static_cast<size_t>(n * d));
  std::vector<float> router = regression.solve(settings.router_ridge * tokens / mean_diagonal, none);
  double off = 0;
  block.for_each_chunk([&](int64_t, int64_t here) {
    block.product(logits, block.x, here, d, view(router, n, d));
    off += spread(logits, here, n);
  });
  const double deviation = std::sqrt(off / (tokens * static_cast<double>(n)));
  double scale = largest_scale;
  while (deviation * scale > largest_spread) scale /= 2;
  for (float& value : router) value *= static_cast<float>(scale);
  return router;
}

// How much of each expert a token gets, as a multiple of an equal share: 0 for those that the router leaves out, about
// 1 for the others. out [tokens, n].
void shares(const std::vector<float>& logits, int64_t tokens, int64_t n, int64_t active, std::vector<float>& out) {
  out.assign(static_cast<size_t>(tokens * n), 0);
  std::vector<int64_t> order(static_cast<size_t>(n));
  for (int64_t t = 0; t < tokens; ++t) {
    const float* z = logits.data() + t * n;
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return z[a] > z[b]; });
    const float top = z[order.front()];
    double sum = 0;
    for (int64_t e = 0; e < n; ++e) sum += std::exp(static_cast<double>(z[e] - top));
    for (int64_t i = 0; i < active; ++i) {
      const int64_t e = order[static_cast<size_t>(i)];
      out[static_cast<size_t>(t * n + e)] =
          static_cast<float>(static_cast<double>(n) * std::exp(static_cast<double>(z[e] - top)) / sum);
    }
  }
}

void refit_routed(Block& block, CarvedLayer& carved, const CarveSettings& settings, ThreadPool& pool) {
  const int64_t n = block.d_ff(), routed = settings.layout.routed(), count = settings.layout.neurons(n);
  const int64_t first_routed = settings.layout.shared * count;
  Refit refit(n, block.d_model(), pool);
  std::vector<float> logits, share, a;
  block.for_each_chunk([&](int64_t, int64_t tokens) {
    block.answer(tokens);
    block.product(logits, block.x, tokens, block.d_model(), view(carved.router, routed, block.d_model()));
    shares(logits, tokens, routed, settings.layout.active, share);
    a.resize(static_cast<size_t>(tokens * n));
    pool.parallel_for(tokens, [&](int64_t t, int) {
      for (int64_t i = 0; i < n; ++i) {
        const float factor = i < first_routed ? 1 : share[static_cast<size_t>(t * routed + (i - first_routed) / count)];
        a[static_cast<size_t>(t * n + i)] =
            factor == 0 ? 0 : factor * block.h[static_cast<size_t>(t * n + carved.neurons[static_cast<size_t>(i)])];
      }
    });
    block.add(refit, a, block.y, tokens);
  });
  const std::vector<float> before = block.down_of(carved.neurons);
  carved.down = refit.solve(settings.refit_ridge, before);
  carved.error_linear = refit.error(before);
  carved.error_refit = refit.error(carved.down);
}

void refit_static(Block& block, CarvedLayer& carved, const CarveSettings& settings, ThreadPool& pool) {
  const int64_t n = (settings.layout.shared + settings.layout.active) * settings.layout.neurons(block.d_ff());
  const std::vector<int32_t> neurons = static_neurons(carved, n);
  Refit refit(n, block.d_model(), pool);
  std::vector<float> a;
  block.for_each_chunk([&](int64_t, int64_t tokens) {
    block.answer(tokens);
    a.resize(static_cast<size_t>(tokens * n));
    pool.parallel_for(tokens, [&](int64_t t, int) {
      for (int64_t i = 0; i < n; ++i)
        a[static_cast<size_t>(t * n + i)] =
            block.h[static_cast<size_t>(t * block.d_ff() + neurons[static_cast<size_t>(i)])];
    });
    block.add(refit, a, block.y, tokens);
  });
  const std::vector<float> before = block.down_of(neurons);
  carved.static_down = refit.solve(settings.refit_ridge, before);
  carved.error_static = refit.error(before);
  carved.error_static_refit = refit.error(carved.static_down);
}

std::span<const int32_t> routed_neurons(const CarvedLayer& carved, const CarveLayout& layout, int64_t d_ff) {
  return std::span(carved.neurons).subspan(static_cast<size_t>(layout.shared * layout.neurons(d_ff)));
}

}  // namespace

void check_layout(const CarveLayout& layout, int64_t d_ff) {
  if (layout.experts < 1 || d_ff % layout.experts != 0)
    throw Error("--experts", "expected a divisor of the " + std::to_string(d_ff) + " neurons of a block, found " +
                                 std::to_string(layout.experts));
  if (layout.shared < 1 || layout.shared >= layout.experts)
    throw Error("--shared", "expected at least 1 and fewer than the " + std::to_string(layout.experts) +
                                " parts of --experts, found " + std::to_string(layout.shared));
  if (layout.active < 1 || layout.active > layout.routed())
    throw Error("--active", "expected from 1 to " + std::to_string(layout.routed()) +
                                " (the parts that are not shared), found " + std::to_string(layout.active));
}

std::vector<int32_t> static_neurons(const CarvedLayer& layer, int64_t n) {
  std::vector<int32_t> out(layer.ranking.begin(), layer.ranking.begin() + n);
  std::sort(out.begin(), out.end());
  return out;
}

CarvedLayer carve_layer(const Session& session, const FfnInputs& inputs, int64_t layer, const CarveSettings& settings,
                        ThreadPool& pool, const std::function<void()>& step) {
  Block block(session, inputs, layer, pool);
  const CarveLayout& layout = settings.layout;
  const int64_t n_shared = layout.shared * layout.neurons(block.d_ff());
  const std::vector<double> lengths = column_lengths(block);
  const std::vector<int64_t> counts = top_counts(block, lengths, pool);
  CarvedLayer carved;
  carved.ranking.resize(static_cast<size_t>(block.d_ff()));
  std::iota(carved.ranking.begin(), carved.ranking.end(), 0);
  std::stable_sort(carved.ranking.begin(), carved.ranking.end(), [&](int32_t a, int32_t b) {
    return counts[static_cast<size_t>(a)] > counts[static_cast<size_t>(b)];
  });
  carved.neurons.assign(carved.ranking.begin(), carved.ranking.begin() + n_shared);
  std::vector<int32_t> others(carved.ranking.begin() + n_shared, carved.ranking.end());
  std::sort(carved.neurons.begin(), carved.neurons.end());
  std::sort(others.begin(), others.end());
  step();
  const std::vector<double> gram = score_gram(block, others, lengths, pool);
  step();
  // Each layer has draws of its own.
  const uint64_t seed = settings.seed * 0x9e3779b97f4a7c15 + static_cast<uint64_t>(layer);
  const std::vector<int32_t> group =
      balanced_clusters(gram, static_cast<int64_t>(others.size()), layout.routed(), seed, pool);
  const std::vector<int32_t> routed = cluster(others, group, layout.routed());
  carved.neurons.insert(carved.neurons.end(), routed.begin(), routed.end());
  step();
  carved.router = fit_router(block, routed, settings, pool);
  step();
  refit_routed(block, carved, settings, pool);
  step();
  refit_static(block, carved, settings, pool);
  return carved;
}

std::vector<int32_t> best_route(const Session& session, const FfnInputs& inputs, int64_t layer,
                                const CarvedLayer& carved, const CarveLayout& layout, ThreadPool& pool) {
  Block block(session, inputs, layer, pool);
  const int64_t n = layout.routed(), active = layout.active;
  std::vector<int32_t> out(static_cast<size_t>(block.n_tokens() * active));
  std::vector<float> sizes;
  block.for_each_chunk([&](int64_t first, int64_t tokens) {
    block.part_sizes(routed_neurons(carved, layout, block.d_ff()), layout.neurons(block.d_ff()), tokens, sizes);
    pool.parallel_for(tokens, [&](int64_t t, int) {
      std::vector<int32_t> order(static_cast<size_t>(n));
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
        return sizes[static_cast<size_t>(t * n + a)] > sizes[static_cast<size_t>(t * n + b)];
      });
      std::sort(order.begin(), order.begin() + active);
      std::copy(order.begin(), order.begin() + active, out.begin() + (first + t) * active);
    });
  });
  return out;
}

}  // namespace signalbox::train
