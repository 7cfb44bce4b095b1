// The router: logits and routes. For few tokens one launch does both: the last block that finishes logits of a tile of
// tokens routes it. For many tokens a tiled product comes first, then one warp per token.
//
// logits, scores, weights and margin in f32, what decides an id as on the CPU (router_token.h). Edits are a kernel of
// their own: a batch without programs never tests for them.
#include <algorithm>
#include <type_traits>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/router_edits.h"
#include "kernels/cuda/router_logits.h"
#include "kernels/cuda/router_token.h"

namespace signalbox::kernels::DEVICE_SPACE {

namespace {

constexpr size_t shared_limit = 96 << 10;        // of a block
constexpr size_t comfortable_shared = 32 << 10;  // beyond this a block has fewer warps
constexpr int64_t few_tokens = 128;              // no more than this: one launch
constexpr int route_warps = 8;

// ---- a token

template <bool edited>
__device__ void route_token(const RouteArgs& args, int64_t t, unsigned char* memory) {
  const Router& router = args.router;
  const Route& out = args.out;
  const int lane = lane_index(), n_experts = router.n_experts, k = router.n_active;
  const TokenMemory m = token_memory<edited>(memory, args);
  uint8_t* banned = at_row(out.banned, t, n_experts);

  // A logit may be -inf (its expert has score 0), but not all of them, and none NaN or +inf.
  int bad = 0, any = 0;
  for (int e = lane; e < n_experts; e += warp_size) {
    const float z = args.logits[t * args.logits_stride + e];
    m.logits[e] = z;
    bad |= !(z < infinity);
    any |= z > -infinity;
    if (banned) banned[e] = 0;
  }
  if (out.shared_scale && lane == 0) out.shared_scale[t] = 1;
  if (__any_sync(all_lanes, bad) || !__any_sync(all_lanes, any)) {
    write_route(args, t, {nullptr, nullptr, 0, nullptr, 0, 0.f, 0.f, nullptr, m.logits});
    report_fault(out.faults, args.batch, RouteFault::Kind::not_finite, t, -1, -1);
    return;
  }
  const float group_margin = score_experts(m.scores, m.values, reinterpret_cast<float*>(m.keys), router, m.logits,
                                           args.selection_bias, nullptr, edited ? m.dropped : nullptr);
  fill_keys(m.keys, m.values, nullptr, n_experts);
  rank_keys(m.original_ids, m.keys, n_experts, k + 1);
  const bool grouped = router.n_groups > 1 && router.n_groups_kept < router.n_groups;
  const float margin = route_margin(m, router, !args.selection_bias && !grouped);
  weigh_experts(m.original_weights, router, m.scores, m.logits, m.original_ids, k);
  TokenRoute route = {m.original_ids, m.original_weights, k,        m.original_ids, k,
                      margin,         group_margin,       m.values, m.logits};

  if constexpr (edited) {
    const RouteBatch& batch = args.batch;
    const int sequence = batch.sequences ? batch.sequences[t] : 0;
    const uint8_t* active = at_row(batch.active, t, batch.n_edits);
    const RouterProgram program = batch.programs[sequence];
    RouteMargins margins = {margin, any_margin};
    if (asks_for_near_ties(program)) margins.near_tie = near_tie(m, router, group_margin);
    if (program_acts(program, active, margins)) {
      Edits edits(args, m, program, t, sequence, active, margins);
      const bool applied = edits.apply();
      if (applied) {
        route.ids = m.ids;
        route.weights = m.weights;
        route.k = edits.k();
        if (out.shared_scale && lane == 0) out.shared_scale[t] = edits.shared_scale();
      } else {
        edits.report();
      }
      if (banned) {
        for (int e = lane; e < n_experts; e += warp_size) banned[e] = applied ? m.banned[e] : 0;
      }
    }
  }
  write_route(args, t, route);
  __syncwarp();  // the memory is free for the next token
}

// Warp w of the block routes tokens first + w, first + w + stride, ... below `end`. Memory of a token is shared, or
// global where it is too much for that.
struct TokenWorkspace {
  size_t bytes;           // of a token
  int n_warps;            // of a block that route
  unsigned char* global;  // [n_blocks * n_warps, bytes], null: shared
};

template <bool edited>
__global__ void __launch_bounds__(route_warps* warp_size, 2)
    route_tokens(const __grid_constant__ RouteArgs args, TokenWorkspace workspace) {
  SharedMemory shared;
  unsigned char* memory =
      shared.take<unsigned char>(workspace.global ? 0 : static_cast<size_t>(workspace.n_warps) * workspace.bytes);
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * workspace.n_warps + warp;
  const int64_t n_warps = static_cast<int64_t>(gridDim.x) * workspace.n_warps;
  if (workspace.global) {
    memory = workspace.global + static_cast<size_t>(at) * workspace.bytes;
  } else {
    memory += static_cast<size_t>(warp) * workspace.bytes;
  }
  for (int64_t t = at; t < args.batch.n_tokens; t += n_warps) route_token<edited>(args, t, memory);
}

// Tokens from blockIdx.x * n_columns on, experts from blockIdx.y * n_rows on; the last block of a tile of tokens routes
// it. counters [gridDim.x] are 0 between launches; null: nothing is routed.
template <bool edited, int n_rows, int n_columns>
__global__ void __launch_bounds__(few_threads, 4)
    route_few(const __grid_constant__ RouteArgs args, const __grid_constant__ LogitsArgs a, TokenWorkspace workspace,
              unsigned* counters) {
  SharedMemory shared;
  float* sums = shared.take<float>(few_warps * n_rows * n_columns);
  int* is_last = shared.take<int>(1);
  const int64_t first_token = static_cast<int64_t>(blockIdx.x) * n_columns;
  few_logits<n_rows, n_columns>(a, sums, static_cast<int>(blockIdx.y) * n_rows, first_token);
  if (!counters) return;
  unsigned char* memory = shared.take<unsigned char>(static_cast<size_t>(workspace.n_warps) * workspace.bytes);
  __syncthreads();  // this block's logits are written,
  if (threadIdx.x == 0) {
    __threadfence();  // and seen by whoever sees the count
    const bool last = atomicAdd(&counters[blockIdx.x], 1u) == gridDim.y - 1;
    if (last) counters[blockIdx.x] = 0;
    *is_last = last;
  }
  __syncthreads();
  if (!*is_last) return;
  __threadfence();  // the logits that other blocks have written
  const int warp = static_cast<int>(threadIdx.x) / warp_size;
  if (warp >= workspace.n_warps) return;
  memory += static_cast<size_t>(warp) * workspace.bytes;
  const int64_t end = min(first_token + n_columns, a.n_tokens);
  for (int64_t t = first_token + warp; t < end; t += workspace.n_warps) route_token<edited>(args, t, memory);
}

template <bool edited, int n_rows, int n_columns>
void launch_route_few(const RouteArgs& args, const LogitsArgs& a, TokenWorkspace workspace, unsigned* counters,
                      Stream stream) {
  size_t bytes = shared_bytes_of<float>(few_warps * n_rows * n_columns) + shared_bytes_of<int>(1);
  if (counters) bytes += static_cast<size_t>(workspace.n_warps) * workspace.bytes;
  const dim3 grid(static_cast<unsigned>(ceil_div(a.n_tokens, n_columns)),
                  static_cast<unsigned>(ceil_div(a.n_experts, n_rows)));
  launch("route_few", route_few<edited, n_rows, n_columns>, grid, dim3(few_threads), bytes, stream, args, a, workspace,
         counters);
}

template <bool edited>
void launch_route_tokens(const RouteArgs& args, TokenWorkspace workspace, int64_t n_blocks, Stream stream) {
  const size_t bytes = workspace.global ? 0 : static_cast<size_t>(workspace.n_warps) * workspace.bytes;
  launch("route_tokens", route_tokens<edited>, dim3(static_cast<unsigned>(n_blocks)),
         dim3(static_cast<unsigned>(workspace.n_warps * warp_size)), bytes, stream, args, workspace);
}

// Blocks of route_few: one expert and token, or a pair of experts and a tile of tokens.
constexpr int few_rows = 2, few_columns = 8;
constexpr int64_t max_tiles = 4096;  // with a counter
constexpr size_t counter_bytes = max_tiles * sizeof(unsigned);

// Calls f with the variant as constants.
template <class F>
void for_variant(bool edited, F f) {
  if (edited) {
    f(std::true_type());
  } else {
    f(std::false_type());
  }
}

int warps_that_fit(size_t bytes, int64_t most) {
  const int64_t fit = static_cast<int64_t>(comfortable_shared / bytes);
  return static_cast<int>(std::max<int64_t>(1, std::min(most, fit)));
}

bool aligned_to_16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace

void CudaBackend::route(const Route& out, Tensor logits, Tensor x, const Matrix& w, const float* bias,
                        const Router& router, const float* selection_bias, const RouteBatch& batch) {
  if (out.n_slots < router.n_active) {
    throw Error("router", "expected n_slots of at least n_active = " + std::to_string(router.n_active) + ", found " +
                              std::to_string(out.n_slots));
  }
  if (x && (x.dtype != DType::bf16 || w.dtype != DType::f32)) {
    throw Error("router", "expected a bf16 operand and an f32 matrix, found " + std::string(dtype_name(x.dtype)) +
                              " and " + std::string(dtype_name(w.dtype)));
  }
  const int64_t n_tokens = logits.rows;
  if (n_tokens == 0) return;
  RouteArgs args = {out, router, batch, logits.data, logits.stride, router.selection_bias ? selection_bias : nullptr};
  args.batch.n_tokens = n_tokens;
  const float* matrix = static_cast<const float*>(w.data);
  LogitsArgs a = {logits.data, logits.stride,    x.as<const bf16>(),       x.stride, matrix, w.row_stride, bias,
                  n_tokens,    router.n_experts, static_cast<int>(x.cols), false};
  a.aligned = aligned_to_16(a.x) && aligned_to_16(a.w) && x.stride % 8 == 0 && w.row_stride % 4 == 0;

  const bool edited = batch.programs != nullptr, biased = args.selection_bias != nullptr;
  TokenWorkspace workspace = {};
  workspace.bytes = edited ? token_bytes<true>(router.n_experts, router.n_active, biased)
                           : token_bytes<false>(router.n_experts, router.n_active, biased);
  const bool in_shared = workspace.bytes <= shared_limit;
  const bool one_by_one = n_tokens <= 2;
  const int64_t n_tiles = one_by_one ? n_tokens : ceil_div(n_tokens, few_columns);
  const bool few = x && (n_tokens <= few_tokens || invariant());
  const bool one_launch = few && in_shared && n_tiles <= max_tiles;
  workspace.n_warps = !in_shared   ? 1
                      : one_launch ? warps_that_fit(workspace.bytes, one_by_one ? 1 : few_warps)
                                   : warps_that_fit(workspace.bytes, route_warps);
  int64_t n_blocks = ceil_div(n_tokens, workspace.n_warps);
  if (!in_shared) n_blocks = std::min<int64_t>(n_blocks, 2 * info_.n_processors);

  // Counters of tiles, 0 between launches, then the memory of tokens that is not shared.
  unsigned char* memory = nullptr;
  if (one_launch || !in_shared) {
    const size_t bytes = in_shared ? 0 : static_cast<size_t>(n_blocks) * workspace.bytes;
    memory = static_cast<unsigned char*>(scratch(Scratch::router, counter_bytes + bytes));
  }
  unsigned* counters = one_launch ? reinterpret_cast<unsigned*>(memory) : nullptr;
  if (!in_shared) workspace.global = memory + counter_bytes;

  for_variant(edited && one_launch, [&](auto edits) {
    if (few && one_by_one) {
      launch_route_few<edits.value, 1, 1>(args, a, workspace, counters, stream_);
    } else if (few) {
      launch_route_few<edits.value, few_rows, few_columns>(args, a, workspace, counters, stream_);
    } else if (x) {  // without x the logits are there already
      launch_tile_logits(a, stream_);
    }
  });
  if (one_launch) return;
  for_variant(edited, [&](auto edits) { launch_route_tokens<edits.value>(args, workspace, n_blocks, stream_); });
}

}  // namespace signalbox::kernels::DEVICE_SPACE
