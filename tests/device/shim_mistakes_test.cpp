// Each mistake of a kernel, or of the side that launches it, which the shim promises to report: in a child process,
// which it ends.
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>

#include "tests/device/shim_run.h"

namespace signalbox::test {

namespace {

using namespace shim_run;

// What `work` wrote to stderr before it died; empty if it lived.
std::string last_words(const std::function<void()>& work) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    for (const int s : {SIGABRT, SIGSEGV, SIGBUS}) std::signal(s, SIG_DFL);
    dup2(ends[1], 2);
    close(ends[0]);
    work();
    _exit(0);
  }
  close(ends[1]);
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<size_t>(n));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  return text;
}

enum class Mistake : int {
  some_at_barrier,
  other_barrier,
  ends_before_barrier,
  lane_missing,
  partial_mask,
  other_warp_operation,
  barrier_or_warp,
  copy_target,
  copy_source_alignment,
  copy_of_host_memory,
  copy_past_end,
  unfinished_copy,
  matrix_alignment,
  matrix_outside,
  too_much_shared,
  sizes_differ,
  past_shared,
  past_device,
  atomic_alignment,
  load_alignment,
};

__global__ void wrong_kernel(Mistake mistake, unsigned char* device, const unsigned char* host) {
  SharedMemory memory;
  const unsigned i = threadIdx.x;
  auto* tile = memory.take<unsigned char>(mistake == Mistake::sizes_differ && i == 3 ? 512 : 1024);
  if (mistake == Mistake::too_much_shared) memory.take<unsigned char>(17);
  uint32_t r[4];
  switch (mistake) {
    case Mistake::some_at_barrier:
      if (i < 32) __syncthreads();
      break;
    case Mistake::other_barrier:
      if (i < 32) {
        __syncthreads();
      } else {
        __syncthreads();
      }
      break;
    case Mistake::ends_before_barrier:
      if (i == 63) return;
      __syncthreads();
      break;
    case Mistake::lane_missing:
      if (i % 32 != 7) __shfl_sync(all_lanes, i, 0);
      break;
    case Mistake::partial_mask: __shfl_sync(0xffffu, i, 0); break;
    case Mistake::other_warp_operation:
      if (i % 2 == 0) {
        __syncwarp();
      } else {
        __syncwarp();
      }
      break;
    case Mistake::barrier_or_warp:
      if (i % 2 == 0) {
        __syncthreads();
      } else {
        __syncwarp();
      }
      break;
    case Mistake::copy_target: copy_async(device, device); break;
    case Mistake::copy_source_alignment: copy_async(tile, device + 8); break;
    case Mistake::copy_of_host_memory: copy_async(tile, host); break;
    case Mistake::copy_past_end: copy_async(tile, device + 64, 16); break;
    case Mistake::unfinished_copy:
      copy_async(tile + i * 16, device);
      commit_copies();
      break;
    case Mistake::matrix_alignment: load_matrices(r, tile + 8); break;
    case Mistake::matrix_outside: load_matrices(r, tile + 1024 - 8 * 16 + i % 32 * 16); break;
    case Mistake::past_shared:
      if (i == 0) *const_cast<volatile unsigned char*>(tile + 1024) = 1;
      break;
    case Mistake::past_device:
      if (i == 0) *const_cast<volatile unsigned char*>(device + 72) = 1;
      break;
    case Mistake::atomic_alignment: atomicAdd(reinterpret_cast<unsigned*>(device + 2), 1u); break;
    case Mistake::load_alignment: load_streaming(device + 4); break;
    default: break;
  }
}

