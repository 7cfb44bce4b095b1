#include "eval/routing/units.h"

#include <map>
#include <numeric>
#include <span>
#include <utility>

#include "eval/statistics/draws.h"

namespace signalbox::eval {

Units units_of(const TraceSet& set) {
  Units out;
  std::map<std::pair<std::string, std::string>, size_t> of_pair;
  for (const TraceRecord& record : set.records()) {
    size_t unit = out.domains.size();
    if (!record.pair.empty()) unit = of_pair.try_emplace({record.pair, record.domain}, unit).first->second;
    if (unit == out.domains.size()) out.domains.push_back(record.domain);
    out.of_record.push_back(unit);
  }
  out.samples.resize(out.size());
  for (size_t sample = 0; sample < set.samples().size(); ++sample)
    out.samples[out.of_record[set.samples()[sample].record]].push_back(sample);
  return out;
}

std::vector<uint8_t> halves_of(const Units& units, uint64_t seed) {
  const size_t n = units.size();
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t{0});
  std::vector<uint32_t> bits(n);
  ResamplingDraws(seed, Resampling::permutation, 2).fill(0, bits);
  ResamplingDraws::draw_subset(std::span(order), n, bits);
  std::vector<uint8_t> out(n, 0);
  for (size_t i = 0; i < n / 2; ++i) out[order[i]] = 1;
  return out;
}

}  // namespace signalbox::eval
