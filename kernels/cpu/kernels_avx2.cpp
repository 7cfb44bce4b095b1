#if defined(__x86_64__) && !defined(__AVX2__)
#error "this file needs the compiler flags of its instruction set"
#endif
#include "kernels/cpu/kernels.inc"

namespace signalbox::kernels::cpu {

const Kernels& kernels_avx2() {
  static constexpr Kernels kernels = make_kernels("avx2", &wide_products);
  return kernels;
}

}  // namespace signalbox::kernels::cpu
