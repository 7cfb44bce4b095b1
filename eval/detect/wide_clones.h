// SIGNALBOX_WIDE_CLONES before a function: a copy of it for wider vectors, chosen at program start. Not where a
// sanitizer is in the way of that.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define SIGNALBOX_WIDE_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define SIGNALBOX_WIDE_CLONES
#endif