TEST_CASE("shim: mistakes end the process with a line that says where") {
  struct Case {
    Mistake mistake;
    const char* says;
  };
  const Case cases[] = {
      {Mistake::some_at_barrier, "the barrier at shim_mistakes_test.cpp:"},
      {Mistake::other_barrier, "other threads at the one at shim_mistakes_test.cpp:"},
      {Mistake::ends_before_barrier, "threads"},
      {Mistake::lane_missing, "other lanes"},
      {Mistake::partial_mask, "does not name all 32 lanes"},
      {Mistake::other_warp_operation, "other lanes at the one at shim_mistakes_test.cpp:"},
      {Mistake::barrier_or_warp, "other lanes at"},
      {Mistake::copy_target, "target is outside shared memory"},
      {Mistake::copy_source_alignment, "an asynchronous copy is not aligned to 16 bytes"},
      {Mistake::copy_of_host_memory, "an asynchronous copy reads outside device memory"},
      {Mistake::copy_past_end, "an asynchronous copy reads outside device memory"},
      {Mistake::unfinished_copy, "ends with asynchronous copies that it has not waited for"},
      {Mistake::matrix_alignment, "a row of ldmatrix is not aligned to 16 bytes"},
      {Mistake::matrix_outside, "a row of ldmatrix is outside shared memory"},
      {Mistake::too_much_shared, "takes 1056 bytes of shared memory, the launch asked for 1024"},
      {Mistake::sizes_differ, "takes shared arrays of other sizes than another thread"},
      {Mistake::past_shared, nullptr},
      {Mistake::past_device, nullptr},
      {Mistake::atomic_alignment, "an atomic operation is not aligned"},
      {Mistake::load_alignment, "a 16-byte load is not aligned to 16 bytes"},
  };
  alignas(16) const unsigned char host[16] = {};
  in_each_order([&] {
    for (const Case& c : cases) {
      CAPTURE(static_cast<int>(c.mistake));
      const std::string text = last_words([&] {
        const Array<unsigned char> device(72);
        go(wrong_kernel, 2, 64, 1024, c.mistake, device.data(), host);
      });
      CAPTURE(text);
      CHECK(!text.empty());
      if (c.says) {
        CHECK(text.find("simt: kernel test, block ") == 0);
        CHECK(text.find(c.says) != std::string::npos);
      } else {
        // The sanitizer's words, or the shim's when it looks at the guards.
        CHECK((text.find("AddressSanitizer") != std::string::npos || text.find("outside") != std::string::npos));
      }
    }
  });
}

// Accesses as an instrumented kernel reports them: the detector works in every build.
extern "C" {
void __tsan_init();
void __tsan_read4(void*);
void __tsan_write4(void*);
}
template <class T>
T seen(T* p) {
  __tsan_read4(p);
  return *p;
}
template <class T>
void put(T* p, T x) {
  __tsan_write4(p);
  *p = x;
}

enum class Sharing : int {
  none,
  missing_barrier,
  missing_warp_barrier,
  shuffle_is_no_barrier,
  write_after_shuffle,
  write_after_read,
  lost_update,
  blocks,
  last_block,
  last_block_without_atomic,
  atomics,
  atomic_and_plain,
  host_memory,
  refill,
  own_words,
};

__global__ void sharing_kernel(Sharing how, unsigned* device, unsigned* host) {
  SharedMemory memory;
  unsigned* words = memory.take<unsigned>(64);
  const unsigned i = threadIdx.x;
  put(words + i, i);
  switch (how) {
    case Sharing::none:
      __syncthreads();
      put(device + blockIdx.x * 64 + i, seen(words + (i + 40) % 64));
      __syncthreads();
      put(words + i, i);
      __syncwarp();
      put(device + blockIdx.x * 64 + i, seen(words + (i ^ 1)));
      break;
    case Sharing::missing_barrier: seen(words + (i + 32) % 64); break;
    case Sharing::missing_warp_barrier: seen(words + (i ^ 1)); break;
    case Sharing::shuffle_is_no_barrier:
      __shfl_sync(all_lanes, i, 0);
      seen(words + (i ^ 1));
      break;
    case Sharing::write_after_shuffle:
      __syncwarp();
      put(words + (i ^ 1), __shfl_xor_sync(all_lanes, seen(words + i), 2));
      break;
    case Sharing::write_after_read:
      __syncthreads();
      seen(words + (i + 32) % 64);
      put(words + i, i);
      break;
    case Sharing::lost_update:
      __syncthreads();
      put(words, seen(words) + 1);
      break;
    case Sharing::blocks: put(device + i, i); break;
    case Sharing::last_block:
    case Sharing::last_block_without_atomic: {
      put(device + 64 + blockIdx.x * 64 + i, i);
      __threadfence();
      __syncthreads();
      if (i == 0) put(words, how == Sharing::last_block ? atomicAdd(device, 1u) : gridDim.x - 1);
      __syncthreads();
      if (seen(words) == gridDim.x - 1) {
        for (unsigned b = 0; b < gridDim.x; ++b) seen(device + 64 + b * 64 + i);
      }
      break;
    }
    case Sharing::atomics:
      __syncthreads();
      atomicAdd(device + 1, i);
      atomicMax(words, i);
      __syncthreads();
      seen(words);
      break;
    case Sharing::atomic_and_plain:
      if (i == 0) put(device + 1, 0u);
      atomicAdd(device + 1, i);
      break;
    case Sharing::host_memory: seen(host); break;
    case Sharing::refill:
      __syncthreads();
      seen(words + i);
      if (i < 16) copy_async(words + i * 4, device);
      commit_copies();
      wait_copies<0>();
      break;
    case Sharing::own_words: {
      unsigned mine = 3;
      put(&mine, seen(&mine) + 1);
      put(words + i, seen(words + i) + mine);
      break;
    }
  }
}

