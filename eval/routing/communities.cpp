#include "eval/routing/communities.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>

#include "base/csv.h"
#include "base/files.h"
#include "eval/routing/units.h"
#include "eval/statistics/paired.h"

namespace signalbox::eval {

namespace {

struct PairsAndUse {
  PairCounts pairs;               // a < b
  std::vector<int64_t> selected;  // [rows]
  PairsAndUse& operator+=(const PairsAndUse& other) {
    pairs += other.pairs;
    for (size_t i = 0; i < selected.size(); ++i) selected[i] += other.selected[i];
    return *this;
  }
};

void count_pairs(PairsAndUse& to, const SampleRoutes& routes) {
  for (int64_t token = 0; token < routes.n(); ++token)
    for (int64_t layer = 0; layer < routes.n_layers; ++layer) {
      const int32_t* experts = routes.route(token, layer);
      for (int64_t i = 0; i < routes.n_slots; ++i) {
        if (experts[i] < 0) continue;
        ++to.selected[static_cast<size_t>(layer * to.pairs.n_experts + experts[i])];
        for (int64_t j = i + 1; j < routes.n_slots; ++j)
          if (experts[j] >= 0)
            ++to.pairs.counts[to.pairs.cell(layer, std::min(experts[i], experts[j]), std::max(experts[i], experts[j]))];
      }
    }
}

PairGraph graph_of(const PairCounts& pairs, size_t layer) {
  PairGraph out;
  out.n = static_cast<size_t>(pairs.n_experts);
  out.counts.resize(out.n * out.n);
  for (size_t a = 0; a < out.n; ++a)
    for (size_t b = a + 1; b < out.n; ++b)
      out.counts[a * out.n + b] = out.counts[b * out.n + a] = static_cast<double>(
          pairs.counts[pairs.cell(static_cast<int64_t>(layer), static_cast<int64_t>(a), static_cast<int64_t>(b))]);
  return out;
}

std::vector<double> degrees_of(const PairGraph& graph) {
  std::vector<double> out(graph.n);
  for (size_t a = 0; a < graph.n; ++a)
    for (size_t b = 0; b < graph.n; ++b) out[a] += graph.counts[a * graph.n + b];
  return out;
}

// Sum over communities of (sum of x)^2 - sum of x^2: what is expected within.
double expected_within(const std::vector<double>& weights, const std::vector<int32_t>& community) {
  std::vector<double> sums;
  double squares = 0;
  for (size_t a = 0; a < weights.size(); ++a) {
    if (community[a] < 0) continue;
    const size_t c = static_cast<size_t>(community[a]);
    if (c >= sums.size()) sums.resize(c + 1);
    sums[c] += weights[a];
    squares += weights[a] * weights[a];
  }
  double out = -squares;
  for (const double sum : sums) out += sum * sum;
  return out;
}

// Numbers from 0, by first member.
void renumber(std::vector<int32_t>& community) {
  std::vector<int32_t> names(community.size(), -1);
  int32_t next = 0;
  for (int32_t& one : community) {
    if (one < 0) continue;
    int32_t& name = names[static_cast<size_t>(one)];
    if (name < 0) name = next++;
    one = name;
  }
}

// One level: the community of each node of a graph whose node c has weight x_c. True when a node has moved.
bool move_nodes(const std::vector<double>& counts, const std::vector<double>& x, std::vector<int32_t>& community) {
  const size_t n = x.size();
  std::vector<double> sums = x, to(n);
  std::iota(community.begin(), community.end(), 0);
  const double scale = std::accumulate(counts.begin(), counts.end(), 0.0);
  bool moved = false;
  for (bool again = true; again;) {
    again = false;
    for (size_t a = 0; a < n; ++a) {
      std::fill(to.begin(), to.end(), 0.0);
      for (size_t b = 0; b < n; ++b)
        if (b != a) to[static_cast<size_t>(community[b])] += counts[a * n + b];
      const size_t home = static_cast<size_t>(community[a]);
      sums[home] -= x[a];
      const auto gain = [&](size_t c) { return to[c] - x[a] * sums[c]; };
      size_t best = home;
      for (size_t c = 0; c < n; ++c)
        if (to[c] > 0 && gain(c) > gain(best) + 1e-12 * scale) best = c;
      sums[best] += x[a];
      if (best == home) continue;
      community[a] = static_cast<int32_t>(best);
      moved = again = true;
    }
  }
  return moved;
}

// Of one unit and all layers: pairs, and pairs inside communities above what is expected of the unit's own use.
struct UnitExcess {
  std::vector<double> excess, pairs;  // [layers]
};

}  // namespace

double PairGraph::total() const { return std::accumulate(counts.begin(), counts.end(), 0.0); }

std::vector<double> pair_weights(const std::vector<double>& degrees) {
  const double all = std::accumulate(degrees.begin(), degrees.end(), 0.0);
  std::vector<double> x(degrees.size());
  if (!(all > 0)) return x;
  for (size_t a = 0; a < x.size(); ++a) x[a] = degrees[a] / std::sqrt(all);
  // Halfway steps: whole ones swing to and fro where few experts have most of the pairs.
  for (int step = 0; step < 1000; ++step) {
    const double sum = std::accumulate(x.begin(), x.end(), 0.0);
    double moved = 0;
    for (size_t a = 0; a < x.size(); ++a) {
      if (degrees[a] <= 0) continue;
      const double next = (x[a] + degrees[a] / std::max(sum - x[a], 1e-300)) / 2;
      moved = std::max(moved, std::abs(next - x[a]) / next);
      x[a] = next;
    }
    if (moved < 1e-12) break;
  }
  return x;
}

std::vector<int32_t> louvain(const PairGraph& graph, const std::vector<double>& weights) {
  std::vector<size_t> nodes;  // of the graph, that have pairs
  for (size_t a = 0; a < graph.n; ++a)
    if (weights[a] > 0) nodes.push_back(a);
  std::vector<int32_t> of_node(nodes.size());
  std::iota(of_node.begin(), of_node.end(), 0);
  size_t n = nodes.size();
  std::vector<double> counts(n * n), x(n);
  for (size_t a = 0; a < n; ++a) {
    x[a] = weights[nodes[a]];
    for (size_t b = 0; b < n; ++b) counts[a * n + b] = graph.counts[nodes[a] * graph.n + nodes[b]];
  }
  for (std::vector<int32_t> community(n); move_nodes(counts, x, community); community.resize(n)) {
    renumber(community);
    for (int32_t& one : of_node) one = community[static_cast<size_t>(one)];
    const size_t merged = static_cast<size_t>(*std::max_element(community.begin(), community.end())) + 1;
    std::vector<double> next(merged * merged), sums(merged);
    for (size_t a = 0; a < n; ++a) {
      sums[static_cast<size_t>(community[a])] += x[a];
      for (size_t b = 0; b < n; ++b)
        next[static_cast<size_t>(community[a]) * merged + static_cast<size_t>(community[b])] += counts[a * n + b];
    }
    counts = std::move(next);
    x = std::move(sums);
    n = merged;
  }
  std::vector<int32_t> out(graph.n, -1);
  for (size_t a = 0; a < nodes.size(); ++a) out[nodes[a]] = of_node[a];
  renumber(out);
  return out;
}

double modularity(const PairGraph& graph, const std::vector<double>& weights, const std::vector<int32_t>& community) {
  double within = 0;
  for (size_t a = 0; a < graph.n; ++a)
    for (size_t b = 0; b < graph.n; ++b)
      if (community[a] >= 0 && community[a] == community[b]) within += graph.counts[a * graph.n + b];
  const double total = graph.total();
  return total > 0 ? (within - expected_within(weights, community)) / total : no_number;
}

CommunityTables communities(const TraceSet& set, const RouteOptions& options) {
  const size_t n_layers = set.layers().size(), n_experts = static_cast<size_t>(set.n_experts());
  const Units units = units_of(set);
  const std::vector<uint8_t> half_of = halves_of(units, options.seed);
  const PairsAndUse none{PairCounts(static_cast<int64_t>(n_layers), set.n_experts()),
                         std::vector<int64_t>(set.n_rows())};
  PairsAndUse explored = none;
  PairsAndUse all = tally_routes(set, options, none,
                                 [](PairsAndUse& mine, const SampleRoutes& routes) { count_pairs(mine, routes); });
  explored = tally_routes(set, options, none, [&](PairsAndUse& mine, const SampleRoutes& routes) {
    if (half_of[units.of_record[routes.record]] == 0) count_pairs(mine, routes);
  });

  CommunityTables out;
  std::vector<std::vector<int32_t>> proposed(n_layers);
  for (size_t layer = 0; layer < n_layers; ++layer) {
    const PairGraph graph = graph_of(all.pairs, layer);
    const std::vector<double> degrees = degrees_of(graph), weights = pair_weights(degrees);
    const std::vector<int32_t> found = louvain(graph, weights);
    LayerModularity one;
    one.layer = set.layers()[layer];
    one.modularity = modularity(graph, weights, found);
    for (size_t a = 0; a < n_experts; ++a) {
      double inside = 0;
      for (size_t b = 0; b < n_experts; ++b)
        if (found[a] == found[b]) inside += graph.counts[a * n_experts + b];
      out.experts.push_back({one.layer, static_cast<int32_t>(a), found[a] < 0 ? -1 : found[a] + 1,
                             all.selected[layer * n_experts + a], degrees[a] > 0 ? inside / degrees[a] : no_number});
      one.communities = std::max<int64_t>(one.communities, found[a] + 1);
    }
    out.layers.push_back(one);
    const PairGraph half = graph_of(explored.pairs, layer);
    proposed[layer] = louvain(half, pair_weights(degrees_of(half)));
  }

  std::vector<UnitExcess> confirmed(units.size());
  ThreadPool pool(threads_of(options));
  std::atomic<int64_t> finished = 0;
  const int64_t n_units = static_cast<int64_t>(units.size());
  pool.parallel_for(n_units, [&](int64_t unit, int thread) {
    const size_t u = static_cast<size_t>(unit);
    if (half_of[u] == 1) {
      UnitExcess& mine = confirmed[u];
      mine.excess.assign(n_layers, 0.0);
      mine.pairs.assign(n_layers, 0.0);
      std::vector<double> degrees(set.n_rows());
      for (const size_t sample : units.samples[u]) {
        const SampleRoutes routes = read_routes(set, sample, options.filter);
        for (int64_t token = 0; token < routes.n(); ++token)
          for (size_t layer = 0; layer < n_layers; ++layer) {
            const int32_t* experts = routes.route(token, static_cast<int64_t>(layer));
            for (int64_t i = 0; i < routes.n_slots; ++i)
              for (int64_t j = 0; j < routes.n_slots; ++j) {
                if (i == j || experts[i] < 0 || experts[j] < 0) continue;
                const size_t a = static_cast<size_t>(experts[i]), b = static_cast<size_t>(experts[j]);
                ++degrees[layer * n_experts + a];
                ++mine.pairs[layer];
                mine.excess[layer] += proposed[layer][a] >= 0 && proposed[layer][a] == proposed[layer][b];
              }
          }
      }
      for (size_t layer = 0; layer < n_layers; ++layer) {
        const auto begin = degrees.begin() + static_cast<int64_t>(layer * n_experts);
        const std::vector<double> x = pair_weights({begin, begin + static_cast<int64_t>(n_experts)});
        mine.excess[layer] -= expected_within(x, proposed[layer]);
      }
    }
    const int64_t now = ++finished;
    if (thread == 0 && options.on_progress) options.on_progress("communities", now, n_units);
  });
  std::vector<ClusteredValues> columns(n_layers);
  for (const UnitExcess& unit : confirmed)
    for (size_t layer = 0; layer < n_layers && !unit.pairs.empty(); ++layer)
      if (unit.pairs[layer] > 0) {
        columns[layer].sums.push_back(unit.excess[layer]);
        columns[layer].counts.push_back(unit.pairs[layer]);
      }
  const std::vector<double> p = sign_flip_ps(columns, options.seed, options.resamples, threads_of(options));
  const std::vector<double> q = benjamini_hochberg(p);
  for (size_t layer = 0; layer < n_layers; ++layer) {
    LayerModularity& one = out.layers[layer];
    const double pairs = std::accumulate(columns[layer].counts.begin(), columns[layer].counts.end(), 0.0);
    if (pairs > 0) one.held_out = std::accumulate(columns[layer].sums.begin(), columns[layer].sums.end(), 0.0) / pairs;
    one.p = p[layer];
    one.q = q[layer];
  }
  return out;
}

void write_communities_csv(const std::filesystem::path& file, const std::vector<Community>& rows) {
  CsvWriter csv({"layer", "expert", "community", "count", "within"});
  for (const Community& row : rows) {
    csv.cell(int64_t{row.layer}).cell(int64_t{row.expert});
    row.community > 0 ? csv.cell(int64_t{row.community}) : csv.cell(no_number);
    csv.cell(row.selected).cell(row.within).end_row();
  }
  write_file_atomically(file, csv.text());
}

void write_modularity_csv(const std::filesystem::path& file, const std::vector<LayerModularity>& rows) {
  CsvWriter csv({"layer", "communities", "modularity", "held_out", "p", "q"});
  for (const LayerModularity& row : rows) {
    csv.cell(int64_t{row.layer}).cell(row.communities).cell(row.modularity).cell(row.held_out).cell(row.p);
    csv.cell(row.q).end_row();
  }
  write_file_atomically(file, csv.text());
}

}  // namespace signalbox::eval
