// The one view that every routing table is a function of: the tokens that count, sample by sample, with their routes.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "base/namespaces.h"
#include "base/thread_pool.h"
#include "eval/routing/trace_set.h"

namespace signalbox::eval {

// The tokens of one sample that count, in order.
struct SampleRoutes {
  size_t sample = 0, record = 0;  // indices into TraceSet::samples() and records()
  int64_t n_layers = 0, n_slots = 0;
  std::vector<int32_t> tokens;       // [n]
  std::vector<int32_t> next_tokens;  // [n] what follows in the sample, whether it counts or not; -1 at its end
  std::vector<int32_t> positions;    // [n] ascending
  std::vector<int32_t> ids;          // [n, n_layers, n_slots], -1 = unused slot
  std::vector<float> weights;        // the same; empty where router.weights is not recorded

  int64_t n() const { return static_cast<int64_t>(tokens.size()); }
  // [n_slots]
  const int32_t* route(int64_t token, int64_t layer) const { return ids.data() + (token * n_layers + layer) * n_slots; }
  // Whether it and the token before it in this list are neighbours: their positions differ by 1.
  bool follows(int64_t token) const {
    const size_t i = static_cast<size_t>(token);
    return token > 0 && positions[i] == positions[i - 1] + 1;
  }
  // The expert of the highest weight (of equal ones the first slot), or of the first slot where there are no weights;
  // -1 for a token without a route.
  int32_t top_expert(int64_t token, int64_t layer) const;
};

// Throws Error as counted_tokens does, and where a trace's rows break its schema.
SampleRoutes read_routes(const TraceSet& set, size_t sample, const TokenFilter& filter);

// What tables of resampled nulls and counts have in common.
struct RouteOptions {
  TokenFilter filter;
  uint64_t seed = 0;
  int64_t resamples = 999;                                                          // of a null
  int threads = 0;                                                                  // 0 = all
  std::function<void(const char* table, int64_t done, int64_t total)> on_progress;  // samples, or samples x replicates
  std::function<void(const char* table, int64_t done, int64_t total)> on_tokens;    // of a walk over all of them
  int64_t block_rows = 2048;  // at most, of what is read at once where samples are walked in parts
};
int threads_of(const RouteOptions& options);

// Calls take(tally, routes) for every sample, each thread with a tally of its own that begins as a copy of `empty`, and
// adds them up with `+=`, which must not depend on the order: counts are integers.
template <class Tally, class Take>
Tally tally_routes(const TraceSet& set, const RouteOptions& options, const Tally& empty, Take take) {
  ThreadPool pool(threads_of(options));
  std::vector<Tally> tallies(static_cast<size_t>(pool.n_threads()), empty);
  pool.parallel_for(static_cast<int64_t>(set.samples().size()), [&](int64_t sample, int thread) {
    take(tallies[static_cast<size_t>(thread)], read_routes(set, static_cast<size_t>(sample), options.filter));
  });
  for (size_t i = 1; i < tallies.size(); ++i) tallies[0] += tallies[i];
  return std::move(tallies[0]);
}

// ---- The same in parts, for samples of any length

// What a walk in parts reads.
struct BlockWalk {
  const char* table = "";  // for progress
  bool weights = false;    // router.weights, where they are recorded
  int64_t context = 0;     // rows before each part that are read again, for what looks back
};

// Rows [rows.begin, rows.end) of one sample as SampleRoutes; `weights`: where they are recorded. Throws as read_routes.
void read_rows(const TraceSet& set, size_t sample, TraceReader::Rows rows, const TokenFilter& filter, bool weights,
               SampleRoutes& out);

struct RouteBlock {
  size_t sample = 0;
  int64_t begin = 0, end = 0;  // rows of its trace
  int64_t context = 0;         // rows before `begin` that come with it, of the same sample
};
std::vector<RouteBlock> route_blocks(const TraceSet& set, const RouteOptions& options, int64_t context);
// Reads one, and lets go of its pages: memory does not grow with the trace. Returns how many of the tokens that count
// lie in its context.
int64_t read_block(const TraceSet& set, const RouteBlock& block, const RouteOptions& options, bool weights,
                   SampleRoutes& out);

// As tally_routes, in parts of samples: take(tally, routes, first) for each; tokens before `first` are those of the
// part before that lie in its last `walk.context` rows. Every token is beyond `first` once.
template <class Tally, class Take>
Tally tally_blocks(const TraceSet& set, const RouteOptions& options, const BlockWalk& walk, const Tally& empty,
                   Take take) {
  ThreadPool pool(threads_of(options));
  const std::vector<RouteBlock> blocks = route_blocks(set, options, walk.context);
  int64_t total = 0;
  for (const RouteBlock& block : blocks) total += block.end - block.begin;
  std::vector<Tally> tallies(static_cast<size_t>(pool.n_threads()), empty);
  std::vector<SampleRoutes> routes(tallies.size());
  std::atomic<int64_t> done = 0;
  pool.parallel_for(static_cast<int64_t>(blocks.size()), [&](int64_t i, int thread) {
    const RouteBlock& block = blocks[static_cast<size_t>(i)];
    SampleRoutes& mine = routes[static_cast<size_t>(thread)];
    const int64_t first = read_block(set, block, options, walk.weights, mine);
    take(tallies[static_cast<size_t>(thread)], mine, first);
    done += block.end - block.begin;
    if (thread == 0 && options.on_tokens) options.on_tokens(walk.table, done, total);
  });
  for (size_t i = 1; i < tallies.size(); ++i) tallies[0] += tallies[i];
  return std::move(tallies[0]);
}

// A seed of its own for every sample, so that draws do not depend on how samples are shared out.
uint64_t sample_seed(uint64_t seed, size_t sample);

// Counts by (group, expert, expert): [n_groups, n_experts, n_experts].
struct PairCounts {
  int64_t n_experts = 0;
  std::vector<int64_t> counts;
  PairCounts(int64_t n_groups, int64_t experts)
      : n_experts(experts), counts(static_cast<size_t>(n_groups * experts * experts)) {}
  size_t cell(int64_t group, int64_t a, int64_t b) const {
    return static_cast<size_t>((group * n_experts + a) * n_experts + b);
  }
  PairCounts& operator+=(const PairCounts& other) {
    for (size_t i = 0; i < counts.size(); ++i) counts[i] += other.counts[i];
    return *this;
  }
};

}  // namespace signalbox::eval
