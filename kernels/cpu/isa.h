// Which instruction sets this machine can run, and the choice of one by name.
#pragma once
#include <string>

#include "base/namespaces.h"
#include "kernels/cpu/isa_kernels.h"

namespace signalbox::kernels::cpu {

// True when processor and operating system support "scalar", "avx2", "avx512", "avx512_bf16" or "amx"
// kernels.
bool has_isa(const std::string& name);

// The kernels for auto | scalar | avx2 | avx512 | amx. Bits of scalar, avx2 and avx512 are equal; amx has its own, with
// x as three bf16 numbers, which together hold all of an f32's bits. `fast`: x as one bf16 number, where the processor
// multiplies these faster. Throws Error naming --isa when the machine or the build lacks them.
const Kernels& choose_kernels(const std::string& name, bool fast = false);

}  // namespace signalbox::kernels::cpu
