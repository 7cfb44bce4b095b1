#include "eval/routing/shuffled.h"

#include <algorithm>
#include <atomic>
#include <numeric>

#include "eval/statistics/draws.h"

namespace signalbox::eval {

namespace {
constexpr size_t most_counts = size_t{1} << 26;  // of a turn, over all threads
}

Shuffles::Shuffles(uint64_t seed, size_t sample, int64_t n_tokens)
    : seed_(sample_seed(seed, sample)), order_(static_cast<size_t>(n_tokens)), bits_(order_.size()) {}

const std::vector<int64_t>& Shuffles::order(int64_t replicate) {
  std::iota(order_.begin(), order_.end(), int64_t{0});
  ResamplingDraws(seed_, Resampling::permutation).fill(replicate, bits_);
  ResamplingDraws::draw_subset(std::span(order_), order_.size(), bits_);
  return order_;
}

int64_t Shuffles::shift(int64_t replicate) {
  uint32_t bits = 0;
  ResamplingDraws(seed_, Resampling::permutation, 1).fill(replicate, std::span(&bits, 1));
  return ResamplingDraws::below(bits, order_.size());
}

namespace {

// A whole sample, or of each token and layer the expert of the highest weight alone, read in parts.
SampleRoutes read_sample(const TraceSet& set, size_t sample, const RouteOptions& options, bool top_alone) {
  const TraceSample& of = set.samples()[sample];
  const TraceReader::Rows rows = set.trace(of.trace).rows(of.index);
  SampleRoutes out;
  if (!top_alone) {
    read_rows(set, sample, rows, options.filter, false, out);
    set.trace(of.trace).release(rows);
    return out;
  }
  SampleRoutes part;
  for (int64_t begin = rows.begin; begin < rows.end; begin += options.block_rows) {
    read_block(set, {sample, begin, std::min(begin + options.block_rows, rows.end), 0}, options, true, part);
    out.tokens.insert(out.tokens.end(), part.tokens.begin(), part.tokens.end());
    out.next_tokens.insert(out.next_tokens.end(), part.next_tokens.begin(), part.next_tokens.end());
    out.positions.insert(out.positions.end(), part.positions.begin(), part.positions.end());
    for (int64_t token = 0; token < part.n(); ++token)
      for (int64_t layer = 0; layer < part.n_layers; ++layer) out.ids.push_back(part.top_expert(token, layer));
  }
  out.sample = sample;
  out.record = of.record;
  out.n_layers = static_cast<int64_t>(set.layers().size());
  out.n_slots = 1;
  return out;
}

}  // namespace

void run_null(const TraceSet& set, const RouteOptions& options, const char* table, size_t cells,
              const std::function<void(int64_t first, int64_t n, int32_t* counts, const SampleRoutes& routes)>& count,
              const std::function<void(int64_t first, int64_t n, const int32_t* counts)>& done, bool top_alone) {
  ThreadPool pool(threads_of(options));
  const size_t n_threads = static_cast<size_t>(pool.n_threads());
  const int64_t n_samples = static_cast<int64_t>(set.samples().size());
  const int64_t at_once =
      std::clamp<int64_t>(static_cast<int64_t>(most_counts / (std::max<size_t>(cells, 1) * n_threads)), 1,
                          std::max<int64_t>(options.resamples, 1));
  std::vector<std::vector<int32_t>> counts(n_threads);
  for (int64_t first = 0; first < options.resamples; first += at_once) {
    const int64_t n = std::min(at_once, options.resamples - first);
    for (std::vector<int32_t>& one : counts) one.assign(static_cast<size_t>(n) * cells, 0);
    std::atomic<int64_t> finished = 0;
    pool.parallel_for(n_samples, [&](int64_t sample, int thread) {
      const SampleRoutes routes = read_sample(set, static_cast<size_t>(sample), options, top_alone);
      if (routes.n() > 0) count(first, n, counts[static_cast<size_t>(thread)].data(), routes);
      const int64_t now = ++finished;
      if (thread == 0 && options.on_progress)
        options.on_progress(table, first * n_samples + now * n, options.resamples * n_samples);
    });
    for (size_t thread = 1; thread < n_threads; ++thread)
      for (size_t i = 0; i < counts[0].size(); ++i) counts[0][i] += counts[thread][i];
    done(first, n, counts[0].data());
  }
}

}  // namespace signalbox::eval
