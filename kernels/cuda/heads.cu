// What lies between the projections and attention, in one kernel each: norms, clip, rotation, and the cache.
#include <algorithm>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/rows.h"

namespace signalbox::kernels::DEVICE_SPACE {

namespace {

// Two elements where both exist in one access; else only the first.
__device__ inline void load_two(float (&v)[2], const float* p, bool wide) {
  if (wide) {
    const float2 x = *reinterpret_cast<const float2*>(p);
    v[0] = x.x;
    v[1] = x.y;
  } else {
    v[0] = *p;
    v[1] = 0;
  }
}
__device__ inline void store_two(float* p, const float (&v)[2], bool wide) {
  if (wide) {
    *reinterpret_cast<float2*>(p) = make_float2(v[0], v[1]);
  } else {
    *p = v[0];
  }
}
__device__ inline void store_two(bf16* p, const float (&v)[2], bool wide) {
  if (wide) {
    *reinterpret_cast<uint32_t*>(p) = pack_bf16(v[0], v[1]);
  } else {
    *p = to_bf16(v[0]);
  }
}

// What happens to the dims of one head: norm (weight null: none), clip (0: none), rotation of the first 2 * n_pairs.
struct HeadSteps {
  const float* weight = nullptr;
  float inverse = 1, clip = 0;
  int n_pairs = 0;
  bool adjacent = false;
  const float* cos = nullptr;  // [n_pairs] of the token's position
  const float* sin = nullptr;
};

__device__ inline float prepared(const HeadSteps& s, float x, int dim) {
  if (s.weight) x = x * s.inverse * s.weight[dim];
  if (s.clip > 0) x = clamped(x, s.clip);
  return x;
}

// One warp: to[0 .. d) from from[0 .. d), which may be the same memory. wide: accesses of two elements.
template <class T>
__device__ inline void prepare_head(T* to, const float* from, const HeadSteps& s, int d, bool wide) {
  const int lane = static_cast<int>(threadIdx.x) % warp_size;
  const int step = wide ? 2 : 1;
  float a[2], b[2], cos[2], sin[2];
  if (s.adjacent) {
    for (int i = lane; i < s.n_pairs; i += warp_size) {
      if (wide) {
        load_two(a, from + 2 * i, true);
      } else {
        a[0] = from[2 * i];
        a[1] = from[2 * i + 1];
      }
      for (int j = 0; j < 2; ++j) a[j] = prepared(s, a[j], 2 * i + j);
      rotate(a[0], a[1], s.cos[i], s.sin[i]);
      if (wide) {
        store_two(to + 2 * i, a, true);
      } else {
        to[2 * i] = from_float<T>(a[0]);
        to[2 * i + 1] = from_float<T>(a[1]);
      }
    }
  } else {
    for (int i = lane * step; i < s.n_pairs; i += warp_size * step) {
      load_two(a, from + i, wide);
      load_two(b, from + s.n_pairs + i, wide);
      load_two(cos, s.cos + i, wide);
      load_two(sin, s.sin + i, wide);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        if (j >= step) break;
        a[j] = prepared(s, a[j], i + j);
        b[j] = prepared(s, b[j], s.n_pairs + i + j);
        rotate(a[j], b[j], cos[j], sin[j]);
      }
      store_two(to + i, a, wide);
      store_two(to + s.n_pairs + i, b, wide);
    }
  }
  for (int i = 2 * s.n_pairs + lane * step; i < d; i += warp_size * step) {
    load_two(a, from + i, wide);
#pragma unroll
    for (int j = 0; j < 2; ++j)
      if (j < step) a[j] = prepared(s, a[j], i + j);
    store_two(to + i, a, wide);
  }
}

// A thread's part of the sum of squares of a row; threads as norm_threads says, the others get 0.
__device__ inline float squares_of(const float* row, int64_t n, int thread, bool wide) {
  const int n_threads = norm_threads(n);
  float squares = 0;
  if (thread < n_threads) {
    for (int64_t c = 4 * thread; c < n; c += 4 * n_threads)
      squares = add_squares(squares, load_four(row + c, in_group(c, n), wide));
  }
  return squares;
}
// The same where a warp has to do.
__device__ inline float warp_squares_of(const float* row, int64_t n, bool wide) {
  float squares = 0;
  for (int64_t c = 4 * (static_cast<int>(threadIdx.x) % warp_size); c < n; c += 4 * warp_size)
    squares = add_squares(squares, load_four(row + c, in_group(c, n), wide));
  return warp_sum(squares);
}

enum class HeadNorm : int32_t { none, head, row };

struct HeadsTask {
  float* q;
  const float* k;
  const float* v;
  int64_t q_stride, k_stride, v_stride;
  bf16* keys;
  bf16* values;
  int64_t key_stride, value_stride;
  const float* q_weight;
  const float* k_weight;
  const float* cos;
  const float* sin;
  const int32_t* positions;
  const int32_t* kv_rows;
  int64_t n_tokens;
  int32_t n_heads, n_kv_heads, d_head, n_pairs;
  float eps, clip;
  HeadNorm norm;
  bool adjacent;
  bool wide_four;  // sums of squares
  bool wide_two;
};

// Head h of token t: 0 .. n_heads - 1 are queries, then come keys, then values. One warp.
__device__ inline void finish_head(const HeadsTask& a, int64_t t, int h, float row_inverse) {
  HeadSteps steps;
  steps.clip = a.clip;
  const int part = h < a.n_heads ? 0 : h < a.n_heads + a.n_kv_heads ? 1 : 2;
  if (part == 1) h -= a.n_heads;
  if (part == 2) h -= a.n_heads + a.n_kv_heads;
  const int64_t at = int64_t{h} * a.d_head;
  if (part == 2) {
    prepare_head(a.values + a.kv_rows[t] * a.value_stride + at, a.v + t * a.v_stride + at, steps, a.d_head, a.wide_two);
    return;
  }
  float* q = a.q + t * a.q_stride + at;
  const float* from = part == 0 ? q : a.k + t * a.k_stride + at;
  steps.weight = part == 0 ? a.q_weight : a.k_weight;
  if (a.norm == HeadNorm::head)
    steps.inverse = inverse_root(warp_squares_of(from, a.d_head, a.wide_four), a.d_head, a.eps);
  if (a.norm == HeadNorm::row) {
    steps.inverse = row_inverse;
    steps.weight += at;
  }
  steps.n_pairs = a.n_pairs;
  steps.adjacent = a.adjacent;
  steps.cos = a.cos + int64_t{a.positions[t]} * a.n_pairs;
  steps.sin = a.sin + int64_t{a.positions[t]} * a.n_pairs;
  if (part == 0) {
    prepare_head(q, from, steps, a.d_head, a.wide_two);
  } else {
    prepare_head(a.keys + a.kv_rows[t] * a.key_stride + at, from, steps, a.d_head, a.wide_two);
  }
}

// No norm, or one of each head: one warp per head.
__global__ void heads_kernel(HeadsTask a) {
  const int64_t warp = int64_t{blockIdx.x} * (blockDim.x / warp_size) + threadIdx.x / warp_size;
  const int n = a.n_heads + 2 * a.n_kv_heads;
  if (warp < a.n_tokens * n) finish_head(a, warp / n, static_cast<int>(warp % n), 1);
}

// A norm over all heads of a token: one block per token and part (queries, keys, values).
__global__ void __launch_bounds__(1024, 1) whole_rows_kernel(HeadsTask a) {
  SharedMemory memory;
  float* scratch = memory.take<float>(warp_size);
  const int64_t t = blockIdx.x;
  const int part = static_cast<int>(blockIdx.y);
  float inverse = 1;
  if (part < 2) {
    const int64_t n = int64_t{a.d_head} * (part == 0 ? a.n_heads : a.n_kv_heads);
    const float* row = part == 0 ? a.q + t * a.q_stride : a.k + t * a.k_stride;
    const float squares = squares_of(row, n, static_cast<int>(threadIdx.x), a.wide_four);
    inverse = inverse_root(block_sum(squares, scratch), n, a.eps);
  }
  const int first = part == 0 ? 0 : a.n_heads + (part - 1) * a.n_kv_heads;
  const int n = part == 0 ? a.n_heads : a.n_kv_heads;
  for (int h = static_cast<int>(threadIdx.x) / warp_size; h < n; h += static_cast<int>(blockDim.x) / warp_size)
    finish_head(a, t, first + h, inverse);
}

struct LatentTask {
  float* q;
  const float* kv;
  int64_t q_stride, kv_stride;
  bf16* keys;
  int64_t key_stride;
  const float* weight;
  const float* cos;
  const float* sin;
  const int32_t* positions;
  const int32_t* kv_rows;
  int64_t n_tokens;
  int32_t n_heads, d_query, d_nope, d_latent, d_rest, n_pairs;  // d_query: of one head; d_rest: behind the latent
  float eps;
  bool adjacent, wide_four, wide_two;
};

// A warp a query head, and one for the latent of each token.
__global__ void latent_kernel(LatentTask a) {
  const int64_t warp = int64_t{blockIdx.x} * (blockDim.x / warp_size) + threadIdx.x / warp_size;
  const int n = a.n_heads + 1;
  if (warp >= a.n_tokens * n) return;
  const int64_t t = warp / n;
  const int h = static_cast<int>(warp % n) - 1;
  HeadSteps rotation;
  rotation.n_pairs = a.n_pairs;
  rotation.adjacent = a.adjacent;
  rotation.cos = a.cos + int64_t{a.positions[t]} * a.n_pairs;
  rotation.sin = a.sin + int64_t{a.positions[t]} * a.n_pairs;
  if (h >= 0) {
    float* head = a.q + t * a.q_stride + int64_t{h} * a.d_query + a.d_nope;
    prepare_head(head, head, rotation, 2 * a.n_pairs, a.wide_two);
    return;
  }
  const float* row = a.kv + t * a.kv_stride;
  bf16* to = a.keys + a.kv_rows[t] * a.key_stride;
  HeadSteps norm;
  norm.weight = a.weight;
  norm.inverse = inverse_root(warp_squares_of(row, a.d_latent, a.wide_four), a.d_latent, a.eps);
  prepare_head(to, row, norm, a.d_latent, a.wide_two);
  prepare_head(to + a.d_latent, row + a.d_latent, rotation, a.d_rest, a.wide_two);
}

constexpr int threads_by_head = 128;

dim3 blocks_of_warps(int64_t n_warps) {
  return dim3(static_cast<unsigned>(ceil_div(n_warps, threads_by_head / warp_size)));
}

// Tables whose rows begin at even elements.
bool wide_table(const RopeTable& table) {
  const int64_t n_pairs = table.n_dims / 2;
  return wide_rows(table.cos, n_pairs, 2) && wide_rows(table.sin, n_pairs, 2);
}

}  // namespace

