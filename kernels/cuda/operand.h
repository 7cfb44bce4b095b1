// Operands as the tiles want them.
#pragma once
#include "base/namespaces.h"
#include "kernels/cuda/runtime.h"

namespace signalbox::kernels::DEVICE_SPACE {

// Rows of x start at addresses of 16 bytes, so that asynchronous copies can read it in place. `step`: elements from one
// part of a row that is read by itself to the next.
inline bool is_aligned_operand(Tensor x, int64_t step = 8) {
  return reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.stride % 8 == 0 && step % 8 == 0;
}

// to [rows, n_parts * part_stride] bf16: of each of the n_parts parts of x's rows, `from_step` elements apart, the
// first `count` elements. x f32 or bf16.
void copy_operand(Stream stream, bf16* to, int64_t part_stride, Tensor x, int64_t n_parts, int64_t from_step,
                  int64_t count);

}  // namespace signalbox::kernels::DEVICE_SPACE
