#include "eval/routing/similarity.h"

#include <algorithm>
#include <map>
#include <span>
#include <utility>

#include "base/csv.h"
#include "base/files.h"
#include "eval/routing/likeness.h"

namespace signalbox::eval {

namespace {

// All tokens of a sample, counted or not.
std::vector<int32_t> all_tokens(const TraceSet& set, size_t sample) {
  const TraceReader& trace = set.trace(set.samples()[sample].trace);
  return trace.tokens(trace.rows(set.samples()[sample].index));
}

struct Means {
  int64_t pairs = 0, tokens = 0;
  std::vector<DefinedMean> jaccard, weighted, instability;  // [layer]
};

TokenRoute route_of(const SampleRoutes& routes, int64_t token, int64_t layer) {
  const size_t n = static_cast<size_t>(routes.n_slots);
  const size_t at = static_cast<size_t>(routes.route(token, layer) - routes.ids.data());
  TokenRoute out{std::span(routes.ids).subspan(at, n), {}};
  if (!routes.weights.empty()) out.weights = std::span(routes.weights).subspan(at, n);
  return out;
}

void compare(const SampleRoutes& a, const SampleRoutes& b, Means& means) {
  ++means.pairs;
  for (int64_t i = 0, j = 0; i < a.n() && j < b.n();) {
    const int32_t at_a = a.positions[static_cast<size_t>(i)], at_b = b.positions[static_cast<size_t>(j)];
    if (at_a != at_b) {
      at_a < at_b ? ++i : ++j;
      continue;
    }
    ++means.tokens;
    for (int64_t layer = 0; layer < a.n_layers; ++layer) {
      const RoutePair pair = compare_routes(route_of(a, i, layer), route_of(b, j, layer));
      const size_t l = static_cast<size_t>(layer);
      means.jaccard[l].add(pair.jaccard());
      means.weighted[l].add(pair.jaccard_weighted());
      if (!pair.empty())
        means.instability[l].add(static_cast<double>(std::max(pair.mine, pair.baseline) - pair.common));
    }
    ++i;
    ++j;
  }
}

}  // namespace

std::vector<Similarity> similarities(const TraceSet& set, const RouteOptions& options) {
  // pair -> condition -> samples
  std::map<std::string, std::map<std::string, std::vector<size_t>>> pairs;
  for (size_t sample = 0; sample < set.samples().size(); ++sample) {
    const TraceRecord& record = set.records()[set.samples()[sample].record];
    if (!record.pair.empty() && !record.condition.empty()) pairs[record.pair][record.condition].push_back(sample);
  }
  const std::vector<std::string> conditions = set.conditions();
  std::vector<Similarity> out;
  for (size_t i = 0; i < conditions.size(); ++i)
    for (size_t j = i + 1; j < conditions.size(); ++j) {
      const std::vector<DefinedMean> none(set.layers().size());
      Means means{0, 0, none, none, none};
      for (const auto& [pair, samples] : pairs) {
        const auto a = samples.find(conditions[i]), b = samples.find(conditions[j]);
        if (a == samples.end() || b == samples.end()) continue;
        for (size_t n = 0; n < std::min(a->second.size(), b->second.size()); ++n)
          if (all_tokens(set, a->second[n]) == all_tokens(set, b->second[n]))
            compare(read_routes(set, a->second[n], options.filter), read_routes(set, b->second[n], options.filter),
                    means);
      }
      if (means.pairs == 0) continue;
      for (size_t layer = 0; layer < set.layers().size(); ++layer) {
        Similarity one{conditions[i], conditions[j], set.layers()[layer], means.pairs, means.tokens};
        one.jaccard = means.jaccard[layer].mean().value_or(no_number);
        one.jaccard_weighted = means.weighted[layer].mean().value_or(no_number);
        one.instability = means.instability[layer].mean().value_or(no_number);
        out.push_back(std::move(one));
      }
    }
  return out;
}

void write_similarity_csv(const std::filesystem::path& file, const std::vector<Similarity>& rows) {
  CsvWriter csv(
      {"condition_a", "condition_b", "layer", "jaccard", "jaccard_weighted", "instability", "pairs", "tokens"});
  for (const Similarity& row : rows) {
    csv.cell(row.condition_a).cell(row.condition_b).cell(int64_t{row.layer}).cell(row.jaccard);
    csv.cell(row.jaccard_weighted).cell(row.instability).cell(row.pairs).cell(row.tokens).end_row();
  }
  write_file_atomically(file, csv.text());
}

}  // namespace signalbox::eval
