// The router of one token by one warp: scores, ranking, weights and margin as kernels/cpu/router.cpp defines them.
// Expert e belongs to lane e % 32, which alone writes its entries of logits, scores, values and keys.
//
// What decides an id is computed as on the CPU: exponentials in double, rounded to f32, sums of them in double.
#pragma once
#include <limits>

#include "base/namespaces.h"
#include "kernels/cuda/device.h"

namespace signalbox::kernels::DEVICE_SPACE {

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr int no_index = std::numeric_limits<int>::max();

struct RouteArgs {
  Route out;
  Router router;
  RouteBatch batch;
  float* logits;  // [n_tokens, logits_stride]
  int64_t logits_stride;
  const float* selection_bias;  // null: none
};

__device__ inline int lane_index() { return static_cast<int>(threadIdx.x) % warp_size; }

__device__ inline uint32_t warp_max_bits(uint32_t x) {
#if defined(__CUDA_ARCH__)
  return __reduce_max_sync(all_lanes, x);
#else
  for (int m = warp_size / 2; m > 0; m /= 2) x = max(x, __shfl_xor_sync(all_lanes, x, m));
  return x;
#endif
}
__device__ inline int warp_min_index(int x) {
#if defined(__CUDA_ARCH__)
  return __reduce_min_sync(all_lanes, x);
#else
  for (int m = warp_size / 2; m > 0; m /= 2) x = min(x, __shfl_xor_sync(all_lanes, x, m));
  return x;
#endif
}
__device__ inline double warp_sum_double(double x) {
  for (int m = warp_size / 2; m > 0; m /= 2) x += __shfl_xor_sync(all_lanes, x, m);
  return x;
}

// Numbers in the order of the floats; 0 is below all of them. -0 is made +0, since the two are equal.
__device__ inline uint32_t key_of(float x) {
  const uint32_t bits = __float_as_uint(x + 0.f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ inline float value_of(uint32_t key) { return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key); }

// ---- memory of one token

struct TokenMemory {
  float* logits;            // [n_experts]
  float* scores;            // [n_experts] what weights are made of
  float* values;            // [n_experts] what the top-k sees; scores where there is no selection bias
  uint32_t* keys;           // [n_experts] destroyed by ranking
  int32_t* original_ids;    // [n_active + 1]
  float* original_weights;  // [n_active + 1]
  // Of edits only.
  float* edited_logits;
  float* edited_scores;
  float* edited_values;
  int32_t* ids;      // [n_experts + 1]
  float* weights;    // [n_experts + 1]
  int32_t* ranking;  // [n_experts]
  uint8_t* banned;   // [n_experts]
  uint8_t* taken;    // [n_experts]
  uint8_t* dropped;  // [n_experts] 1 = of a group that is not kept, by the scores that were made last
};

// Bytes of a token's memory; a multiple of 16.
template <bool edited>
__host__ __device__ constexpr size_t token_bytes(int n_experts, int n_active, bool selection_bias) {
  const size_t e = static_cast<size_t>(n_experts), k = static_cast<size_t>(n_active) + 1;
  size_t bytes = (selection_bias ? 4 : 3) * shared_bytes_of<float>(e) + 2 * shared_bytes_of<float>(k);
  if (edited) {
    bytes +=
        (selection_bias ? 4 : 3) * shared_bytes_of<float>(e) + 2 * shared_bytes_of<float>(e + 1) + 3 * shared_bytes(e);
  }
  return bytes;
}

template <class T>
__device__ inline T* take_from(unsigned char*& memory, int n) {
  T* array = reinterpret_cast<T*>(memory);
  memory += shared_bytes_of<T>(static_cast<size_t>(n));
  return array;
}

template <bool edited>
__device__ inline TokenMemory token_memory(unsigned char* memory, const RouteArgs& args) {
  const int n_experts = args.router.n_experts, n_kept = args.router.n_active + 1;
  TokenMemory m = {};
  m.logits = take_from<float>(memory, n_experts);
  m.scores = take_from<float>(memory, n_experts);
  m.values = args.selection_bias ? take_from<float>(memory, n_experts) : m.scores;
  m.keys = take_from<uint32_t>(memory, n_experts);
  m.original_ids = take_from<int32_t>(memory, n_kept);
  m.original_weights = take_from<float>(memory, n_kept);
  if constexpr (edited) {
    m.edited_logits = take_from<float>(memory, n_experts);
    m.edited_scores = take_from<float>(memory, n_experts);
    m.edited_values = args.selection_bias ? take_from<float>(memory, n_experts) : m.edited_scores;
    m.ids = take_from<int32_t>(memory, n_experts + 1);
    m.weights = take_from<float>(memory, n_experts + 1);
    m.ranking = take_from<int32_t>(memory, n_experts);
    m.banned = take_from<uint8_t>(memory, n_experts);
    m.taken = take_from<uint8_t>(memory, n_experts);
    m.dropped = take_from<uint8_t>(memory, n_experts);
  }
  return m;
}

// ---- ranking

// keys[e] of values; 0, which is never ranked, where out[e] (null: nowhere).
__device__ inline void fill_keys(uint32_t* keys, const float* values, const uint8_t* out, int n_experts) {
  for (int e = lane_index(); e < n_experts; e += warp_size) keys[e] = out && out[e] ? 0 : key_of(values[e]);
}

// order = the n_ranked largest keys that are not 0, descending, ties to the lowest index; their keys become 0. Returns
// how many there were. order is readable by all lanes afterwards.
__device__ inline int rank_keys(int32_t* order, uint32_t* keys, int n_experts, int n_ranked) {
  const int lane = lane_index();
  uint32_t best = 0;
  int at = no_index;
  const auto find_best = [&] {
    best = 0;
    at = no_index;
    for (int e = lane; e < n_experts; e += warp_size) {
      const uint32_t key = keys[e];
      if (key > best) {
        best = key;
        at = e;
      }
    }
  };
  find_best();
  int n = 0;
  for (; n < n_ranked; ++n) {
    const uint32_t top = warp_max_bits(best);
    if (top == 0) break;
    const int e = warp_min_index(best == top ? at : no_index);
    if (e == at) {
      order[n] = e;
      keys[e] = 0;
      find_best();
    }
  }
  __syncwarp();
  return n;
}

// ---- scores

// The two largest of the values seen.
struct BestTwo {
  float first = -infinity, second = -infinity;
  __device__ void see(float x) {
    if (x > first) {
      second = first;
      first = x;
    } else if (x > second) {
      second = x;
    }
  }
};

// Scores and values of all experts outside the n_groups_kept best groups become 0. Returns the least group kept minus
// the best group dropped. groups [n_groups] is scratch. dropped [n_experts] is told who is outside; may be null.
__device__ inline float limit_groups(float* scores, float* values, float* groups, const Router& router,
                                     const uint8_t* banned, uint8_t* dropped) {
  const int lane = lane_index(), n_groups = router.n_groups, size = router.n_experts / n_groups;
  int n_lanes = 1;  // of a group
  while (n_lanes * 2 * n_groups <= warp_size) n_lanes *= 2;
  const int in_group = lane % n_lanes;
  __syncwarp();
  for (int first = 0; first < n_groups; first += warp_size / n_lanes) {
    const int g = first + lane / n_lanes;
    BestTwo best;
    if (g < n_groups) {
      for (int i = in_group; i < size; i += n_lanes) {
        int turned = i + g * n_lanes;  // groups begin in other banks of shared memory
        turned -= turned / size * size;
        const int e = g * size + turned;
        if (!(banned && banned[e])) best.see(values[e]);
      }
    }
    for (int m = n_lanes / 2; m > 0; m /= 2) {
      const float other_first = __shfl_xor_sync(all_lanes, best.first, m);
      const float other_second = __shfl_xor_sync(all_lanes, best.second, m);
      best.see(other_first);
      best.see(other_second);
    }
    if (g < n_groups && in_group == 0) {
      const bool one = router.group_score == Router::GroupScore::max || best.second == -infinity;
      groups[g] = one ? best.first : best.first + best.second;
    }
  }
  __syncwarp();
  // The last group that stays, before which n_groups_kept - 1 others come, and the one after it.
  int last = no_index, next = no_index;
  for (int g = lane; g < n_groups; g += warp_size) {
    int n_before = 0;
    for (int other = 0; other < n_groups; ++other)
      n_before += groups[other] > groups[g] || (groups[other] == groups[g] && other < g);
    if (n_before == router.n_groups_kept - 1) last = g;
    if (n_before == router.n_groups_kept) next = g;
  }
  last = warp_min_index(last);
  next = warp_min_index(next);
  const float bound = groups[last], margin = bound - groups[next];
  for (int e = lane; e < router.n_experts; e += warp_size) {
    const int g = e / size;
    const bool kept = groups[g] > bound || (groups[g] == bound && g <= last);
    if (dropped) dropped[e] = !kept;
    if (!kept) scores[e] = values[e] = 0;
  }
  __syncwarp();
  return margin;
}

// scores and values of logits. Experts with banned[e] (null: none) do not speak for their group. groups is scratch
// [n_groups]. dropped (null: nobody asks) as in limit_groups, 0 where no group is. Returns the margin of groups,
// infinity where none is dropped.
__device__ inline float score_experts(float* scores, float* values, float* groups, const Router& router,
                                      const float* logits, const float* selection_bias, const uint8_t* banned,
                                      uint8_t* dropped) {
  const int lane = lane_index(), n_experts = router.n_experts;
  if (router.softmax_over_selected) {
    for (int e = lane; e < n_experts; e += warp_size) scores[e] = logits[e];
  } else if (router.score == Router::Score::softmax) {
    float top = -infinity;
    for (int e = lane; e < n_experts; e += warp_size) top = fmaxf(top, logits[e]);
    top = value_of(warp_max_bits(key_of(top)));
    double sum = 0;
    for (int e = lane; e < n_experts; e += warp_size) {
      const float x = static_cast<float>(exp(static_cast<double>(logits[e] - top)));
      scores[e] = x;
      sum += static_cast<double>(x);
    }
    const float total = static_cast<float>(warp_sum_double(sum));
    for (int e = lane; e < n_experts; e += warp_size) scores[e] /= total;
  } else {
    for (int e = lane; e < n_experts; e += warp_size)
      scores[e] = static_cast<float>(1 / (1 + exp(-static_cast<double>(logits[e]))));
  }
  if (selection_bias) {
    for (int e = lane; e < n_experts; e += warp_size) values[e] = scores[e] + selection_bias[e];
  }
  float margin = infinity;
  if (router.n_groups > 1 && router.n_groups_kept < router.n_groups) {
    margin = limit_groups(scores, values, groups, router, banned, dropped);
  } else if (dropped) {
    for (int e = lane; e < n_experts; e += warp_size) dropped[e] = 0;
  }
  __syncwarp();
  return margin;
}

// ---- weights and margin

// Sum in slot order, the same in all lanes.
__device__ inline float slot_sum(const float* x, int n) {
  float sum = 0;
  for (int i = 0; i < n; ++i) sum += x[i];
  return sum;
}

// The family's own weights of the experts ids [k].
__device__ inline void weigh_experts(float* weights, const Router& router, const float* scores, const float* logits,
                                     const int32_t* ids, int k) {
  const int lane = lane_index();
  if (k == 0) return;
  if (router.softmax_over_selected) {
    float top = -infinity;
    for (int i = lane; i < k; i += warp_size) top = fmaxf(top, logits[ids[i]]);
    top = value_of(warp_max_bits(key_of(top)));
    for (int i = lane; i < k; i += warp_size)
      weights[i] = static_cast<float>(exp(static_cast<double>(logits[ids[i]] - top)));
    __syncwarp();
    double sum = 0;
    for (int i = 0; i < k; ++i) sum += static_cast<double>(weights[i]);
    const float total = static_cast<float>(sum);
    __syncwarp();
    for (int i = lane; i < k; i += warp_size) weights[i] /= total;
  } else {
    for (int i = lane; i < k; i += warp_size) weights[i] = scores[ids[i]];
  }
  if (router.renormalize) {
    __syncwarp();
    const float sum = slot_sum(weights, k) + router.renormalize_epsilon;
    __syncwarp();
    if (sum != 0) {
      for (int i = lane; i < k; i += warp_size) weights[i] /= sum;
    }
  }
  for (int i = lane; i < k; i += warp_size) weights[i] *= router.scale;
  __syncwarp();
}

// The n_active-th minus the next largest logit. m.original_ids holds the n_active + 1 best by value.
__device__ inline float route_margin(const TokenMemory& m, const Router& router, bool values_rise_with_logits) {
  const int n_experts = router.n_experts, k = router.n_active, lane = lane_index();
  if (k >= n_experts) return infinity;
  const int last = m.original_ids[k - 1], next = m.original_ids[k];
  if (router.softmax_over_selected && values_rise_with_logits) return m.logits[last] - m.logits[next];
  const float last_value = m.values[last], next_value = m.values[next];
  if (values_rise_with_logits && last_value > next_value) {
    // Several logits may round to one score: the margin lies between the smallest logit of the one score and the
    // largest of the other.
    float low = infinity, high = -infinity;
    for (int e = lane; e < n_experts; e += warp_size) {
      if (m.values[e] == last_value) low = fminf(low, m.logits[e]);
      if (m.values[e] == next_value) high = fmaxf(high, m.logits[e]);
    }
    return -value_of(warp_max_bits(key_of(-low))) - value_of(warp_max_bits(key_of(high)));
  }
  int32_t* order = reinterpret_cast<int32_t*>(m.original_weights);  // not yet in use
  fill_keys(m.keys, m.logits, nullptr, n_experts);
  rank_keys(order, m.keys, n_experts, k + 1);
  const float margin = m.logits[order[k - 1]] - m.logits[order[k]];
  __syncwarp();
  return margin;
}

// RouterStep::near_tie_below's measure; ranks anew, into m.ranking. After the unedited scores, before any edit.
__device__ inline float near_tie(const TokenMemory& m, const Router& router, float group_margin) {
  const int n_experts = router.n_experts, k = router.n_active;
  __syncwarp();
  fill_keys(m.keys, m.values, m.dropped, n_experts);
  if (rank_keys(m.ranking, m.keys, n_experts, min(k + 1, n_experts)) <= k) return group_margin;
  const float margin = m.values[m.ranking[k - 1]] - m.values[m.ranking[k]];
  __syncwarp();
  return fminf(group_margin, margin);
}

// ---- results

// The first of a sequence stays: pack_fault's order.
__device__ inline void report_fault(uint64_t* faults, const RouteBatch& batch, RouteFault::Kind kind, int64_t t,
                                    int32_t edit, int32_t expert) {
  if (!faults || lane_index() != 0) return;
  const unsigned long long packed =
      static_cast<unsigned long long>(batch.layer) << 52 | static_cast<unsigned long long>(t) << 28 |
      static_cast<unsigned long long>(kind) << 24 | static_cast<unsigned long long>(edit + 1) << 12 |
      static_cast<unsigned long long>(expert + 1);
  static_assert(sizeof(unsigned long long) == sizeof(uint64_t));
  atomicMin(reinterpret_cast<unsigned long long*>(faults + (batch.sequences ? batch.sequences[t] : 0)), packed);
}

// What one token's route is. Slots from k on become -1 and 0.
struct TokenRoute {
  const int32_t* ids;
  const float* weights;
  int k;
  const int32_t* original_ids;
  int n_original;
  float margin, group_margin;
  const float* values;  // null: zeros
  const float* logits;
};

__device__ inline void write_slots(int32_t* to, const int32_t* ids, int k, int n_slots) {
  if (!to) return;
  for (int i = lane_index(); i < n_slots; i += warp_size) to[i] = i < k ? ids[i] : -1;
}
__device__ inline void write_slots(float* to, const float* weights, int k, int n_slots) {
  if (!to) return;
  for (int i = lane_index(); i < n_slots; i += warp_size) to[i] = i < k ? weights[i] : 0.f;
}
__device__ inline void write_experts(float* to, const float* from, int n_experts) {
  if (!to) return;
  for (int e = lane_index(); e < n_experts; e += warp_size) to[e] = from ? from[e] : 0.f;
}
template <class T>
__device__ inline T* at_row(T* p, int64_t row, int64_t width = 1) {
  return p ? p + row * width : nullptr;
}

__device__ inline void write_route(const RouteArgs& args, int64_t t, const TokenRoute& r) {
  const Route& out = args.out;
  const int n_slots = out.n_slots, n_experts = args.router.n_experts;
  write_slots(at_row(out.ids, t, n_slots), r.ids, r.k, n_slots);
  write_slots(at_row(out.weights, t, n_slots), r.weights, r.k, n_slots);
  write_slots(at_row(out.original_ids, t, n_slots), r.original_ids, r.n_original, n_slots);
  if (out.margin && lane_index() == 0) out.margin[t] = r.margin;
  if (out.group_margin && lane_index() == 0) out.group_margin[t] = r.group_margin;
  write_experts(at_row(out.scores, t, n_experts), r.values, n_experts);
  const RouteRecord& record = out.record;
  if (!record.step) return;
  const int64_t entry = static_cast<int64_t>(*record.step % record.n_steps) * record.step_stride + t;
  write_slots(at_row(record.ids, entry, n_slots), r.ids, r.k, n_slots);
  write_slots(at_row(record.weights, entry, n_slots), r.weights, r.k, n_slots);
  write_slots(at_row(record.original_ids, entry, n_slots), r.original_ids, r.n_original, n_slots);
  if (record.margin && lane_index() == 0) record.margin[entry] = r.margin;
  if (record.group_margin && lane_index() == 0) record.group_margin[entry] = r.group_margin;
  write_experts(at_row(record.scores, entry, n_experts), r.values, n_experts);
  write_experts(at_row(record.logits, entry, n_experts), r.logits, n_experts);
}

}  // namespace

}  // namespace signalbox::kernels::DEVICE_SPACE
