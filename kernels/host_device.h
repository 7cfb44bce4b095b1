// Functions that host code and CUDA kernels share.
#pragma once

#if defined(__CUDACC__)
#define SIGNALBOX_HOST_DEVICE __host__ __device__
#else
#define SIGNALBOX_HOST_DEVICE
#endif
