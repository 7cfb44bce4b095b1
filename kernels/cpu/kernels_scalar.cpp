#include "kernels/cpu/kernels.inc"

namespace signalbox::kernels::cpu {

const Kernels& kernels_scalar() {
  static constexpr Kernels kernels = make_kernels("scalar");
  return kernels;
}

}  // namespace signalbox::kernels::cpu
