// CUDA's way of writing kernels, on the host: a block is a set of fibers that run in turn, each until it waits for the
// others. Sanitizers see every access. What is wrong on a GPU is made wrong here as well, or reported:
//  - the order in which threads, warps and blocks run is a setting (simt_order.h): a result that changes with it is a
//    race; kernels compiled with -fsanitize=thread have their races named (races.cpp);
//  - shared memory and device memory start as NaN, between guards that sanitizers know and every build checks;
//  - asynchronous copies land when they are waited for, not before;
//  - barriers that not all threads reach, or reach at different lines; warp operations without all 32 lanes; misaligned
//    addresses of atomics and wrapped instructions; more shared memory than the launch asked for: these end the
//    process with a line that names the kernel, the block and the thread.
// Stricter than a GPU: blocks are whole warps, and no thread ends before a barrier that others of its block reach.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "kernels/shim/simt_order.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(8) int2 {
  int32_t x, y;
};
struct alignas(16) int4 {
  int32_t x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline int2 make_int2(int32_t x, int32_t y) { return {x, y}; }
inline int4 make_int4(int32_t x, int32_t y, int32_t z, int32_t w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }

namespace simt {

// ---- what the launching side sees

struct Launch {
  const char* name = "";
  dim3 grid, block;
  size_t shared_memory = 0;
  std::function<void()> thread;  // the kernel with its arguments
};

// What a stream is given happens at once, or when somebody waits for it (set_deferred); while the stream is captured it
// is kept for a graph.
class StreamState {
 public:
  StreamState();
  ~StreamState();
  StreamState(const StreamState&) = delete;
  StreamState& operator=(const StreamState&) = delete;
  void enqueue(Launch launch);
  void enqueue(std::function<void()> work);
  // Does what has been enqueued, up to the n-th piece since the start.
  void finish(uint64_t n = UINT64_MAX);
  uint64_t n_enqueued() const { return n_done_ + queue_.size() - first_; }

  bool capturing = false;
  std::vector<std::function<void()>> captured;

 private:
  std::vector<std::function<void()>> queue_;  // from first_ on
  size_t first_ = 0;
  uint64_t n_done_ = 0;
};
using Stream = StreamState;

// Does everything that any stream has been given.
void finish_all();
// The same of one stream, if it still exists.
void finish_stream(Stream* stream, uint64_t n);
bool is_stream(Stream* stream);  // not destroyed yet
bool any_capture();
// Ends the process unless a device could launch it.
void check_launch(const Launch& launch);
// Runs a grid to its end.
void run(const Launch& launch);
// Held by the one host thread that runs kernels or changes queues and memory.
std::recursive_mutex& mutex();

// Memory that kernels and copies may use: `bytes` long, between guards, filled with 0xff.
void* allocate(size_t bytes, bool pinned);  // null: no room
void release(void* p);
size_t room();
// Whether [p, p + bytes) lies within one piece of it.
bool is_memory(const void* p, size_t bytes);

// ---- what a thread sees

// Where in the source an instruction stands.
struct Place {
  const char* file;
  int line;
  static constexpr Place here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

struct ThreadState {
  dim3 thread, block, block_dim, grid_dim;
  int index = 0, lane = 0;  // in the block, in the warp
};
extern ThreadState* current;
inline int lane() { return current->lane; }

[[noreturn]] void fail(const std::string& what);

void barrier(Place place);  // of the block
enum class Vote : uint8_t { any, all, count };
int barrier_vote(Vote vote, int predicate, Place place);
void warp_barrier(unsigned mask, Place place);
void* shared_array(int index, size_t bytes);
// What all 32 lanes hand in, by lane; valid until the lane's next exchange.
const uint64_t* exchange(uint64_t mine, unsigned mask, Place place);

void copy_async(void* to, const void* from, int bytes);
void commit_copies();
void wait_copies(int n);
void load_matrices(uint32_t (&r)[4], const void* row, bool transposed, Place place);
void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Place place);
void check_global(const void* p, size_t bytes, size_t alignment, const char* what);

// For races.cpp: told of atomic operations, and of what instructions read and write that no compiler sees.
extern void (*atomic_hook)(const void* p, size_t bytes);
extern void (*access_hook)(const void* p, size_t bytes, bool write);
// When something happens. A block's barriers order the accesses of its threads, __syncwarp those of a warp.
struct Moment {
  const char* kernel = "";
  uint64_t launch = 0;
  uint64_t block = 0;
  uint64_t first_block = 0;      // of this launch; blocks are counted from the start of the process
  uint32_t phase = 0;            // barriers of the block so far
  uint32_t warp_syncs[32] = {};  // __syncwarp of each warp so far
  uint32_t warp_meets[32] = {};  // and all its warp operations
};
extern Moment moment;
enum class Region : uint8_t { shared, device, own, unknown };  // own: stack, arguments, constants, the shim itself
Region region_of(const void* p, size_t bytes);

template <class To, class From>
To bit_cast(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}

template <class T>
uint64_t to_word(T x) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  uint64_t word = 0;
  std::memcpy(&word, &x, sizeof x);
  return word;
}
template <class T>
T from_word(uint64_t word) {
  T x;
  std::memcpy(&x, &word, sizeof x);
  return x;
}

template <class T>
T shuffle(unsigned mask, T value, int source, Place place) {
  return from_word<T>(exchange(to_word(value), mask, place)[source & 31]);
}

// One thread of the host runs at a time, so a plain read and write is atomic; the race detector does not look inside.
template <class T, class F>
__attribute__((noinline, no_sanitize("thread"))) T atomic(T* p, F next) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof(T) != 0) fail("an atomic operation is not aligned");
  if (atomic_hook) atomic_hook(const_cast<const T*>(p), sizeof(T));
  const T old = *p;
  *p = next(old);
  return old;
}

}  // namespace simt

