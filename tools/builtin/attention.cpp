// Attention of the training model. A token sees two ranges of its row: its sample's trunk and its own branch up to
// itself. That is about a fifth of the row, so dense products over the row would spend most of the time on masked
// pairs.

#include <cmath>
#include <cstring>
#include <vector>

namespace {

constexpr int D = 48, V = 32, Block = 32;

// out[j] = x . columns[:, j] for j in the blocks that cover [a, b); columns is [N, T], T a multiple of Block.
template <int N>
void dots(const float* __restrict x, const float* __restrict columns, int T, int a, int b, float* __restrict out) {
  for (int j = a / Block * Block; j < b; j += Block) {
    float acc[Block] = {};
    for (int d = 0; d < N; ++d)
      for (int l = 0; l < Block; ++l) acc[l] += x[d] * columns[d * T + j + l];
    std::memcpy(out + j, acc, sizeof acc);
  }
}

template <int N>
void transpose(const float* __restrict x, int T, float* __restrict out) {
  for (int t = 0; t < T; ++t)
    for (int d = 0; d < N; ++d) out[d * T + t] = x[t * N + d];
}

// y[j] += w[j] * x for j in [a, b)
template <int N>
void spread(const float* __restrict w, const float* __restrict x, int a, int b, float* __restrict y) {
  float own[N];
  std::memcpy(own, x, sizeof own);
  for (int j = a; j < b; ++j)
    for (int d = 0; d < N; ++d) y[j * N + d] += w[j] * own[d];
}

}  // namespace

// q, k [B,H,T,48], v and out [B,H,T,32], lse [B,H,T], seen [B,T,4]: begin and end of the trunk, of the branch.
extern "C" void attention_forward(const float* q, const float* k, const float* v, const int* seen, int B, int H, int T,
                                  float scale, float* out, float* lse) {
  std::vector<float> kt(D * T), s0(T), s1(T);
  for (int bh = 0; bh < B * H; ++bh) {
    const float* values = v + bh * T * V;
    transpose<D>(k + bh * T * D, T, kt.data());
    for (int i = 0; i < T; ++i) {
      const int* w = seen + ((bh / H) * T + i) * 4;
      float* s[2] = {s0.data(), s1.data()};
      float top = -1e30f, sum = 0, acc[V] = {};
      for (int r = 0; r < 2; ++r) {
        dots<D>(q + (bh * T + i) * D, kt.data(), T, w[2 * r], w[2 * r + 1], s[r]);
        for (int j = w[2 * r]; j < w[2 * r + 1]; ++j) top = s[r][j] > top ? s[r][j] : top;
      }
      for (int r = 0; r < 2; ++r) {
        for (int j = w[2 * r]; j < w[2 * r + 1]; ++j) s[r][j] = std::exp((s[r][j] - top) * scale);
        for (int j = w[2 * r]; j < w[2 * r + 1]; ++j) {
          sum += s[r][j];
          for (int d = 0; d < V; ++d) acc[d] += s[r][j] * values[j * V + d];
        }
      }
      const float inverse = sum > 0 ? 1 / sum : 0;
      for (int d = 0; d < V; ++d) out[(bh * T + i) * V + d] = acc[d] * inverse;
      lse[bh * T + i] = sum > 0 ? top * scale + std::log(sum) : 0;
    }
  }
}

// Probabilities are made again from lse. gq, gk, gv are overwritten.
extern "C" void attention_backward(const float* q, const float* k, const float* v, const int* seen, const float* lse,
                                   const float* g, int B, int H, int T, float scale, float* gq, float* gk, float* gv) {
  std::vector<float> kt(D * T), vt(V * T), p0(T), p1(T), d0(T), d1(T);
  std::memset(gk, 0, sizeof(float) * B * H * T * D);
  std::memset(gv, 0, sizeof(float) * B * H * T * V);
  for (int bh = 0; bh < B * H; ++bh) {
    const float* keys = k + bh * T * D;
    transpose<D>(keys, T, kt.data());
    transpose<V>(v + bh * T * V, T, vt.data());
    for (int i = 0; i < T; ++i) {
      const int* w = seen + ((bh / H) * T + i) * 4;
      const float *query = q + (bh * T + i) * D, *go = g + (bh * T + i) * V;
      float *p[2] = {p0.data(), p1.data()}, *dp[2] = {d0.data(), d1.data()};
      float delta = 0, acc[D] = {};
      const float l = lse[bh * T + i];
      for (int r = 0; r < 2; ++r) {
        const int a = w[2 * r], b = w[2 * r + 1];
        dots<D>(query, kt.data(), T, a, b, p[r]);
        dots<V>(go, vt.data(), T, a, b, dp[r]);
        for (int j = a; j < b; ++j) p[r][j] = std::exp(p[r][j] * scale - l);
        for (int j = a; j < b; ++j) delta += p[r][j] * dp[r][j];
      }
      for (int r = 0; r < 2; ++r) {
        const int a = w[2 * r], b = w[2 * r + 1];
        for (int j = a; j < b; ++j) dp[r][j] = p[r][j] * (dp[r][j] - delta) * scale;
        for (int j = a; j < b; ++j)
          for (int d = 0; d < D; ++d) acc[d] += dp[r][j] * keys[j * D + d];
        spread<D>(dp[r], query, a, b, gk + bh * T * D);
        spread<V>(p[r], go, a, b, gv + bh * T * V);
      }
      for (int d = 0; d < D; ++d) gq[(bh * T + i) * D + d] = acc[d];
    }
  }
}
