// What the instructions do that the kernels are written in, each alone, on operands made from a seed (operands.h): mma,
// ldmatrix, cp.async, conversions, exponentials, shuffles. The same source runs on a GPU (gpu_kit) and under the shim
// (tests/device/instructions_test.cpp). tools/bench/instructions.py judges the results and compares two devices.
//
// No GPU has run this yet.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/cuda/device.h"

namespace signalbox::kernels::DEVICE_SPACE {

// One instruction on one set of operands. `words` is its result, in the order that instructions.py documents for it.
struct InstructionResult {
  std::string instruction, operands;  // "mma.m16n8k16.bf16", "ordinary"
  uint64_t seed = 0;
  int64_t n = 0;  // pieces of work: tiles, warps, values
  std::vector<uint32_t> words;
};

// {"instruction", "operands", "seed", "n", "words"}: words as 8 hexadecimal digits each, without anything between.
std::string json_line(const InstructionResult& result);

// Runs everything on the current device (runtime.h: open_device) and reports each result as it is there.
void run_instructions(const std::function<void(const InstructionResult&)>& report);

}  // namespace signalbox::kernels::DEVICE_SPACE
