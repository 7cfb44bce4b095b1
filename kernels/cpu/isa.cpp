#include "kernels/cpu/isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "base/error.h"

namespace signalbox::kernels::cpu {

namespace {

struct Features {
  bool avx2 = false, avx512 = false;
  bool avx512_bf16 = false, amx = false;
  bool fast_pairs = false;  // vdpbf16ps does more than f32 multiply-adds
};

#if defined(__x86_64__)
// The register state that the operating system saves: bits 1, 2 = SSE and AVX, 5, 6, 7 = AVX-512.
uint64_t saved_state() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

Features detect() {
  Features features;
  uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return features;
  const bool xsave = (c & bit_OSXSAVE) && (c & bit_AVX), fma = c & bit_FMA, f16c = c & bit_F16C;
  if (!xsave || !fma || !f16c || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return features;
  const uint64_t state = saved_state();
  features.avx2 = (state & 0x6) == 0x6 && (b & bit_AVX2);
  const uint32_t avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
  features.avx512 = features.avx2 && (state & 0xe6) == 0xe6 && (b & avx512) == avx512;
  const bool amx = (d & (1u << 24)) && (d & (1u << 22)) && (state & 0x60000) == 0x60000;  // tiles, bf16, their state
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) features.avx512_bf16 = features.avx512 && (a & (1u << 5));
  // On Intel's it has half the rate of f32 multiply-adds, on AMD's twice as much.
  features.fast_pairs = features.avx512_bf16 && __get_cpuid(0, &a, &b, &c, &d) && b == signature_AMD_ebx;
  // Linux gives the registers of tiles to processes that ask, for all threads that they have later.
  constexpr int request_permission = 0x1023, tile_data = 18;
  features.amx = amx && features.avx512_bf16 && syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
  return features;
}
#else
Features detect() { return {}; }
#endif

const Features& features() {
  static const Features found = detect();
  return found;
}

}  // namespace

bool has_isa(const std::string& name) {
  return name == "scalar" || (name == "avx2" && features().avx2) || (name == "avx512" && features().avx512) ||
         (name == "avx512_bf16" && features().avx512_bf16) || (name == "amx" && features().amx);
}

const Kernels& choose_kernels(const std::string& name, bool fast) {
  if (name != "auto" && name != "scalar" && name != "avx2" && name != "avx512" && name != "amx")
    throw Error("--isa", "expected auto, scalar, avx2, avx512 or amx, found " + name);
  if (name != "auto" && !has_isa(name)) {
    throw Error("--isa", "expected an instruction set of this processor, found " + name + ", which it lacks");
  }
#if defined(__x86_64__)
  // amx has bits of its own: auto takes it where they may differ from machine to machine.
  if (name == "amx" || (name == "auto" && fast && features().amx)) return fast ? kernels_amx_fast() : kernels_amx();
  if (name == "avx512" || (name == "auto" && features().avx512))
    return fast && features().fast_pairs ? kernels_avx512_bf16() : kernels_avx512();
  if (name == "avx2" || (name == "auto" && features().avx2)) return kernels_avx2();
#endif
  return kernels_scalar();
}

}  // namespace signalbox::kernels::cpu