#define threadIdx (::simt::current->thread)
#define blockIdx (::simt::current->block)
#define blockDim (::simt::current->block_dim)
#define gridDim (::simt::current->grid_dim)

inline void __syncthreads(::simt::Place place = ::simt::Place::here()) { ::simt::barrier(place); }
inline int __syncthreads_or(int predicate, ::simt::Place place = ::simt::Place::here()) {
  return ::simt::barrier_vote(::simt::Vote::any, predicate, place);
}
inline int __syncthreads_and(int predicate, ::simt::Place place = ::simt::Place::here()) {
  return ::simt::barrier_vote(::simt::Vote::all, predicate, place);
}
inline int __syncthreads_count(int predicate, ::simt::Place place = ::simt::Place::here()) {
  return ::simt::barrier_vote(::simt::Vote::count, predicate, place);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, ::simt::Place place = ::simt::Place::here()) {
  ::simt::warp_barrier(mask, place);
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, ::simt::Place place = ::simt::Place::here()) {
  return ::simt::shuffle(mask, value, source, place);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int m, ::simt::Place place = ::simt::Place::here()) {
  return ::simt::shuffle(mask, value, ::simt::lane() ^ m, place);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, ::simt::Place place = ::simt::Place::here()) {
  const unsigned source = static_cast<unsigned>(::simt::lane()) + delta;
  return ::simt::shuffle(mask, value, source < 32 ? static_cast<int>(source) : ::simt::lane(), place);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, ::simt::Place place = ::simt::Place::here()) {
  const int source = ::simt::lane() - static_cast<int>(delta);
  return ::simt::shuffle(mask, value, source >= 0 ? source : ::simt::lane(), place);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, ::simt::Place place = ::simt::Place::here()) {
  const uint64_t* all = ::simt::exchange(predicate != 0, mask, place);
  unsigned votes = 0;
  for (int i = 0; i < 32; ++i) votes |= static_cast<unsigned>(all[i]) << i;
  return votes;
}
inline int __any_sync(unsigned mask, int predicate, ::simt::Place place = ::simt::Place::here()) {
  return __ballot_sync(mask, predicate, place) != 0;
}
inline int __all_sync(unsigned mask, int predicate, ::simt::Place place = ::simt::Place::here()) {
  return __ballot_sync(mask, predicate, place) == 0xffffffffu;
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value, ::simt::Place place = ::simt::Place::here()) {
  const uint64_t mine = ::simt::to_word(value);
  const uint64_t* all = ::simt::exchange(mine, mask, place);
  unsigned same = 0;
  for (int i = 0; i < 32; ++i) same |= static_cast<unsigned>(all[i] == mine) << i;
  return same;
}

namespace simt {
template <class T, class F>
T reduce(unsigned mask, T value, F join, Place place) {
  static_assert(std::is_integral_v<T> && sizeof(T) == 4);
  const uint64_t* all = exchange(to_word(value), mask, place);
  T result = from_word<T>(all[0]);
  for (int i = 1; i < 32; ++i) result = join(result, from_word<T>(all[i]));
  return result;
}
}  // namespace simt
template <class T>
T __reduce_add_sync(unsigned mask, T value, ::simt::Place place = ::simt::Place::here()) {
  return ::simt::reduce(
      mask, value, [](T a, T b) { return static_cast<T>(uint32_t(a) + uint32_t(b)); }, place);
}
template <class T>
T __reduce_min_sync(unsigned mask, T value, ::simt::Place place = ::simt::Place::here()) {
  return ::simt::reduce(
      mask, value, [](T a, T b) { return b < a ? b : a; }, place);
}
template <class T>
T __reduce_max_sync(unsigned mask, T value, ::simt::Place place = ::simt::Place::here()) {
  return ::simt::reduce(
      mask, value, [](T a, T b) { return a < b ? b : a; }, place);
}
inline unsigned __activemask() { return 0xffffffffu; }

