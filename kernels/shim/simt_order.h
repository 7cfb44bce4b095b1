// How the shim runs threads, warps, blocks and streams: a result that changes with it is a race.
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace simt {

enum class Order : uint8_t { ascending, descending, shuffled };
// From now on, in this process. Warps run from one barrier of the block to the next; shuffled also changes between them
// at warp operations. All orders but ascending are deferred.
void set_order(Order order, uint64_t seed = 0);
// True: a stream's work is done when somebody waits for it, at the latest moment that a GPU may take.
void set_deferred(bool deferred);
// Kernels that were run since the start, by name, with how often.
std::vector<std::pair<std::string, int64_t>> launches();

// Whether the kernels were compiled so that races.cpp sees their accesses (race_tests).
bool watches_races();

}  // namespace simt
