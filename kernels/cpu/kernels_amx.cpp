#if defined(__x86_64__) && !defined(__AMX_TILE__) && !defined(__AMXTILE__)
#error "this file needs the compiler flags of its instruction set"
#endif
#include "kernels/cpu/gemm_tiles.inc"
#include "kernels/cpu/kernels.inc"

namespace signalbox::kernels::cpu {

const Kernels& kernels_amx() {
  static constexpr Kernels kernels = make_kernels("amx", &tile_products<3>);
  return kernels;
}

const Kernels& kernels_amx_fast() {
  static constexpr Kernels kernels = make_kernels("amx", &tile_products<1>);
  return kernels;
}

}  // namespace signalbox::kernels::cpu
