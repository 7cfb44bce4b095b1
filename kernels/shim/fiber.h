// Functions that can be left in the middle and gone on with later, on one thread of the host. A fiber never ends: it is
// left for another one for good.
#pragma once
#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#define SIMT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIMT_ASAN 1
#endif
#endif

namespace simt {

struct Fiber {
#if defined(__x86_64__)
  void* pointer = nullptr;  // of its stack, while it is left
#else
  ucontext_t context;
#endif
  const void* stack = nullptr;  // above a page that faults; null: the host's own
  size_t stack_bytes = 0;
#if defined(SIMT_ASAN)
  void* fake_stack = nullptr;
#endif
};

// Makes a fiber that calls main when it is first switched to. main never returns. The n-th fiber begins n lines of the
// cache further down its stack, so that the stacks of a block do not compete for the same lines.
void make_fiber(Fiber& fiber, void (*main)(), size_t n);
// Leaves `from`, which runs (the host's own to begin with), and goes on where `to` was left.
#if defined(__x86_64__) && !defined(SIMT_ASAN)
// Saves the registers that a call must keep on the stack, stores the stack's pointer in *save and goes on at `to`.
extern "C" void simt_switch(void** save, void* to);
inline void switch_fiber(Fiber& from, Fiber& to) { simt_switch(&from.pointer, to.pointer); }
#else
void switch_fiber(Fiber& from, Fiber& to);
#endif
// The first thing that main calls.
void enter_fiber(Fiber& fiber);

}  // namespace simt
