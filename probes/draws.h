// Draws of edits, counter-based: a draw depends on what it is for and on nothing else, so batches and shards agree.
#pragma once
#include <cstdint>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::probes {

// Whether a token is in the drawn share. Keyed by (seed, record, sample, position): the same in all layers, and a token
// drawn for a share is drawn for every larger one.
bool draw_share(double share, uint64_t seed, uint64_t record_hash, uint32_t sample, int64_t position);

// A uniform permutation of 0..n-1, keyed by (seed, layer).
std::vector<int32_t> draw_permutation(int32_t n, uint64_t seed, int32_t layer);

}  // namespace signalbox::probes