TEST_CASE("shim: races are named") {
  struct Case {
    Sharing how;
    const char* says;  // null: nothing
  };
  const Case cases[] = {
      {Sharing::none, nullptr},
      {Sharing::missing_barrier, "of shared memory that thread"},
      {Sharing::missing_warp_barrier, "of shared memory that thread"},
      {Sharing::shuffle_is_no_barrier, "of shared memory that thread"},
      {Sharing::write_after_shuffle, nullptr},
      {Sharing::write_after_read, "without a barrier between"},
      {Sharing::lost_update, "without a barrier between"},
      {Sharing::blocks, "of device memory that thread"},
      {Sharing::last_block, nullptr},
      {Sharing::last_block_without_atomic, "of another block has "},
      {Sharing::atomics, nullptr},
      {Sharing::atomic_and_plain, "of device memory that thread"},
      {Sharing::host_memory, "reads 4 bytes outside shared memory and device memory"},
      {Sharing::refill, "of shared memory that thread"},
      {Sharing::own_words, nullptr},
  };
  auto* host = new unsigned(1);
  in_each_order([&] {
    for (const Case& c : cases) {
      CAPTURE(static_cast<int>(c.how));
      const std::string text = last_words([&] {
        __tsan_init();
        const Array<unsigned> device(std::vector<unsigned>(64 * 4, 0u));
        for (int i = 0; i < 2; ++i) {  // launches are ordered
          *device.data() = 0;
          go(sharing_kernel, 3, 64, 256, c.how, device.data(), host);
        }
      });
      CAPTURE(text);
      if (c.says) {
        CHECK(text.find(c.says) != std::string::npos);
      } else {
        CHECK(text.empty());
      }
    }
  });
  delete host;
}

__global__ void idle_kernel(int) {}

TEST_CASE("shim: mistakes of the launching side") {
  struct Case {
    const char* says;
    std::function<void()> work;
  };
  const Case cases[] = {
      {"whole warps, found 48", [] { go(idle_kernel, 1, 48, 256, 1); }},
      {"whole warps, found 2048", [] { go(idle_kernel, 1, 2048, 256, 1); }},
      {"expected a grid of at most", [] { go(idle_kernel, dim3(1, 65536), 32, 256, 1); }},
      {"at most 227 KiB of shared memory", [] { go(idle_kernel, 1, 32, 233 << 10, 1); }},
      {"waits for a stream that is captured",
       [] {
         const StreamOwner stream;
         Graph::begin(stream);
         synchronize(stream);
       }},
      {"allocates memory while a stream is captured",
       [] {
         const StreamOwner stream;
         Graph::begin(stream);
         allocate_device(5);
       }},
      {"memory that is not pinned is captured",
       [] {
         const StreamOwner stream;
         float host = 0;
         auto* x = static_cast<float*>(allocate_device(4));
         Graph::begin(stream);
         copy_async(x, &host, 4, stream);
       }},
      {"neither end in device memory",
       [] {
         const StreamOwner stream;
         auto* x = static_cast<float*>(allocate_device(4));
         float host[2];
         copy_async(host, x, 8, stream);  // longer than x
       }},
      {"fills memory outside device memory",
       [] {
         const StreamOwner stream;
         fill_async(allocate_device(4), 0, 5, stream);
       }},
  };
  for (const Case& c : cases) {
    CAPTURE(c.says);
    const std::string text = last_words(c.work);
    CAPTURE(text);
    CHECK(text.find("simt: host: ") == 0);
    CHECK(text.find(c.says) != std::string::npos);
  }
}

}  // namespace

}  // namespace signalbox::test
