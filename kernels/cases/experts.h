// Sizes at which the ops of routed experts are tested (kernels/cases/products.h says how).
#pragma once
#include <cstdint>

#include "base/dtype.h"
#include "base/namespaces.h"

namespace signalbox::kernels::cases {

// n_tokens tokens choose n_slots of n_experts experts each. With `bias` the activation clamps, as in the models that
// have biases. Rows of x, hidden and out lie `gap` elements further apart than they are long.
struct Experts {
  int64_t n_tokens, n_experts;
  int32_t n_slots;
  int64_t d_model, d_ff;
  DType dtype;
  bool bias;
  enum Pattern {
    spread,        // a random expert and those after it
    skewed,        // the same, most often among the first
    all_to_one,    // expert 2 in every slot
    unused_slots,  // spread, with a tail of slots without an expert that differs from token to token
    all_unused     // no expert at all
  } pattern;
  int64_t gap;
};
inline constexpr Experts experts[] = {
    // A device's tiles: few pairs per expert take small ones, more than 12 medium ones, more than 128 large ones; more
    // than 2048 pairs are sorted in chunks.
    {1, 8, 2, 48, 20, DType::bf16, false, Experts::spread, 0},
    {13, 8, 2, 33, 24, DType::bf16, true, Experts::unused_slots, 3},
    {40, 5, 3, 72, 40, DType::bf16, false, Experts::skewed, 8},
    {45, 3, 2, 130, 33, DType::bf16, true, Experts::all_to_one, 0},
    {150, 2, 2, 40, 70, DType::bf16, true, Experts::skewed, 8},
    {9, 6, 3, 160, 64, DType::mxfp4, true, Experts::spread, 0},
    {40, 4, 2, 64, 96, DType::mxfp4, true, Experts::unused_slots, 8},
    {140, 2, 2, 96, 32, DType::mxfp4, false, Experts::skewed, 0},
    {3, 4096, 4, 8, 8, DType::bf16, false, Experts::spread, 0},
    {20, 4, 2, 16, 16, DType::bf16, true, Experts::all_unused, 0},
    {1050, 300, 2, 8, 8, DType::bf16, true, Experts::skewed, 8},
    {1400, 8, 3, 8, 8, DType::bf16, false, Experts::unused_slots, 0},
    // Up to eight tokens: a device reads experts in place.
    {8, 6, 2, 136, 24, DType::bf16, true, Experts::spread, 0},
    {5, 4, 3, 33, 9, DType::f16, false, Experts::unused_slots, 3},
    {8, 4, 3, 40, 17, DType::f32, true, Experts::all_to_one, 0},  // 24 pairs of one expert: three groups of columns
    {2, 512, 10, 16, 8, DType::bf16, false, Experts::spread, 0},
    {6, 12, 12, 24, 16, DType::bf16, false, Experts::spread, 0},  // every expert
    {1, 3, 2, 64, 32, DType::mxfp4, false, Experts::spread, 0},
    {8, 4, 2, 288, 96, DType::mxfp4, true, Experts::unused_slots, 0},
    {3, 3, 3, 1184, 36, DType::mxfp4, true, Experts::spread, 3},
    {7, 5, 1, 40, 72, DType::mxfp4, false, Experts::spread, 0},
    // The CPU: every stored type in odd sizes.
    {40, 8, 2, 33, 24, DType::bf16, false, Experts::spread, 3},
    {30, 64, 6, 64, 40, DType::bf16, false, Experts::spread, 0},
    {40, 4, 1, 32, 33, DType::f32, true, Experts::all_to_one, 3},
    {17, 5, 3, 32, 32, DType::mxfp4, true, Experts::unused_slots, 0},
    {5, 512, 10, 16, 16, DType::f16, false, Experts::spread, 0},
    {6, 4, 4, 20, 24, DType::f16, true, Experts::spread, 0},
    {3, 4, 2, 16, 16, DType::bf16, true, Experts::unused_slots, 0},
    {0, 4, 2, 16, 16, DType::bf16, false, Experts::spread, 0},
};

}  // namespace signalbox::kernels::cases
