#include "kernels/shim/simt.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>

#include "kernels/shim/fiber.h"
#include "kernels/shim/guards.h"

extern "C" {
extern const char __executable_start, end;  // of the program in memory, from the linker
}

namespace simt {

ThreadState* current = nullptr;
void (*atomic_hook)(const void*, size_t) = nullptr;
void (*access_hook)(const void*, size_t, bool) = nullptr;

bool watches_races() { return access_hook != nullptr; }
Moment moment;

namespace {

constexpr int warp_lanes = 32, max_threads = 1024, max_warps = max_threads / warp_lanes;
constexpr size_t max_shared = 227 << 10, max_arrays = 32;

// ---- the block that runs

struct Copy {
  unsigned char* to;
  const unsigned char* from;
  int bytes;
};

struct Warp;

struct Thread : ThreadState {
  Fiber fiber;
  Warp* warp = nullptr;
  std::vector<Copy> copies;    // that have not landed, oldest first
  std::vector<size_t> groups;  // where closed groups end in copies
};

struct alignas(64) Warp {
  Thread* lanes = nullptr;
  int n_begun = 0;          // lanes that have run since the warp was let go
  int first = 0, step = 1;  // lane of the n-th turn: first + n * step
  int parity = 0;
  int n_arrived = 0, n_at_barrier = 0, n_ended = 0;
  Place place{};                      // where those that have arrived wait
  void (*together)(Warp&) = nullptr;  // what the last one to arrive does for all
  uint64_t words[2][warp_lanes];      // what lanes exchange, in turns
  uint32_t a[warp_lanes][4], b[warp_lanes][2];
  float d[warp_lanes][4];
  const unsigned char* rows[warp_lanes];
};

struct Array {
  unsigned char* data;
  size_t bytes;
};

struct Machine {
  const Launch* launch = nullptr;
  int n_threads = 0, n_warps = 0;
  Thread* threads = new Thread[max_threads];
  int n_made = 0;  // threads that have a fiber
  Warp* warps = new Warp[max_warps];
  Fiber host;
  std::vector<int> ready;  // warps that do not wait for the block; in order, the next is the last
  size_t at = 0;           // of the warp that runs, in ready
  Warp* running = nullptr;
  int n_at_barrier = 0, n_ended = 0;
  Place barrier_place{};
  int vote_any = 0, vote_all = 1, vote_count = 0;
  int vote_result[3] = {};
  uint64_t random = 1;

