// Names races of kernels. Where the compiler instruments kernels (GCC, -fsanitize=thread when compiling, not when
// linking; the shim's own objects, without it, linked before them), each of their accesses comes here instead of to the
// thread sanitizer's library. Two accesses of one byte of shared or device memory, one of them a write, must have a
// barrier between them: of the block, or __syncwarp within a warp, or for two blocks of a launch an atomic operation of
// each. A shuffle or a vote makes no write visible, but what was read before it may be written after it.
// Memory of the host is no business of a kernel's.
#include <dlfcn.h>

#include <cstdio>
#include <memory>
#include <unordered_map>

#include "kernels/shim/simt.h"

#if defined(__SANITIZE_THREAD__)
#define SIMT_WHOLE_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SIMT_WHOLE_TSAN 1
#endif
#endif

#if !defined(SIMT_WHOLE_TSAN)

namespace simt {

namespace {

enum class Kind : uint8_t { read, write, atomic };

struct Access {
  uint64_t block = 0, time = 0;
  uint32_t phase = 0, warp_phase = 0;  // warp_phase: of reads warp_meets, else warp_syncs
  uint16_t thread = 0;
  bool atomic = false;
  // Of reads: others have read it too since the last write, in other lanes, warps, blocks.
  bool lanes = false, warps = false, blocks = false;
};
struct Cell {
  Access written, read;  // the last of each
};
constexpr uintptr_t page_bytes = 1024;
struct Page {
  Cell cells[page_bytes];
};

std::unordered_map<uintptr_t, std::unique_ptr<Page>>& pages() {
  static auto* all = new std::unordered_map<uintptr_t, std::unique_ptr<Page>>;
  return *all;
}
uint64_t now = 0;
std::unordered_map<uint64_t, uint64_t>& last_atomic() {  // of each block of this launch
  static auto* all = new std::unordered_map<uint64_t, uint64_t>;
  return *all;
}
uint64_t launch_of_atomics = 0;

Cell& cell_of(uintptr_t at) {
  static uintptr_t last_number = UINTPTR_MAX;
  static Page* last = nullptr;
  const uintptr_t number = at / page_bytes;
  if (number != last_number) {
    auto& page = pages()[number];
    if (!page) page = std::make_unique<Page>();
    last = page.get();
    last_number = number;
  }
  return last->cells[at % page_bytes];
}

bool acquired(uint64_t block, uint64_t time) {
  if (launch_of_atomics != moment.launch) return false;
  const auto other = last_atomic().find(block);
  return other != last_atomic().end() && other->second >= time && last_atomic().count(moment.block) != 0;
}

uint32_t warp_phase(bool of_read) {
  const int warp = current->index / 32;
  return of_read ? moment.warp_meets[warp] : moment.warp_syncs[warp];
}

// Whether something lies between an earlier access and what happens now.
bool ordered(const Access& a, Region region, bool was_read) {
  if (a.block == 0 || a.block < moment.first_block) return true;
  if (a.block != moment.block) return region == Region::shared || acquired(a.block, a.time);
  if (a.blocks && region == Region::device && !acquired(a.block, a.time)) return false;
  if (a.phase != moment.phase) return true;
  const int me = current->index;
  if (a.warps || a.thread / 32 != me / 32) return false;
  if (a.warp_phase != warp_phase(was_read)) return true;
  return a.thread == me && !a.lanes;
}

void report(const Access& a, const char* was, size_t bytes, Kind kind, Region region, const void* code) {
  const char* does = kind == Kind::read ? "reads " : kind == Kind::write ? "writes " : "changes ";
  std::string text = std::string(does) + std::to_string(bytes) + " bytes of " +
                     (region == Region::shared ? "shared" : "device") + " memory that thread " +
                     std::to_string(a.thread) + (a.block == moment.block ? "" : " of another block") + " has " + was +
                     ", without a barrier between";
  Dl_info info;
  if (dladdr(code, &info) != 0 && info.dli_fname) {
    char offset[32];
    std::snprintf(offset, sizeof offset, "0x%zx",
                  static_cast<size_t>(static_cast<const char*>(code) - static_cast<const char*>(info.dli_fbase) - 1));
    text += std::string(" (addr2line -Cife ") + info.dli_fname + " " + offset + ")";
  }
  fail(text);
}

// Templates that this file shares with kernels may come from an instrumented file.
bool busy = false;

void access(const void* p, size_t bytes, Kind kind, const void* code) {
  if (!current || busy) return;
  busy = true;
  const Region region = region_of(p, bytes);
  if (region == Region::own) {
    busy = false;
    return;
  }
  if (region == Region::unknown)
    fail(std::string(kind == Kind::read ? "reads " : "writes ") + std::to_string(bytes) +
         " bytes outside shared memory and device memory");
  ++now;
  const int me = current->index;
  Access mine;
  mine.block = moment.block;
  mine.time = now;
  mine.phase = moment.phase;
  mine.warp_phase = warp_phase(kind == Kind::read);
  mine.thread = static_cast<uint16_t>(me);
  mine.atomic = kind == Kind::atomic;
  const auto first = reinterpret_cast<uintptr_t>(p);
  for (uintptr_t at = first; at < first + bytes; ++at) {
    Cell& cell = cell_of(at);
    if (!(mine.atomic && cell.written.atomic) && !ordered(cell.written, region, false))
      report(cell.written, "written", bytes, kind, region, code);
    if (kind != Kind::read) {
      if (!ordered(cell.read, region, true)) report(cell.read, "read", bytes, kind, region, code);
      cell.written = mine;
      cell.read = {};
      continue;
    }
    const Access& old = cell.read;
    Access next = mine;
    if (old.block >= moment.first_block) {
      if (old.block != mine.block) {
        next.blocks = true;
      } else {
        next.blocks = old.blocks;
        if (old.phase == mine.phase) {
          next.warps = old.warps || old.thread / 32 != mine.thread / 32;
          next.lanes = old.warp_phase == mine.warp_phase && (old.lanes || old.thread != mine.thread);
        }
      }
    }
    cell.read = next;
  }
  busy = false;
}

void note_atomic(const void* p, size_t bytes) {
  if (launch_of_atomics != moment.launch) {
    last_atomic().clear();
    launch_of_atomics = moment.launch;
  }
  access(p, bytes, Kind::atomic, __builtin_return_address(0));
  last_atomic()[moment.block] = ++now;
}

void note_access(const void* p, size_t bytes, bool write) {
  access(p, bytes, write ? Kind::write : Kind::read, __builtin_return_address(0));
}

}  // namespace

}  // namespace simt