template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcs(const T* p) {
  return *p;
}
template <class T>
T __ldcg(const T* p) {
  return *p;
}
template <class T>
void __stcs(T* p, T x) {
  *p = x;
}
template <class T>
void __stcg(T* p, T x) {
  *p = x;
}
inline int __popc(uint32_t x) { return __builtin_popcount(x); }
inline int __popcll(uint64_t x) { return __builtin_popcountll(x); }
inline int __clz(int32_t x) { return x == 0 ? 32 : __builtin_clz(static_cast<uint32_t>(x)); }
inline int __clzll(int64_t x) { return x == 0 ? 64 : __builtin_clzll(static_cast<uint64_t>(x)); }
inline int __ffs(int32_t x) { return __builtin_ffs(x); }
inline int __ffsll(int64_t x) { return __builtin_ffsll(x); }
inline uint32_t __brev(uint32_t x) {
  uint32_t y = 0;
  for (int i = 0; i < 32; ++i) y |= (x >> i & 1u) << (31 - i);
  return y;
}
// Each nibble of the selector takes a byte of (low, high); its top bit spreads that byte's sign.
inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t selector) {
  const uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t pick = selector >> (4 * i) & 15u;
    uint32_t byte = static_cast<uint32_t>(bytes >> (pick & 7u) * 8) & 0xffu;
    if (pick & 8u) byte = byte & 0x80u ? 0xffu : 0u;
    out |= byte << (8 * i);
  }
  return out;
}
inline uint32_t __funnelshift_l(uint32_t low, uint32_t high, uint32_t n) {
  return static_cast<uint32_t>((static_cast<uint64_t>(high) << 32 | low) << (n & 31u) >> 32);
}
inline uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t n) {
  return static_cast<uint32_t>((static_cast<uint64_t>(high) << 32 | low) >> (n & 31u));
}
inline uint32_t __umulhi(uint32_t a, uint32_t b) { return static_cast<uint32_t>(static_cast<uint64_t>(a) * b >> 32); }
inline uint64_t __umul64hi(uint64_t a, uint64_t b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint64_t>(static_cast<Wide>(a) * b >> 64);
}
inline uint32_t __float_as_uint(float x) { return ::simt::bit_cast<uint32_t>(x); }
inline int32_t __float_as_int(float x) { return ::simt::bit_cast<int32_t>(x); }
inline float __uint_as_float(uint32_t x) { return ::simt::bit_cast<float>(x); }
inline float __int_as_float(int32_t x) { return ::simt::bit_cast<float>(x); }
inline int64_t __double_as_longlong(double x) { return ::simt::bit_cast<int64_t>(x); }
inline double __longlong_as_double(int64_t x) { return ::simt::bit_cast<double>(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1 / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1.f) : 0.f; }

template <class T>
T atomicAdd(T* p, std::type_identity_t<T> x) {
  static_assert(std::is_integral_v<T>, "sums of floats by atomics have no order");
  return ::simt::atomic(p, [x](T old) { return static_cast<T>(old + x); });
}
template <class T>
T atomicSub(T* p, std::type_identity_t<T> x) {
  return ::simt::atomic(p, [x](T old) { return static_cast<T>(old - x); });
}
template <class T>
T atomicMin(T* p, std::type_identity_t<T> x) {
  return ::simt::atomic(p, [x](T old) { return x < old ? x : old; });
}
template <class T>
T atomicMax(T* p, std::type_identity_t<T> x) {
  return ::simt::atomic(p, [x](T old) { return old < x ? x : old; });
}
template <class T>
T atomicAnd(T* p, std::type_identity_t<T> x) {
  return ::simt::atomic(p, [x](T old) { return static_cast<T>(old & x); });
}
template <class T>
T atomicOr(T* p, std::type_identity_t<T> x) {
  return ::simt::atomic(p, [x](T old) { return static_cast<T>(old | x); });
}
template <class T>
T atomicExch(T* p, std::type_identity_t<T> x) {
  return ::simt::atomic(p, [x](T) { return x; });
}
template <class T>
T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> x) {
  return ::simt::atomic(p, [expected, x](T old) { return old == expected ? x : old; });
}
// Up to `limit`, then 0.
inline unsigned atomicInc(unsigned* p, unsigned limit) {
  return ::simt::atomic(p, [limit](unsigned old) { return old >= limit ? 0u : old + 1; });
}

namespace signalbox::kernels::shim {

template <class T>
T min(T a, std::type_identity_t<T> b) {
  return b < a ? b : a;
}
template <class T>
T max(T a, std::type_identity_t<T> b) {
  return a < b ? b : a;
}

// The bodies of the wrappers of device.h.
inline void copy_async(void* to_shared, const void* from, int bytes = 16) {
  ::simt::copy_async(to_shared, from, bytes);
}
inline void commit_copies() { ::simt::commit_copies(); }
template <int n>
void wait_copies() {
  ::simt::wait_copies(n);
}
inline void load_matrices(uint32_t (&r)[4], const void* row, ::simt::Place place = ::simt::Place::here()) {
  ::simt::load_matrices(r, row, false, place);
}
inline void load_matrices_transposed(uint32_t (&r)[4], const void* row, ::simt::Place place = ::simt::Place::here()) {
  ::simt::load_matrices(r, row, true, place);
}
inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                ::simt::Place place = ::simt::Place::here()) {
  ::simt::mma(d, a, b, place);
}
inline uint4 load_streaming(const void* p) {
  ::simt::check_global(p, 16, 16, "a 16-byte load");
  uint4 v;
  std::memcpy(&v, p, 16);
  return v;
}

}  // namespace signalbox::kernels::shim