void CudaBackend::prepare_heads(Tensor q, Tensor k, Tensor v, const HeadsArgs& args, const KvCache& cache,
                                const BatchView& batch) {
  HeadsTask task = {};
  task.q = q.data;
  task.k = k.data;
  task.v = v.data;
  task.q_stride = q.stride;
  task.k_stride = k.stride;
  task.v_stride = v.stride;
  task.keys = static_cast<bf16*>(cache.keys);
  task.values = static_cast<bf16*>(cache.values);
  task.key_stride = cache.key_stride;
  task.value_stride = cache.value_stride;
  task.q_weight = args.q_norm.data;
  task.k_weight = args.k_norm.data;
  task.cos = args.rope.cos;
  task.sin = args.rope.sin;
  task.positions = batch.positions;
  task.kv_rows = batch.kv_rows;
  task.n_tokens = q.rows;
  task.n_heads = static_cast<int32_t>(args.n_heads);
  task.n_kv_heads = static_cast<int32_t>(args.n_kv_heads);
  task.d_head = static_cast<int32_t>(args.d_head);
  task.n_pairs = static_cast<int32_t>(args.rope.n_dims / 2);
  task.eps = args.norm_eps;
  task.clip = args.clip;
  task.adjacent = args.rope.adjacent;
  task.norm = !args.q_norm ? HeadNorm::none : args.q_norm.n == args.d_head ? HeadNorm::head : HeadNorm::row;
  task.wide_four = wide_rows(q) && wide_rows(k) && (task.norm == HeadNorm::row || args.d_head % 4 == 0);
  task.wide_two = args.d_head % 2 == 0 && wide_rows(q.data, q.stride, 2) && wide_rows(k.data, k.stride, 2) &&
                  wide_rows(v.data, v.stride, 2) && wide_rows(task.keys, task.key_stride, 2) &&
                  wide_rows(task.values, task.value_stride, 2) &&
                  (task.n_pairs == 0 || args.rope.adjacent || wide_table(args.rope));
  if (task.norm == HeadNorm::row) {
    const int64_t widest = std::max(args.n_heads, args.n_kv_heads) * args.d_head;
    launch("prepare_heads_whole_rows", whole_rows_kernel, dim3(static_cast<unsigned>(q.rows), 3),
           std::max(norm_threads(widest), 128), shared_bytes_of<float>(warp_size), stream_, task);
  } else {
    launch("prepare_heads", heads_kernel, blocks_of_warps(q.rows * (args.n_heads + 2 * args.n_kv_heads)),
           threads_by_head, 0, stream_, task);
  }
}

