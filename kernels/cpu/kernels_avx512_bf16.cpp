#if defined(__x86_64__) && !defined(__AVX512BF16__)
#error "this file needs the compiler flags of its instruction set"
#endif
#include "kernels/cpu/kernels.inc"

namespace signalbox::kernels::cpu {

const Kernels& kernels_avx512_bf16() {
  static constexpr Kernels kernels = make_kernels("avx512_bf16", &narrow_products);
  return kernels;
}

}  // namespace signalbox::kernels::cpu
