#include "eval/routing/route_walk.h"

#include <algorithm>
#include <thread>

namespace signalbox::eval {

int32_t SampleRoutes::top_expert(int64_t token, int64_t layer) const {
  const int32_t* experts = route(token, layer);
  if (weights.empty()) return experts[0];
  const float* weight = weights.data() + (token * n_layers + layer) * n_slots;
  int64_t best = -1;
  for (int64_t slot = 0; slot < n_slots; ++slot)
    if (experts[slot] >= 0 && (best < 0 || weight[slot] > weight[best])) best = slot;
  return best < 0 ? -1 : experts[best];
}

void read_rows(const TraceSet& set, size_t sample, TraceReader::Rows rows, const TokenFilter& filter, bool weights,
               SampleRoutes& out) {
  const TraceSample& of = set.samples()[sample];
  const TraceReader& trace = set.trace(of.trace);
  out.sample = sample;
  out.record = of.record;
  out.n_layers = static_cast<int64_t>(set.layers().size());
  out.n_slots = trace.n_slots();
  const int64_t end = trace.rows(of.index).end;
  std::vector<int32_t> tokens = trace.tokens({rows.begin, std::min(rows.end + 1, end)});
  if (rows.end == end) tokens.push_back(-1);
  out.next_tokens.assign(tokens.begin() + (rows.size() > 0), tokens.end());
  tokens.pop_back();
  out.tokens = std::move(tokens);
  out.next_tokens.resize(out.tokens.size());
  out.positions = trace.positions(rows);
  trace.ids(rows, out.ids);
  out.weights.clear();
  if (weights && set.has("router.weights")) {
    out.weights.resize(out.ids.size());
    trace.floats("router.weights", rows, out.weights.data());
  }
  if (filter.span.empty() && filter.phase == Phase::all) return;
  const std::vector<uint8_t> counted = counted_tokens(trace, rows, filter);
  const int64_t width = out.n_layers * out.n_slots;
  int64_t kept = 0;
  for (int64_t i = 0; i < rows.size(); ++i) {
    const size_t from = static_cast<size_t>(i), to = static_cast<size_t>(kept);
    if (!counted[from]) continue;
    out.tokens[to] = out.tokens[from];
    out.next_tokens[to] = out.next_tokens[from];
    out.positions[to] = out.positions[from];
    if (kept != i) {
      std::copy_n(out.ids.begin() + i * width, width, out.ids.begin() + kept * width);
      if (!out.weights.empty()) std::copy_n(out.weights.begin() + i * width, width, out.weights.begin() + kept * width);
    }
    ++kept;
  }
  out.tokens.resize(static_cast<size_t>(kept));
  out.next_tokens.resize(out.tokens.size());
  out.positions.resize(out.tokens.size());
  out.ids.resize(static_cast<size_t>(kept * width));
  if (!out.weights.empty()) out.weights.resize(out.ids.size());
}

SampleRoutes read_routes(const TraceSet& set, size_t sample, const TokenFilter& filter) {
  const TraceSample& of = set.samples()[sample];
  SampleRoutes out;
  read_rows(set, sample, set.trace(of.trace).rows(of.index), filter, true, out);
  return out;
}

std::vector<RouteBlock> route_blocks(const TraceSet& set, const RouteOptions& options, int64_t context) {
  std::vector<RouteBlock> blocks;
  for (size_t sample = 0; sample < set.samples().size(); ++sample) {
    const TraceSample& of = set.samples()[sample];
    const TraceReader::Rows all = set.trace(of.trace).rows(of.index);
    for (int64_t begin = all.begin; begin < all.end; begin += options.block_rows)
      blocks.push_back(
          {sample, begin, std::min(begin + options.block_rows, all.end), std::min(context, begin - all.begin)});
  }
  return blocks;
}

int64_t read_block(const TraceSet& set, const RouteBlock& block, const RouteOptions& options, bool weights,
                   SampleRoutes& out) {
  const TraceReader& trace = set.trace(set.samples()[block.sample].trace);
  const TraceReader::Rows rows = {block.begin - block.context, block.end};
  read_rows(set, block.sample, rows, options.filter, weights, out);
  trace.release(rows);
  if (block.context == 0) return 0;
  const std::vector<uint8_t> counted = counted_tokens(trace, {rows.begin, block.begin}, options.filter);
  return std::count(counted.begin(), counted.end(), 1);
}

int threads_of(const RouteOptions& options) {
  return options.threads > 0 ? options.threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

uint64_t sample_seed(uint64_t seed, size_t sample) { return seed + 0x9e3779b97f4a7c15u * (sample + 1); }

}  // namespace signalbox::eval
