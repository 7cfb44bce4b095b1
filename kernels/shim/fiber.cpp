#include "kernels/shim/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#if defined(SIMT_ASAN)
#include <sanitizer/common_interface_defs.h>
#endif

namespace simt {

namespace {

constexpr size_t stack_bytes = 256 << 10;  // pages are taken as they are touched
constexpr size_t guard_bytes = 4096;
constexpr size_t line_bytes = 64, n_lines = 64;

#if defined(SIMT_ASAN)
Fiber* left = nullptr;  // the fiber that was left last: whoever goes on learns its stack's bounds
#endif

#if defined(__x86_64__)
extern "C" void simt_switch(void** save, void* to);
asm(R"(
.text
.globl simt_switch
.type simt_switch, @function
.balign 16
simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch, .-simt_switch
)");
#endif

}  // namespace

void make_fiber(Fiber& fiber, void (*main)(), size_t n) {
  void* memory = mmap(nullptr, stack_bytes + guard_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, guard_bytes, PROT_NONE) != 0) {
    std::perror("simt: stack of a fiber");
    std::abort();
  }
  char* stack = static_cast<char*>(memory) + guard_bytes;
  fiber.stack = stack;
  fiber.stack_bytes = stack_bytes;
  // An odd number of lines apart, spread over a page.
  const size_t used = stack_bytes - n * 9 % n_lines * line_bytes;
#if defined(__x86_64__)
  auto* top = reinterpret_cast<uint64_t*>(stack + used);
  *--top = 0;  // keeps the stack aligned as if main had been called
  *--top = reinterpret_cast<uint64_t>(main);
  for (int i = 0; i < 6; ++i) *--top = 0;
  fiber.pointer = top;
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stack;
  fiber.context.uc_stack.ss_size = used;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, main, 0);
#endif
}

#if !defined(__x86_64__) || defined(SIMT_ASAN)
void switch_fiber(Fiber& from, Fiber& to) {
#if defined(SIMT_ASAN)
  left = &from;
  __sanitizer_start_switch_fiber(&from.fake_stack, to.stack, to.stack_bytes);
#endif
#if defined(__x86_64__)
  simt_switch(&from.pointer, to.pointer);
#else
  swapcontext(&from.context, &to.context);
#endif
#if defined(SIMT_ASAN)
  __sanitizer_finish_switch_fiber(from.fake_stack, &left->stack, &left->stack_bytes);
#endif
}
#endif

void enter_fiber(Fiber& fiber) {
#if defined(SIMT_ASAN)
  __sanitizer_finish_switch_fiber(fiber.fake_stack, &left->stack, &left->stack_bytes);
#else
  static_cast<void>(fiber);
#endif
}

}  // namespace simt
