// The samples of a trace that a report holds: texts token by token with the experts of each, packed for a browser.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>

#include "base/json.h"
#include "base/namespaces.h"

namespace signalbox::eval {

// What a report takes of a trace at most.
struct SampleLimits {
  int64_t bytes = 1200 * 1024;   // of routes and texts, before base64
  int64_t sample_tokens = 2000;  // the beginning of a longer sample
  int64_t samples = 400;
};

// `index`, with N samples, L layers, E experts and k slots:
//   n_experts, n_slots, layers [L], id_bytes (1 or 2), weights: [lo, hi] or null, edited,
//   n_samples, n_tokens: of the whole trace,
//   samples [N]: {id, nth (from 0, of samples with that id), condition, domain, row (its first in the blocks), n, of
//   (its tokens in the trace), given (tokens before the first generated one), tokens [n], texts [n] or null}.
// `ids` [rows, L, k]: unsigned little-endian numbers of id_bytes; the largest: an unused slot. `weights` [rows, L, k]:
// bytes b, for lo + b (hi - lo) / 255; empty where the trace has none. `changed` [rows, L]: in an edited trace, slots
// of which the expert is not one that the router chose without the edit; else empty.
struct PackedSamples {
  json::Value index;
  std::string ids, weights, changed;
};

// Of a trace directory with routes. Samples are chosen in turn from each combination of condition and domain, in the
// order of the trace, until one does not fit, and stand in the order of the trace. Reads texts.jsonl where it is there.
// Throws Error for files that TraceSet refuses, and for lines of texts.jsonl that break its schema.
PackedSamples pack_samples(const std::filesystem::path& trace, const SampleLimits& limits = {});

}  // namespace signalbox::eval
