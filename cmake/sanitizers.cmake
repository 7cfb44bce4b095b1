# The flags of the builds with sanitizers (the presets asan and tsan), on signalbox_flags. Sets three lists, empty elsewhere:
#   light_options    what is not arithmetic is compiled without optimisation there, in half of the time
#   kernel_options   the kernels, of the CPU and as C++ of the GPU: with their loops as they are written. Unrolled, each
#                    copy of an access has checks of its own, and the compiler takes three times as long
#   fuzz_options     what the fuzzers read their way into counts where it goes; kernels and tests need not
set(light_options "")
set(kernel_options "")
set(fuzz_options "")
if(SIGNALBOX_SANITIZE)
  set(sanitize -fsanitize=${SIGNALBOX_SANITIZE} -fno-omit-frame-pointer -g1)
  if(SIGNALBOX_SANITIZE MATCHES undefined)
    # Null pointers end the process under the address sanitizer as they are; with the checks of each use, and those of the
    # types behind virtual calls, the compiler takes a fifth longer.
    list(APPEND sanitize -fno-sanitize-recover=all -fno-sanitize=null,vptr)
  endif()
  target_compile_options(signalbox_flags INTERFACE "$<${by_host}:${sanitize}>")
  target_link_options(signalbox_flags INTERFACE -fsanitize=${SIGNALBOX_SANITIZE})
  if(SIGNALBOX_FUZZ)
    set(fuzz_options -fsanitize=fuzzer-no-link)
  endif()
  if(SIGNALBOX_SANITIZE MATCHES address)
    # At a fixed address: the sanitizer's tables of globals are millions of relocations otherwise, which took each of the
    # thousands of processes that the tests start as long as all the rest of its start (0.09 s and 145 MB for 0.045 s and
    # 83 MB).
    target_link_options(signalbox_flags INTERFACE -no-pie)
  endif()
  if(CMAKE_CXX_COMPILER_ID MATCHES Clang)
    target_link_options(signalbox_flags INTERFACE -fuse-ld=lld)   # a dozen large binaries
    set(kernel_options "SHELL:-mllvm -pragma-unroll-threshold=1" -Wno-pass-failed)
  endif()
  set(light_options -O0)
endif()
