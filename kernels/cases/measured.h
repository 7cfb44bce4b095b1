// Sizes at which the ops are measured (bench --kernels), at the dimensions of released models: numbers of rows, tokens,
// sequences and keys.
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::kernels::cases {

struct Measured {
  std::vector<int64_t> decode_rows, prefill_rows;  // of dense products; the output layer only sees the former
  std::vector<int64_t> route_tokens, moe_tokens, norm_rows, sample_rows;
  std::vector<int64_t> sequences, contexts;  // decoding: of each pair
  std::vector<std::pair<int64_t, int64_t>>
      prompts;  // {tokens, keys}: the last tokens of a context, all of it when equal
};

// All hot ops of every model that fits a device, in under 90 seconds.
inline Measured measured_on_device() {
  return {.decode_rows = {1, 8, 32, 64},
          .prefill_rows = {512, 4096},
          .route_tokens = {1, 32, 4096},
          .moe_tokens = {1, 8, 64, 512, 4096},
          .norm_rows = {1, 32, 4096},
          .sample_rows = {1, 32},
          .sequences = {1, 32},
          .contexts = {1024, 8192},
          .prompts = {{1024, 1024}, {4096, 4096}, {512, 8192}}};
}

// A selection in some tens of seconds.
inline Measured measured_on_cpu() {
  return {.decode_rows = {1, 8},
          .prefill_rows = {512},
          .route_tokens = {1, 512},
          .moe_tokens = {1, 512},
          .norm_rows = {512},
          .sample_rows = {1},
          .sequences = {1},
          .contexts = {8192},
          .prompts = {{512, 1024}}};
}

}  // namespace signalbox::kernels::cases
