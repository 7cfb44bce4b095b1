// The softmax of attention written out: the share of every key, for a block per token and head. Only recording asks for
// it, so it is plain rather than fast.
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/device.h"

namespace signalbox::kernels::DEVICE_SPACE {

namespace {

constexpr int pattern_threads = 128;

struct PatternArgs {
  float* out;      // [n_tokens, n_heads * n_keys]
  const float* q;  // [n_tokens, n_heads * d_key]
  const bf16* keys;
  const int32_t* positions;
  const int32_t* sequences;
  const int32_t* block_tables;
  const float* sinks;  // [n_heads] or null
  int64_t out_stride, q_stride, key_stride, max_blocks, n_keys;
  float scale;
  int group, d_key, window, block_size;
};

// grid: tokens, heads. A warp per key computes scores; every key's place depends on its position alone.
__global__ void __launch_bounds__(pattern_threads) attention_pattern_kernel(PatternArgs a) {
  SharedMemory memory;
  float* scratch = memory.take<float>(warp_size);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % warp_size, warp = thread / warp_size;
  const int n_warps = pattern_threads / warp_size;
  const int64_t t = blockIdx.x;
  const int head = static_cast<int>(blockIdx.y);
  const int last = a.positions[t] + 1, first = a.window > 0 ? max(0, last - a.window) : 0;
  const int32_t* table = a.block_tables + a.sequences[t] * a.max_blocks;
  const float* q = a.q + t * a.q_stride + int64_t{head} * a.d_key;
  const bf16* keys = a.keys + int64_t{head / a.group} * a.d_key;
  float* out = a.out + t * a.out_stride + head * a.n_keys;

  float top = -INFINITY;
  for (int64_t p = warp; p < a.n_keys; p += n_warps) {
    float score = 0;
    if (p >= first && p < last) {
      const bf16* key = keys + (int64_t{table[p / a.block_size]} * a.block_size + p % a.block_size) * a.key_stride;
      // Queries are rounded as attention rounds them.
      for (int d = lane; d < a.d_key; d += warp_size) score = fmaf(to_float(to_bf16(q[d])), to_float(key[d]), score);
      score = warp_sum(score) * a.scale;
      top = fmaxf(top, score);
    }
    if (lane == 0) out[p] = score;
  }
  if (lane == 0) scratch[warp] = top;
  __syncthreads();
  top = warp_max(lane < n_warps ? scratch[lane] : -INFINITY);
  if (a.sinks) top = fmaxf(top, a.sinks[head]);
  __syncthreads();

  float mass = 0;
  for (int64_t p = thread; p < a.n_keys; p += pattern_threads) {
    const float share = p >= first && p < last ? expf(out[p] - top) : 0.f;
    out[p] = share;
    mass += share;
  }
  mass = block_sum(mass, scratch);
  if (a.sinks) mass += expf(a.sinks[head] - top);
  const float inverse = 1.f / mass;
  for (int64_t p = thread; p < a.n_keys; p += pattern_threads) out[p] *= inverse;
}

}  // namespace

void CudaBackend::attention_pattern(Tensor pattern, Tensor q, const KvCache& cache, const BatchView& batch,
                                    const AttentionParams& params) {
  if (batch.n_tokens == 0) return;
  PatternArgs args = {};
  args.out = pattern.data;
  args.q = q.data;
  args.keys = static_cast<const bf16*>(cache.keys);
  args.positions = batch.positions;
  args.sequences = batch.sequences;
  args.block_tables = batch.block_tables;
  args.sinks = params.sinks;
  args.out_stride = pattern.stride;
  args.q_stride = q.stride;
  args.key_stride = cache.key_stride;
  args.max_blocks = batch.max_blocks;
  args.n_keys = pattern.cols / params.n_heads;
  args.scale = params.scale;
  args.group = static_cast<int>(params.n_heads / params.n_kv_heads);
  args.d_key = static_cast<int>(params.d_key);
  args.window = static_cast<int>(params.window);
  args.block_size = static_cast<int>(batch.block_size);
  const dim3 grid(static_cast<unsigned>(batch.n_tokens), static_cast<unsigned>(params.n_heads));
  launch("attention_pattern", attention_pattern_kernel, grid, pattern_threads, shared_bytes_of<float>(warp_size),
         stream_, args);
}

}  // namespace signalbox::kernels::DEVICE_SPACE
