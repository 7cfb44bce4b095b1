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

SampleRoutes read_routes(const TraceSet& set, size_t sample, const TokenFilter& filter) {
  const TraceSample& of = set.samples()[sample];
  const TraceReader& trace = set.trace(of.trace);
  const TraceReader::Rows rows = trace.rows(of.index);
  SampleRoutes out;
  out.sample = sample;
  out.record = of.record;
  out.n_layers = static_cast<int64_t>(set.layers().size());
  out.n_slots = trace.n_slots();
  const std::vector<uint8_t> counted = counted_tokens(trace, rows, filter);
  const std::vector<int32_t> tokens = trace.tokens(rows), positions = trace.positions(rows);
  std::vector<int32_t> ids = trace.ids(rows);
  std::vector<float> weights;
  if (set.has("router.weights")) weights = trace.weights(rows);
  const int64_t width = out.n_layers * out.n_slots;
  int64_t kept = 0;
  for (int64_t i = 0; i < rows.size(); ++i) {
    const size_t at = static_cast<size_t>(i);
    if (!counted[at]) continue;
    out.tokens.push_back(tokens[at]);
    out.next_tokens.push_back(i + 1 < rows.size() ? tokens[at + 1] : -1);
    out.positions.push_back(positions[at]);
    if (kept != i) {
      std::copy_n(ids.begin() + i * width, width, ids.begin() + kept * width);
      if (!weights.empty()) std::copy_n(weights.begin() + i * width, width, weights.begin() + kept * width);
    }
    ++kept;
  }
  ids.resize(static_cast<size_t>(kept * width));
  if (!weights.empty()) weights.resize(ids.size());
  out.ids = std::move(ids);
  out.weights = std::move(weights);
  return out;
}

int threads_of(const RouteOptions& options) {
  return options.threads > 0 ? options.threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

uint64_t sample_seed(uint64_t seed, size_t sample) { return seed + 0x9e3779b97f4a7c15u * (sample + 1); }

}  // namespace signalbox::eval
