// Sums over tokens for weights. A task is a range of the output's rows and a block of its columns: the 16 partial sums
// of a row's block lie in the first cache while the rows of a sequence pass.
#include "kernels/weight_adjoint.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu/cpu_backend.h"

namespace signalbox::kernels::cpu {

namespace {

constexpr int64_t n_partial = 16, block_columns = 256;

// Row i of a list that may be left out.
int64_t row_at(std::span<const int32_t> rows, int64_t i) { return rows.empty() ? i : rows[static_cast<size_t>(i)]; }

}  // namespace

void CpuBackend::outer_sum(Tensor d_w, Tensor d_out, Tensor x, const SummedRows& rows) {
  const int64_t n = rows.n();
  if (n == 0) return;
  std::vector<int64_t> starts;  // of the sequences, and the end
  for (int64_t i = 0; i < n; ++i)
    if (i == 0 || rows.sequences[static_cast<size_t>(i)] != rows.sequences[static_cast<size_t>(i - 1)])
      starts.push_back(i);
  starts.push_back(n);
  const int64_t n_blocks = (d_w.cols + block_columns - 1) / block_columns;
  for_ranges(d_w.rows * n_blocks, 2 * n * std::min(d_w.cols, block_columns), [&](int64_t first, int64_t last, int) {
    std::vector<float> memory(static_cast<size_t>(n_partial * block_columns));
    const auto partial = [&](int64_t p) { return memory.data() + p * block_columns; };
    for (int64_t task = first; task < last; ++task) {
      const int64_t out = task / n_blocks, column = task % n_blocks * block_columns,
                    width = std::min(block_columns, d_w.cols - column);
      for (size_t s = 0; s + 1 < starts.size(); ++s) {
        std::fill(memory.begin(), memory.end(), 0.f);
        for (int64_t i = starts[s]; i < starts[s + 1]; ++i) {
          const float slope = d_out.row(row_at(rows.out_rows, i))[out];
          if (slope == 0) continue;  // adds nothing, and of a route most rows are
          kernels_.accumulate(partial(rows.positions[static_cast<size_t>(i)] % n_partial),
                              x.row(row_at(rows.x_rows, i)) + column, slope, width);
        }
        for (int64_t step = 1; step < n_partial; step *= 2)
          for (int64_t p = 0; p < n_partial; p += 2 * step)
            kernels_.add(partial(p), partial(p), partial(p + step), width);
        kernels_.add(d_w.row(out) + column, d_w.row(out) + column, partial(0), width);
      }
    }
  });
}

void CpuBackend::scatter_sum(Tensor d_table, Tensor d_out, std::span<const int32_t> ids) {
  for (size_t i = 0; i < ids.size(); ++i) {
    float* to = d_table.row(ids[i]);
    kernels_.add(to, to, d_out.row(static_cast<int64_t>(i)), d_out.cols);
  }
}

void CpuBackend::norm_slopes(Tensor out, Tensor d_out, Tensor x, float eps) {
  for_ranges(x.rows, 3 * x.cols, [&](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; ++r) {
      double squares = 0;
      for (int64_t i = 0; i < x.cols; ++i)
        squares += static_cast<double>(x.row(r)[i]) * static_cast<double>(x.row(r)[i]);
      const double inverse = 1 / std::sqrt(squares / static_cast<double>(x.cols) + static_cast<double>(eps));
      for (int64_t i = 0; i < x.cols; ++i)
        out.row(r)[i] =
            static_cast<float>(static_cast<double>(d_out.row(r)[i]) * static_cast<double>(x.row(r)[i]) * inverse);
    }
  });
}

void CpuBackend::sink_slopes(Tensor d_sinks, Tensor d_out, Tensor q, const KvCache& cache, const BatchView& batch,
                             const AttentionParams& params) {
  const int64_t group = params.n_heads / params.n_kv_heads;
  // The rows of a sequence's earlier positions are those of the tokens before it: a sequence is whole in the batch.
  for_ranges(batch.n_tokens, params.n_heads * (params.d_key + params.d_value) * batch.n_tokens,
             [&](int64_t from, int64_t to, int) {
               std::vector<float> scores;
               for (int64_t t = from; t < to; ++t) {
                 const int64_t position = batch.positions[t],
                               first = params.window > 0 ? std::max<int64_t>(0, position - params.window + 1) : 0,
                               count = position + 1 - first;
                 for (int64_t h = 0; h < params.n_heads; ++h) {
                   const int64_t g = h / group;
                   const float* query = q.row(t) + h * params.d_key;
                   const float* slope = d_out.row(t) + h * params.d_value;
                   scores.resize(static_cast<size_t>(count));
                   std::vector<double> alongs(static_cast<size_t>(count));
                   for (int64_t j = 0; j < count; ++j) {
                     const int64_t row = batch.kv_rows[t - position + first + j];
                     const float* key =
                         static_cast<const float*>(cache.keys) + row * cache.key_stride + g * params.d_key;
                     const float* value =
                         static_cast<const float*>(cache.values) + row * cache.value_stride + g * params.d_value;
                     double dot = 0, along = 0;
                     for (int64_t c = 0; c < params.d_key; ++c)
                       dot += static_cast<double>(query[c]) * static_cast<double>(key[c]);
                     for (int64_t c = 0; c < params.d_value; ++c)
                       along += static_cast<double>(slope[c]) * static_cast<double>(value[c]);
                     scores[static_cast<size_t>(j)] = static_cast<float>(dot * static_cast<double>(params.scale));
                     alongs[static_cast<size_t>(j)] = along;
                   }
                   const double sink = static_cast<double>(params.sinks[h]);
                   double top = sink;
                   for (const float z : scores) top = std::max(top, static_cast<double>(z));
                   double mass = std::exp(sink - top), sum = 0;
                   const double of_sink = mass;
                   for (size_t j = 0; j < scores.size(); ++j) {
                     const double p = std::exp(static_cast<double>(scores[j]) - top);
                     mass += p;
                     sum += p * alongs[j];
                   }
                   d_sinks.row(t)[h] = static_cast<float>(-of_sink / mass * (sum / mass));
                 }
               }
             });
}

void CpuBackend::pattern_slopes(Tensor d_pattern, Tensor d_out, const KvCache& cache, const BatchView& batch,
                                const AttentionParams& params) {
  const int64_t group = params.n_heads / params.n_kv_heads, n_keys = d_pattern.cols / params.n_heads;
  for_ranges(batch.n_tokens, params.n_heads * params.d_value * n_keys, [&](int64_t from, int64_t to, int) {
    std::vector<const float*> values;
    for (int64_t t = from; t < to; ++t) {
      std::fill_n(d_pattern.row(t), d_pattern.cols, 0.f);
      const int64_t position = batch.positions[t],
                    first = params.window > 0 ? std::max<int64_t>(0, position - params.window + 1) : 0;
      for (int64_t h = 0; h < params.n_heads; ++h) {
        values.clear();
        for (int64_t j = first; j <= position; ++j)
          values.push_back(static_cast<const float*>(cache.values) +
                           batch.kv_rows[t - position + j] * cache.value_stride + h / group * params.d_value);
        kernels_.attend_scores(d_pattern.row(t) + h * n_keys + first, d_out.row(t) + h * params.d_value, values.data(),
                               position + 1 - first, params.d_value, 1.f);
      }
    }
  });
}

}  // namespace signalbox::kernels::cpu