// The names that compilers call.
extern "C" {
// NOLINTBEGIN: reserved names are the point
void __tsan_init() {
  simt::atomic_hook = simt::note_atomic;
  simt::access_hook = simt::note_access;
}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
#define SIMT_ACCESS(n)                                                                                            \
  void __tsan_read##n(void* p) { simt::access(p, n, simt::Kind::read, __builtin_return_address(0)); }             \
  void __tsan_write##n(void* p) { simt::access(p, n, simt::Kind::write, __builtin_return_address(0)); }           \
  void __tsan_unaligned_read##n(void* p) { simt::access(p, n, simt::Kind::read, __builtin_return_address(0)); }   \
  void __tsan_unaligned_write##n(void* p) { simt::access(p, n, simt::Kind::write, __builtin_return_address(0)); } \
  void __tsan_volatile_read##n(void* p) { simt::access(p, n, simt::Kind::read, __builtin_return_address(0)); }    \
  void __tsan_volatile_write##n(void* p) { simt::access(p, n, simt::Kind::write, __builtin_return_address(0)); }
SIMT_ACCESS(1)
SIMT_ACCESS(2)
SIMT_ACCESS(4)
SIMT_ACCESS(8)
SIMT_ACCESS(16)
#undef SIMT_ACCESS
void __tsan_read_range(void* p, size_t n) { simt::access(p, n, simt::Kind::read, __builtin_return_address(0)); }
void __tsan_write_range(void* p, size_t n) { simt::access(p, n, simt::Kind::write, __builtin_return_address(0)); }
// Atomic operations of the host's own code in those files, reference counts above all.
#define SIMT_ATOMIC(n, T)                                                                                        \
  T __tsan_atomic##n##_load(const volatile T* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }           \
  void __tsan_atomic##n##_store(volatile T* p, T x, int) { __atomic_store_n(p, x, __ATOMIC_SEQ_CST); }           \
  T __tsan_atomic##n##_exchange(volatile T* p, T x, int) { return __atomic_exchange_n(p, x, __ATOMIC_SEQ_CST); } \
  T __tsan_atomic##n##_fetch_add(volatile T* p, T x, int) { return __atomic_fetch_add(p, x, __ATOMIC_SEQ_CST); } \
  T __tsan_atomic##n##_fetch_sub(volatile T* p, T x, int) { return __atomic_fetch_sub(p, x, __ATOMIC_SEQ_CST); } \
  T __tsan_atomic##n##_fetch_and(volatile T* p, T x, int) { return __atomic_fetch_and(p, x, __ATOMIC_SEQ_CST); } \
  T __tsan_atomic##n##_fetch_or(volatile T* p, T x, int) { return __atomic_fetch_or(p, x, __ATOMIC_SEQ_CST); }
SIMT_ATOMIC(8, uint8_t)
SIMT_ATOMIC(32, uint32_t)
SIMT_ATOMIC(64, uint64_t)
#undef SIMT_ATOMIC
// NOLINTEND
}

#endif  // !SIMT_WHOLE_TSAN