  // Shared memory: guard, array, guard, array, guard ... Kept from block to block as long as the arrays are the same.
  unsigned char* arena = nullptr;
  Array arrays[max_arrays];
  size_t n_laid = 0, n_arrays = 0;  // arrays that have their place, that this block has taken
  size_t shared_used = 0;
};

Machine& machine() {
  static Machine* m = new Machine;  // lives to the end of the process
  return *m;
}
Machine& m = machine();

Order order = Order::ascending;
uint64_t order_seed = 0;
std::map<std::string, int64_t>& launch_counts() {
  static auto* counts = new std::map<std::string, int64_t>;
  return *counts;
}
using Lock = std::lock_guard<std::recursive_mutex>;

Thread& self() { return *static_cast<Thread*>(current); }
Warp& warp_of(const Thread& t) { return *t.warp; }

uint32_t draw() {
  m.random ^= m.random << 13, m.random ^= m.random >> 7, m.random ^= m.random << 17;
  return static_cast<uint32_t>(m.random >> 16);
}

std::string name_of(Place place) {
  const char* slash = std::strrchr(place.file, '/');
  return std::string(slash ? slash + 1 : place.file) + ":" + std::to_string(place.line);
}

// ---- turns

void set_turns(Warp& w) {
  w.n_begun = 0;
  switch (order) {
    case Order::ascending: w.first = 0, w.step = 1; break;
    case Order::descending: w.first = warp_lanes - 1, w.step = warp_lanes - 1; break;
    case Order::shuffled: {
      const uint32_t x = draw();
      w.first = static_cast<int>(x & 31), w.step = static_cast<int>(x >> 5 & 31) | 1;
      break;
    }
  }
}

void choose_warp() {
  m.at = order == Order::shuffled ? draw() % m.ready.size() : m.ready.size() - 1;
  m.running = &m.warps[m.ready[m.at]];
}

void let_warps_go() {
  m.ready.clear();
  for (int i = 0; i < m.n_warps; ++i) {
    m.ready.push_back(order == Order::descending ? i : m.n_warps - 1 - i);
    set_turns(m.warps[i]);
  }
  choose_warp();
}

void let_block_go() {
  m.vote_result[0] = m.vote_any;
  m.vote_result[1] = m.vote_all;
  m.vote_result[2] = m.vote_count;
  m.vote_any = m.vote_count = 0;
  m.vote_all = 1;
  m.n_at_barrier = 0;
  ++moment.phase;
  for (int i = 0; i < m.n_warps; ++i) m.warps[i].n_at_barrier = 0;
  let_warps_go();
}

// Passes to another warp, as this one's lanes all wait for the block or have ended. False: there is none.
bool next_warp() {
  m.ready[m.at] = m.ready.back();
  m.ready.pop_back();
  if (!m.ready.empty()) {
    choose_warp();
  } else if (m.n_ended == m.n_threads) {
    return false;
  } else {
    let_block_go();
  }
  return true;
}

// The thread whose turn it is; null: all have ended.
inline Thread* next_thread() {
  if (m.running->n_begun == warp_lanes && !next_warp()) return nullptr;
  Warp& w = *m.running;
  return &w.lanes[(w.first + w.n_begun++ * w.step) & (warp_lanes - 1)];
}

// Leaves the thread that runs to the next one; returns when its turn comes again.
inline void go_on(Thread& t) {
  Thread* next = next_thread();
  if (next == &t) return;
  current = next;
  switch_fiber(t.fiber, next ? next->fiber : m.host);
}

[[noreturn]] __attribute__((cold, noinline)) void fail_to_meet(const Warp& w, unsigned mask, Place place) {
  const std::string here = "the warp operation at " + name_of(place);
  if (mask != 0xffffffffu) fail(here + " does not name all 32 lanes");
  if (w.n_at_barrier != 0) fail("is at " + here + ", other lanes at the barrier at " + name_of(m.barrier_place));
  if (w.n_ended != 0) fail("is at " + here + ", other lanes have ended");
  fail("is at " + here + ", other lanes at the one at " + name_of(w.place));
}

// Waits for all lanes of the warp; the last one to come does `together`.
inline void meet(Warp& w, Thread& t, unsigned mask, Place place, void (*together)(Warp&)) {
  if (mask != 0xffffffffu || (w.n_at_barrier | w.n_ended) != 0) fail_to_meet(w, mask, place);
  if (w.n_arrived == 0) {
    w.place = place;
    w.together = together;
  } else if (w.place.line != place.line || w.together != together) {
    fail_to_meet(w, mask, place);
  }
  if (++w.n_arrived == warp_lanes) {
    if (together) together(w);
    w.n_arrived = 0;
    w.parity ^= 1;
    ++moment.warp_meets[t.index / warp_lanes];
    set_turns(w);
    if (order == Order::shuffled && (draw() & 3) == 0) choose_warp();
  }
  go_on(t);
}

void end_thread() {
  Thread& t = self();
  Warp& w = warp_of(t);
  if (!t.copies.empty()) fail("ends with asynchronous copies that it has not waited for");
  t.groups.clear();
  if (w.n_arrived != 0) fail("ends, other lanes wait at the warp operation at " + name_of(w.place));
  if (m.n_at_barrier != 0) fail("ends, other threads wait at the barrier at " + name_of(m.barrier_place));
  ++w.n_ended;
  ++m.n_ended;
  go_on(t);
}

void thread_main() {
  enter_fiber(self().fiber);
  for (;;) {
    m.launch->thread();
    end_thread();
  }
}

// ---- shared memory

// Room after the array that was laid last, poisoned.
void lay_array(size_t bytes) {
  constexpr size_t arena_bytes = max_shared + (max_arrays + 1) * guard_bytes;
  if (!m.arena) {
    m.arena = static_cast<unsigned char*>(std::aligned_alloc(128, arena_bytes));
    fill_guard(m.arena, m.arena + guard_bytes);
    ASAN_POISON_MEMORY_REGION(m.arena, arena_bytes);
  }
  const unsigned char* arena_end = m.arena + arena_bytes;
  // As far from a multiple of 128 as on a device, so that alignment is what it would be there.
  unsigned char* data = m.arena + guard_bytes;
  if (m.n_laid != 0) {
    const Array& last = m.arrays[m.n_laid - 1];
    data = last.data + (last.bytes + 15) / 16 * 16 + guard_bytes;
  }
  ASAN_UNPOISON_MEMORY_REGION(data, static_cast<size_t>(arena_end - data));
  fill_guard(data + bytes, data + (bytes + 15) / 16 * 16 + guard_bytes);
  ASAN_POISON_MEMORY_REGION(data + bytes, static_cast<size_t>(arena_end - (data + bytes)));
  m.arrays[m.n_laid++] = {data, bytes};
}

void check_guards() {
#if !defined(SIMT_ASAN)
  for (size_t i = 0; i < m.n_arrays; ++i) {
    const Array& a = m.arrays[i];
    if (!guard_holds(a.data - guard_bytes, a.data) || !guard_holds(a.data + a.bytes, a.data + a.bytes + guard_bytes))
      fail("has written outside its shared array " + std::to_string(i) + " of " + std::to_string(a.bytes) + " bytes");
  }
#endif
}

bool is_shared(const void* p, size_t bytes) {
  const auto* at = static_cast<const unsigned char*>(p);
  for (size_t i = 0; i < m.n_arrays; ++i) {
    const Array& a = m.arrays[i];
    if (at >= a.data && at + bytes <= a.data + a.bytes) return true;
  }
  return false;
}

std::string place_of_thread() {
  if (!m.launch) return "host";
  std::string text = std::string("kernel ") + m.launch->name;
  if (current) {
    text += ", block " + std::to_string(current->block.x) + "," + std::to_string(current->block.y) + "," +
            std::to_string(current->block.z) + ", thread " + std::to_string(current->index);
  }
  return text;
}

// 0 .. n-1 in the order set, one at a time: i-th of them.
struct BlockOrder {
  uint64_t n, start = 0, step = 1;
  explicit BlockOrder(uint64_t n) : n(n) {
    if (order != Order::shuffled || n < 2) return;
    start = draw() % n;
    step = draw() % n;
    auto common = [](uint64_t a, uint64_t b) {
      while (b != 0) {
        const uint64_t r = a % b;
        a = b, b = r;
      }
      return a;
    };
    while (step == 0 || common(step, n) != 1) step = (step + 1) % n;
  }
  uint64_t at(uint64_t i) const {
    if (order == Order::descending) return n - 1 - i;
    return (start + i * step) % n;
  }
};

void run_block(dim3 index) {
  m.n_at_barrier = m.n_ended = 0;
  m.vote_any = m.vote_count = 0;
  m.vote_all = 1;
  m.n_arrays = 0;
  m.shared_used = 0;
  ++moment.block;
  moment.phase = 0;
  for (int i = 0; i < m.n_warps; ++i) {
    Warp& w = m.warps[i];
    w.n_arrived = w.n_at_barrier = w.n_ended = 0;
    moment.warp_syncs[i] = moment.warp_meets[i] = 0;
  }
  for (int i = 0; i < m.n_threads; ++i) m.threads[i].block = index;
  let_warps_go();
  Thread* first = next_thread();
  current = first;
  switch_fiber(m.host, first->fiber);
  check_guards();
}

}  // namespace

void fail(const std::string& what) {
  std::fprintf(stderr, "simt: %s: %s\n", place_of_thread().c_str(), what.c_str());
  std::fflush(stderr);
  std::abort();
}

void check_launch(const Launch& launch) {
  const std::string name = std::string("launch of ") + launch.name + ": ";
  const uint64_t n_threads = uint64_t{launch.block.x} * launch.block.y * launch.block.z;
  if (n_threads < 1 || n_threads > max_threads || n_threads % warp_lanes != 0)
    fail(name + "expected 32 to 1024 threads a block, whole warps, found " + std::to_string(n_threads));
  if (launch.block.z > 64) fail(name + "expected blocks of at most 64 in z, found " + std::to_string(launch.block.z));
  if (launch.grid.x > 0x7fffffffu || launch.grid.y > 65535 || launch.grid.z > 65535)
    fail(name + "expected a grid of at most 2147483647 x 65535 x 65535, found " + std::to_string(launch.grid.x) +
         " x " + std::to_string(launch.grid.y) + " x " + std::to_string(launch.grid.z));
  if (launch.shared_memory > max_shared)
    fail(name + "expected at most 227 KiB of shared memory, found " + std::to_string(launch.shared_memory) + " bytes");
}

std::recursive_mutex& mutex() {
  static auto* one = new std::recursive_mutex;
  return *one;
}

void set_order(Order new_order, uint64_t seed) {
  const Lock lock(mutex());
  finish_all();
  order = new_order;
  order_seed = seed;
  set_deferred(new_order != Order::ascending);
}

std::vector<std::pair<std::string, int64_t>> launches() {
  const Lock lock(mutex());
  finish_all();
  return {launch_counts().begin(), launch_counts().end()};
}

void run(const Launch& launch) {
  const Lock lock(mutex());
  if (m.launch) fail(std::string("a kernel launches the kernel ") + launch.name);
  check_launch(launch);
  ++launch_counts()[launch.name];
  ++moment.launch;
  moment.kernel = launch.name;
  moment.first_block = moment.block + 1;
  m.launch = &launch;
  m.n_threads = static_cast<int>(launch.block.x * launch.block.y * launch.block.z);
  m.n_warps = m.n_threads / warp_lanes;
  m.random = (order_seed + 1) * 0x9e3779b97f4a7c15ull ^ moment.launch * 0xbf58476d1ce4e5b9ull;
  if (m.random == 0) m.random = 1;
  for (; m.n_made < m.n_threads; ++m.n_made) {
    Thread& t = m.threads[m.n_made];
    t.index = m.n_made;
    t.lane = m.n_made % warp_lanes;
    t.warp = &m.warps[m.n_made / warp_lanes];
    if (t.lane == 0) t.warp->lanes = &t;
    make_fiber(t.fiber, thread_main, static_cast<size_t>(m.n_made));
  }
  const dim3 block = launch.block, grid = launch.grid;
  for (int i = 0; i < m.n_threads; ++i) {
    Thread& t = m.threads[i];
    const unsigned u = static_cast<unsigned>(i);
    t.thread = dim3(u % block.x, u / block.x % block.y, u / block.x / block.y);
    t.block_dim = block;
    t.grid_dim = grid;
  }
  const uint64_t n_blocks = uint64_t{grid.x} * grid.y * grid.z;
  const BlockOrder turns(n_blocks);
  for (uint64_t i = 0; i < n_blocks; ++i) {
    const uint64_t b = turns.at(i);
    run_block(dim3(static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                   static_cast<unsigned>(b / grid.x / grid.y)));
  }
  m.launch = nullptr;
}

Region region_of(const void* p, size_t bytes) {
  const auto* at = static_cast<const unsigned char*>(p);
  auto within = [&](const void* first, size_t size) {
    const auto* begin = static_cast<const unsigned char*>(first);
    return at >= begin && at + bytes <= begin + size;
  };
  if (within(self().fiber.stack, self().fiber.stack_bytes)) return Region::own;
  if (is_shared(p, bytes)) return Region::shared;
  if (is_memory(p, bytes)) return Region::device;
  if (within(m.threads, sizeof(Thread) * max_threads) || within(m.warps, sizeof(Warp) * max_warps)) return Region::own;
  // The arguments: inside the launch, or where its function keeps them.
  const void* kept;
  std::memcpy(&kept, &m.launch->thread, sizeof kept);
  if (within(m.launch, sizeof *m.launch) || within(kept, 4096)) return Region::own;
  // Constants and variables of the program.
  if (within(&__executable_start, static_cast<size_t>(&end - &__executable_start))) return Region::own;
  return Region::unknown;
}

// ---- what threads call

void barrier(Place place) {
  Thread& t = self();
  Warp& w = warp_of(t);
  if (w.n_arrived != 0)
    fail("is at the barrier at " + name_of(place) + ", other lanes at the warp operation at " + name_of(w.place));
  if (m.n_ended != 0) fail("is at the barrier at " + name_of(place) + ", other threads have ended");
  if (m.n_at_barrier == 0) {
    m.barrier_place = place;
  } else if (m.barrier_place.line != place.line) {
    fail("is at the barrier at " + name_of(place) + ", other threads at the one at " + name_of(m.barrier_place));
  }
  ++w.n_at_barrier;
  ++m.n_at_barrier;
  go_on(t);
}

int barrier_vote(Vote vote, int predicate, Place place) {
  m.vote_any |= predicate != 0;
  m.vote_all &= predicate != 0;
  m.vote_count += predicate != 0;
  barrier(place);
  return m.vote_result[static_cast<int>(vote)];
}

void warp_barrier(unsigned mask, Place place) {
  Thread& t = self();
  meet(warp_of(t), t, mask, place, [](Warp& w) { ++moment.warp_syncs[w.lanes[0].index / warp_lanes]; });
}

const uint64_t* exchange(uint64_t mine, unsigned mask, Place place) {
  Thread& t = self();
  Warp& w = warp_of(t);
  uint64_t* words = w.words[w.parity];
  words[t.lane] = mine;
  meet(w, t, mask, place, nullptr);
  return words;
}

void* shared_array(int index, size_t bytes) {
  const size_t i = static_cast<size_t>(index);
  if (i < m.n_arrays) {
    if (m.arrays[i].bytes != bytes) fail("takes shared arrays of other sizes than another thread");
    return m.arrays[i].data;
  }
  if (i > m.n_arrays) fail("takes shared arrays out of order");
  if (i == max_arrays) fail("takes more than " + std::to_string(max_arrays) + " shared arrays");
  m.shared_used += (bytes + 15) / 16 * 16;
  if (m.shared_used > m.launch->shared_memory)
    fail("takes " + std::to_string(m.shared_used) + " bytes of shared memory, the launch asked for " +
         std::to_string(m.launch->shared_memory));
  if (i < m.n_laid && m.arrays[i].bytes != bytes) m.n_laid = i;
  if (i == m.n_laid) lay_array(bytes);
  ++m.n_arrays;
  std::memset(m.arrays[i].data, 0xff, bytes);
  return m.arrays[i].data;
}

void check_global(const void* p, size_t bytes, size_t alignment, const char* what) {
  if (reinterpret_cast<uintptr_t>(p) % alignment != 0)
    fail(std::string(what) + " is not aligned to " + std::to_string(alignment) + " bytes");
  if (!is_memory(p, bytes == 0 ? 1 : bytes)) fail(std::string(what) + " reads outside device memory");
}

void copy_async(void* to, const void* from, int bytes) {
  if (bytes < 0 || bytes > 16) fail("an asynchronous copy of " + std::to_string(bytes) + " bytes");
  if (reinterpret_cast<uintptr_t>(to) % 16 != 0) fail("an asynchronous copy's target is not aligned to 16 bytes");
  if (!is_shared(to, 16)) fail("an asynchronous copy's target is outside shared memory");
  check_global(from, static_cast<size_t>(bytes), 16, "an asynchronous copy");
  if (access_hook) access_hook(to, 16, true);
  // Unreadable until it has landed.
  std::memset(to, 0xff, 16);
  ASAN_POISON_MEMORY_REGION(to, 16);
  self().copies.push_back({static_cast<unsigned char*>(to), static_cast<const unsigned char*>(from), bytes});
}

void commit_copies() {
  Thread& t = self();
  t.groups.push_back(t.copies.size());
}

void wait_copies(int n) {
  Thread& t = self();
  const size_t keep = std::min(static_cast<size_t>(n), t.groups.size());
  const size_t n_groups = t.groups.size() - keep;
  if (n_groups == 0) return;
  const size_t n_landed = t.groups[n_groups - 1];
  for (size_t i = 0; i < n_landed; ++i) {
    const Copy& copy = t.copies[i];
    const size_t bytes = static_cast<size_t>(copy.bytes);
    ASAN_UNPOISON_MEMORY_REGION(copy.to, 16);
    if (access_hook) {
      access_hook(copy.to, 16, true);
      if (bytes != 0) access_hook(copy.from, bytes, false);
    }
    std::memcpy(copy.to, copy.from, bytes);
    std::memset(copy.to + bytes, 0, 16 - bytes);
  }
  t.copies.erase(t.copies.begin(), t.copies.begin() + static_cast<int64_t>(n_landed));
  t.groups.erase(t.groups.begin(), t.groups.begin() + static_cast<int64_t>(n_groups));
  for (size_t& end : t.groups) end -= n_landed;
}

// ---- matrix instructions: the last lane to come does the work of all

namespace {

void together_load(Warp& w) {
  for (int i = 0; i < warp_lanes; ++i) {
    if (access_hook) access_hook(w.rows[i], 16, false);
    for (int j = 0; j < 4; ++j) std::memcpy(&w.a[i % 8 * 4 + j][i / 8], w.rows[i] + j * 4, 4);
  }
}

void together_load_transposed(Warp& w) {
  for (int i = 0; i < warp_lanes; ++i) {
    if (access_hook) access_hook(w.rows[i], 16, false);
    // Row r = i % 8 of matrix i / 8: its column c goes to lane c * 4 + r / 2, low or high half by r.
    uint16_t values[8];
    std::memcpy(values, w.rows[i], 16);
    const int r = i % 8;
    for (int c = 0; c < 8; ++c) {
      uint32_t& word = w.a[c * 4 + r / 2][i / 8];
      word =
          r % 2 == 0 ? (word & 0xffff0000u) | values[c] : (word & 0x0000ffffu) | static_cast<uint32_t>(values[c]) << 16;
    }
  }
}

float low_half(uint32_t word) { return bit_cast<float>(word << 16); }
float high_half(uint32_t word) { return bit_cast<float>(word & 0xffff0000u); }

// The layouts are those that device.h describes. Products are summed over k in order, and the sum added to d.
void together_mma(Warp& w) {
  float a[16][16];
  alignas(16) float b[16][8];
  for (int i = 0; i < warp_lanes; ++i) {
    const int g = i / 4, c = i % 4 * 2;
    for (int r = 0; r < 4; ++r) {
      float* row = a[g + r % 2 * 8] + c + r / 2 * 8;
      row[0] = low_half(w.a[i][r]);
      row[1] = high_half(w.a[i][r]);
    }
    for (int r = 0; r < 2; ++r) {
      b[c + r * 8][g] = low_half(w.b[i][r]);
      b[c + r * 8 + 1][g] = high_half(w.b[i][r]);
    }
  }
  for (int i = 0; i < 16; ++i) {
    using Four __attribute__((vector_size(16))) = float;
    Four low = {}, high = {};
    for (int k = 0; k < 16; ++k) {
      Four left, right;
      std::memcpy(&left, b[k], 16);
      std::memcpy(&right, b[k] + 4, 16);
      low += a[i][k] * left;
      high += a[i][k] * right;
    }
    for (int j = 0; j < 4; ++j) {
      w.d[i % 8 * 4 + j / 2][i / 8 * 2 + j % 2] += low[j];
      w.d[i % 8 * 4 + 2 + j / 2][i / 8 * 2 + j % 2] += high[j];
    }
  }
}

}  // namespace

void load_matrices(uint32_t (&r)[4], const void* row, bool transposed, Place place) {
  Thread& t = self();
  Warp& w = warp_of(t);
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) fail("a row of ldmatrix is not aligned to 16 bytes");
  if (!is_shared(row, 16)) fail("a row of ldmatrix is outside shared memory");
  w.rows[t.lane] = static_cast<const unsigned char*>(row);
  meet(w, t, 0xffffffffu, place, transposed ? together_load_transposed : together_load);
  std::memcpy(r, w.a[t.lane], sizeof r);
}

void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Place place) {
  Thread& t = self();
  Warp& w = warp_of(t);
  std::memcpy(w.a[t.lane], a, sizeof a);
  std::memcpy(w.b[t.lane], b, sizeof b);
  std::memcpy(w.d[t.lane], d, sizeof d);
  meet(w, t, 0xffffffffu, place, together_mma);
  std::memcpy(d, w.d[t.lane], sizeof d);
}

}  // namespace simt
