// Which instruction sets this machine can run, and the choice of one by name.
#pragma once
#include <string>

#include "base/namespaces.h"
#include "kernels/cpu/isa_kernels.h"

namespace signalbox::kernels::cpu {

// True when processor and operating system support "scalar", "avx2" or "avx512" kernels.
bool has_isa(const std::string& name);

// The kernels for auto | scalar | avx2 | avx512. Throws Error naming --isa when the machine or the build lacks them.
const Kernels& choose_kernels(const std::string& name);

}  // namespace signalbox::kernels::cpu
