// Log-probabilities, and how two rows of logits differ.
#include <cmath>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/logit_rows.h"

namespace signalbox::kernels::DEVICE_SPACE {

namespace {

constexpr int log_probs_threads = 512;

// One block per row, in double.
__global__ void __launch_bounds__(log_probs_threads)
    log_probs_kernel(double* out, const float* logits, const int32_t* targets, int64_t stride, int64_t cols,
                     bool wide) {
  SharedMemory memory;
  double* sums = memory.take<double>(warp_size);
  float* tops = memory.take<float>(warp_size);
  const int64_t r = blockIdx.x;
  const float* row = logits + r * stride;
  if (targets[r] < 0) {
    if (threadIdx.x == 0) out[r] = static_cast<double>(__uint_as_float(0x7fc00000u));
    return;
  }
  const int lane = static_cast<int>(threadIdx.x) % warp_size, warp = static_cast<int>(threadIdx.x) / warp_size;
  const int n_warps = static_cast<int>(blockDim.x) / warp_size;
  float top = -INFINITY;
  visit(row, 0, cols, wide, [&](float z, uint32_t) { top = fmaxf(top, z); });
  top = warp_max(top);
  if (lane == 0) tops[warp] = top;
  __syncthreads();
  top = warp_max(lane < n_warps ? tops[lane] : -INFINITY);

  double sum = 0;
  visit(row, 0, cols, wide, [&](float z, uint32_t) { sum += exp(static_cast<double>(z) - static_cast<double>(top)); });
  for (int m = warp_size / 2; m > 0; m /= 2) sum += __shfl_xor_sync(all_lanes, sum, m);
  if (lane == 0) sums[warp] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  sum = 0;
  for (int w = 0; w < n_warps; ++w) sum += sums[w];
  out[r] = static_cast<double>(row[targets[r]]) - (static_cast<double>(top) + log(sum));
}

// The largest of all threads of the block; scratch [32] in shared memory.
__device__ inline uint64_t block_largest(uint64_t x, uint64_t* scratch) {
  for (int m = warp_size / 2; m > 0; m /= 2) {
    const uint64_t other = __shfl_xor_sync(all_lanes, x, m);
    if (other > x) x = other;
  }
  const int lane = static_cast<int>(threadIdx.x) % warp_size, warp = static_cast<int>(threadIdx.x) / warp_size;
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  x = lane < static_cast<int>(blockDim.x) / warp_size ? scratch[lane] : 0;
  for (int m = warp_size / 2; m > 0; m /= 2) {
    const uint64_t other = __shfl_xor_sync(all_lanes, x, m);
    if (other > x) x = other;
  }
  return x;
}

// The sum over all threads of the block, in an order that depends on its size alone; scratch [32] in shared memory.
__device__ inline double block_total(double x, double* scratch) {
  for (int m = warp_size / 2; m > 0; m /= 2) x += __shfl_xor_sync(all_lanes, x, m);
  const int lane = static_cast<int>(threadIdx.x) % warp_size, warp = static_cast<int>(threadIdx.x) / warp_size;
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  x = 0;
  for (int w = 0; w < static_cast<int>(blockDim.x) / warp_size; ++w) x += scratch[w];
  return x;
}

struct RowPlace {
  const float* data;
  int64_t stride;
  bool wide;
};

__device__ inline uint64_t row_best(const float* row, int64_t cols, bool wide, uint64_t* scratch) {
  uint64_t best = 0;
  visit(row, 0, cols, wide, [&](float z, uint32_t id) {
    const uint64_t at = z != z ? has_nan : uint64_t{order_key(z)} << 32 | (0xffffffffu - id);
    if (at > best) best = at;
  });
  return block_largest(best, scratch);
}

// NaN where the row has a NaN, its largest is infinite or it has none that is not -inf.
__device__ inline double row_log_sum(const float* row, int64_t cols, bool wide, uint64_t best, double* scratch) {
  const double top = static_cast<double>(logit_of(static_cast<uint32_t>(best >> 32)));
  double sum = 0;
  visit(row, 0, cols, wide, [&](float z, uint32_t) { sum += exp(static_cast<double>(z) - top); });
  return top + log(block_total(sum, scratch));
}

// One block per row, in double.
__global__ void __launch_bounds__(log_probs_threads)
    compare_logits_kernel(double* divergence, int32_t* same_top, RowPlace logits, RowPlace reference, int64_t cols) {
  SharedMemory memory;
  uint64_t* q_scratch = memory.take<uint64_t>(warp_size);
  uint64_t* p_scratch = memory.take<uint64_t>(warp_size);
  double* q_sums = memory.take<double>(warp_size);
  double* p_sums = memory.take<double>(warp_size);
  double* kl_sums = memory.take<double>(warp_size);
  const int64_t r = blockIdx.x;
  const float* q_row = logits.data + r * logits.stride;
  const float* p_row = reference.data + r * reference.stride;
  const uint64_t q_best = row_best(q_row, cols, logits.wide, q_scratch);
  const uint64_t p_best = row_best(p_row, cols, reference.wide, p_scratch);
  const double log_q = row_log_sum(q_row, cols, logits.wide, q_best, q_sums);
  const double log_p = row_log_sum(p_row, cols, reference.wide, p_best, p_sums);

  double sum = 0;
  for (int64_t i = 4 * int64_t{threadIdx.x}; i < cols; i += 4 * int64_t{blockDim.x}) {
    const int n = in_group(i, cols);
    const Four q = load_four(q_row + i, n, logits.wide), p = load_four(p_row + i, n, reference.wide);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (j >= n) continue;
      const double lp = static_cast<double>(p.v[j]) - log_p, probability = exp(lp);
      if (probability > 0) sum += probability * (lp - (static_cast<double>(q.v[j]) - log_q));
    }
  }
  sum = block_total(sum, kl_sums);
  if (threadIdx.x != 0) return;
  const bool numbers = log_p == log_p && log_q == log_q;
  divergence[r] = !numbers ? static_cast<double>(__uint_as_float(0x7fc00000u)) : sum < 0 ? 0 : sum;
  same_top[r] = numbers && static_cast<uint32_t>(q_best) == static_cast<uint32_t>(p_best);
}

}  // namespace

void CudaBackend::log_probs(double* out, Tensor logits, const int32_t* targets) {
  launch("log_probs", log_probs_kernel, dim3(static_cast<unsigned>(logits.rows)), log_probs_threads,
         shared_bytes_of<double>(warp_size) + shared_bytes_of<float>(warp_size), stream_, out, logits.data, targets,
         logits.stride, logits.cols, wide_rows(logits));
}

void CudaBackend::compare_logits(double* divergence, int32_t* same_top, Tensor logits, Tensor reference) {
  if (logits.rows == 0) return;
  launch("compare_logits", compare_logits_kernel, dim3(static_cast<unsigned>(logits.rows)), log_probs_threads,
         2 * shared_bytes_of<uint64_t>(warp_size) + 3 * shared_bytes_of<double>(warp_size), stream_, divergence,
         same_top, RowPlace{logits.data, logits.stride, wide_rows(logits)},
         RowPlace{reference.data, reference.stride, wide_rows(reference)}, logits.cols);
}

}  // namespace signalbox::kernels::DEVICE_SPACE
