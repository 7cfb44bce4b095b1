// Several traces of one run, put together.
#pragma once
#include <cstdint>
#include <filesystem>
#include <span>

#include "base/namespaces.h"

namespace signalbox::probes {

// A sample of one of the parts.
struct TracePick {
  int32_t part = 0;
  int64_t sample = 0;
};

// Writes the trace that holds the picked samples in the order given: trace.safetensors and records.jsonl in `dir` (made
// when it does not exist), byte-equal to what one TraceWriter would have written, and texts.jsonl where the parts have
// one. The parts are directories of traces with the same metadata (but for the samples), layers, tensors and widths;
// anything else is an Error naming both.
// Files appear under their names when both are whole and flushed. Memory: buffers of a few MB, 16 bytes per sample.
void merge_traces(const std::filesystem::path& dir, std::span<const std::filesystem::path> parts,
                  std::span<const TracePick> order);

}  // namespace signalbox::probes
