// The adjoint of attention. Queries are taken in blocks of neighbouring tokens of one sequence, in ascending order; a
// block's softmax p and its gradient s are made anew, and then
//   d_q_i = scale sum_j s_ij k_j,  d_k_j += scale sum_h sum_i s_ij q_i,  d_v_j += sum_h sum_i p_ij d_out_i
// with s_ij = p_ij (d_out_i . v_j - sum_j p_ij d_out_i . v_j); heads of one key head in order, then queries. A task of
// the sums over queries is a range of keys, so the order of additions depends on positions alone.
#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "kernels/cpu/cpu_backend.h"

namespace signalbox::kernels::cpu {

namespace {

constexpr int64_t query_block = 32;
constexpr int64_t key_range = 64;

// A sequence of the batch: tokens [first, first + n), positions 0 .. n - 1.
struct Whole {
  int64_t first, n;
};

std::vector<Whole> whole_sequences(const BatchView& batch) {
  std::vector<Whole> found;
  for (int64_t t = 0; t < batch.n_tokens; ++t) {
    if (batch.positions[t] == 0) {
      found.push_back({t, 0});
    } else if (found.empty() || batch.positions[t] != batch.positions[t - 1] + 1 ||
               batch.sequences[t] != batch.sequences[t - 1]) {
      throw Error("gradient", "expected every sequence of the batch from its first position on, found position " +
                                  std::to_string(batch.positions[t]) + " without the ones before it");
    }
    ++found.back().n;
  }
  return found;
}

}  // namespace

void CpuBackend::attention_adjoint(Tensor d_q, Tensor d_k, Tensor d_v, Tensor d_out, Tensor q, const KvCache& cache,
                                   const BatchView& batch, const AttentionParams& params) {
  const int64_t group = params.n_heads / params.n_kv_heads, d_key = params.d_key, d_value = params.d_value;
  for (const Tensor& x : {d_q, d_k, d_v}) {
    for (int64_t t = 0; t < x.rows; ++t) std::fill_n(x.row(t), x.cols, 0.f);
  }
  std::vector<const float*> keys, values;  // [n_kv_heads][n] of a sequence
  std::vector<float> shares, slopes;       // [n_heads][query_block][n]: p and s
  for (const Whole& sequence : whole_sequences(batch)) {
    const int64_t n = sequence.n;
    keys.resize(static_cast<size_t>(params.n_kv_heads * n));
    values.resize(keys.size());
    for (int64_t p = 0; p < n; ++p) {
      const int64_t row = batch.kv_rows[sequence.first + p];
      for (int64_t g = 0; g < params.n_kv_heads; ++g) {
        keys[static_cast<size_t>(g * n + p)] =
            static_cast<const float*>(cache.keys) + row * cache.key_stride + g * d_key;
        values[static_cast<size_t>(g * n + p)] =
            static_cast<const float*>(cache.values) + row * cache.value_stride + g * d_value;
      }
    }
    shares.resize(static_cast<size_t>(params.n_heads * query_block * n));
    slopes.resize(shares.size());
    const auto cell = [&](int64_t h, int64_t i) { return static_cast<size_t>((h * query_block + i) * n); };
    for (int64_t begin = 0; begin < n; begin += query_block) {
      const int64_t n_queries = std::min(query_block, n - begin), n_keys = begin + n_queries;
      const auto first_key = [&](int64_t position) {
        return params.window > 0 ? std::max<int64_t>(0, position - params.window + 1) : 0;
      };
      // p, s and d_q of each head and query.
      for_ranges(params.n_heads * n_queries, n_keys * 3 * (d_key + d_value), [&](int64_t from, int64_t to, int) {
        for (int64_t task = from; task < to; ++task) {
          const int64_t h = task / n_queries, i = task % n_queries, position = begin + i, t = sequence.first + position;
          const int64_t first = first_key(position), count = position + 1 - first;
          const auto at = static_cast<size_t>(h / group * n + first);
          float* p = shares.data() + cell(h, i) + first;
          float* s = slopes.data() + cell(h, i) + first;
          kernels_.attend_scores(p, q.row(t) + h * d_key, keys.data() + at, count, d_key, params.scale);
          float top = *std::max_element(p, p + count);
          if (params.sinks) top = std::max(top, params.sinks[h]);
          for (int64_t j = 0; j < count; ++j) p[j] -= top;
          kernels_.exp(p, p, count);
          double mass = params.sinks ? std::exp(static_cast<double>(params.sinks[h] - top)) : 0;
          for (int64_t j = 0; j < count; ++j) mass += static_cast<double>(p[j]);
          kernels_.scale(p, p, static_cast<float>(1 / mass), count);
          const float* slope = d_out.row(t) + h * d_value;
          kernels_.attend_scores(s, slope, values.data() + at, count, d_value, 1.f);
          double along = 0;
          for (int64_t j = 0; j < count; ++j) along += static_cast<double>(p[j]) * static_cast<double>(s[j]);
          float* to_q = d_q.row(t) + h * d_key;
          for (int64_t j = 0; j < count; ++j) {
            s[j] = static_cast<float>(static_cast<double>(p[j]) * (static_cast<double>(s[j]) - along)) * params.scale;
            kernels_.accumulate(to_q, keys[at + static_cast<size_t>(j)], s[j], d_key);
          }
        }
      });
      // What the queries of this block add to the keys and values that they see.
      const int64_t n_ranges = (n_keys + key_range - 1) / key_range;
      for_ranges(params.n_kv_heads * n_ranges, key_range * group * n_queries * (d_key + d_value),
                 [&](int64_t from, int64_t to, int) {
                   for (int64_t task = from; task < to; ++task) {
                     const int64_t g = task / n_ranges, low = task % n_ranges * key_range;
                     for (int64_t j = low; j < std::min(n_keys, low + key_range); ++j) {
                       float* to_k = d_k.row(sequence.first + j) + g * d_key;
                       float* to_v = d_v.row(sequence.first + j) + g * d_value;
                       for (int64_t h = g * group; h < (g + 1) * group; ++h) {
                         for (int64_t i = std::max<int64_t>(0, j - begin); i < n_queries; ++i) {
                           if (first_key(begin + i) > j) break;
                           const int64_t t = sequence.first + begin + i;
                           const auto at = cell(h, i) + static_cast<size_t>(j);
                           kernels_.accumulate(to_k, q.row(t) + h * d_key, slopes[at], d_key);
                           kernels_.accumulate(to_v, d_out.row(t) + h * d_value, shares[at], d_value);
                         }
                       }
                     }
                   }
                 });
    }
  }
}

}  // namespace signalbox::kernels::cpu