void CudaBackend::prepare_latent(Tensor q, Tensor kv, const LatentArgs& args, const KvCache& cache,
                                 const BatchView& batch) {
  LatentTask task = {};
  task.q = q.data;
  task.kv = kv.data;
  task.q_stride = q.stride;
  task.kv_stride = kv.stride;
  task.keys = static_cast<bf16*>(cache.keys);
  task.key_stride = cache.key_stride;
  task.weight = args.norm.data;
  task.cos = args.rope.cos;
  task.sin = args.rope.sin;
  task.positions = batch.positions;
  task.kv_rows = batch.kv_rows;
  task.n_tokens = q.rows;
  task.n_heads = static_cast<int32_t>(args.n_heads);
  task.d_query = static_cast<int32_t>(args.n_heads == 0 ? 0 : q.cols / args.n_heads);
  task.d_nope = static_cast<int32_t>(args.d_nope);
  task.d_latent = static_cast<int32_t>(args.d_latent);
  task.d_rest = static_cast<int32_t>(kv.cols - args.d_latent);
  task.n_pairs = static_cast<int32_t>(args.rope.n_dims / 2);
  task.eps = args.norm_eps;
  task.adjacent = args.rope.adjacent;
  task.wide_four = wide_rows(kv);
  task.wide_two = wide_rows(q.data, q.stride, 2) && wide_rows(kv.data, kv.stride, 2) &&
                  wide_rows(task.keys, task.key_stride, 2) && task.d_query % 2 == 0 && task.d_nope % 2 == 0 &&
                  task.d_latent % 2 == 0 && task.d_rest % 2 == 0 && (args.rope.adjacent || wide_table(args.rope));
  launch("prepare_latent", latent_kernel, blocks_of_warps(q.rows * (args.n_heads + 1)), threads_by_head, 0, stream_,
         task);
}

}  // namespace signalbox::kernels::DEVICE_SPACE
