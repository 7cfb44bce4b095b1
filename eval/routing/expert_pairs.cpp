#include "eval/routing/expert_pairs.h"

#include <algorithm>
#include <cmath>

#include "base/csv.h"
#include "base/files.h"
#include "eval/routing/shuffled.h"
#include "eval/routing/turned_pairs.h"
#include "eval/statistics/resampling.h"

namespace signalbox::eval {

namespace {

// Pairs within a group (a layer), and how many tokens select each expert.
struct PairTally {
  PairCounts pairs;
  std::vector<int64_t> selected;
  int64_t tokens = 0;
  PairTally& operator+=(const PairTally& other) {
    pairs += other.pairs;
    for (size_t i = 0; i < selected.size(); ++i) selected[i] += other.selected[i];
    tokens += other.tokens;
    return *this;
  }
};

PairTally empty_tally(const TraceSet& set) {
  return {PairCounts(static_cast<int64_t>(set.layers().size()), set.n_experts()), std::vector<int64_t>(set.n_rows())};
}

void count_selected(PairTally& tally, const SampleRoutes& routes) {
  tally.tokens += routes.n();
  for (int64_t token = 0; token < routes.n(); ++token)
    for (int64_t layer = 0; layer < routes.n_layers; ++layer) {
      const int32_t* experts = routes.route(token, layer);
      for (int64_t slot = 0; slot < routes.n_slots; ++slot)
        if (experts[slot] >= 0) ++tally.selected[static_cast<size_t>(layer * tally.pairs.n_experts + experts[slot])];
    }
}

// The cells of a table that occurred, numbered; -1 for the others.
struct Occurred {
  std::vector<size_t> cells;
  std::vector<int32_t> index;
  explicit Occurred(const PairCounts& pairs) : index(pairs.counts.size(), -1) {
    for (size_t cell = 0; cell < pairs.counts.size(); ++cell)
      if (pairs.counts[cell] > 0) {
        index[cell] = static_cast<int32_t>(cells.size());
        cells.push_back(cell);
      }
  }
};

// How often each occurred cell's count is reached under a null, and the mean of the null's.
struct NullOfPairs {
  std::vector<int64_t> hits, sums;
  std::vector<double> p, q;
};

// p of hits under a null, and q; `family`: pairs in it, those that did not occur with p 1.
void significance(const std::vector<int64_t>& hits, int64_t resamples, size_t family, std::vector<double>& p,
                  std::vector<double>& q) {
  for (const int64_t one : hits) p.push_back(static_cast<double>(1 + one) / static_cast<double>(1 + resamples));
  std::vector<double> all = p;
  all.resize(std::max(family, all.size()), 1.0);
  all = benjamini_hochberg(all);
  all.resize(hits.size());
  q = std::move(all);
}

// counts_of(routes) gives what counts one sample: a function (shuffles, replicate, add) that calls add(cell) for each
// of its pairs. `family`: as of significance.
template <class CountsOf>
NullOfPairs null_of_pairs(const TraceSet& set, const RouteOptions& options, const char* table, const PairCounts& pairs,
                          const Occurred& occurred, size_t family, bool top_alone, CountsOf counts_of) {
  const size_t n = occurred.cells.size();
  NullOfPairs out{std::vector<int64_t>(n), std::vector<int64_t>(n), {}, {}};
  run_null(
      set, options, table, n,
      [&](int64_t first, int64_t n_here, int32_t* counts, const SampleRoutes& routes) {
        Shuffles shuffles(options.seed, routes.sample, routes.n());
        const auto count = counts_of(routes);
        for (int64_t i = 0; i < n_here; ++i) {
          int32_t* mine = counts + static_cast<size_t>(i) * n;
          count(shuffles, first + i, [&](size_t cell) {
            if (const int32_t index = occurred.index[cell]; index >= 0) ++mine[index];
          });
        }
      },
      [&](int64_t, int64_t n_here, const int32_t* counts) {
        for (int64_t i = 0; i < n_here; ++i)
          for (size_t k = 0; k < n; ++k) {
            const int32_t value = counts[static_cast<size_t>(i) * n + k];
            out.hits[k] += value >= pairs.counts[occurred.cells[k]];
            out.sums[k] += value;
          }
      },
      top_alone);
  significance(out.hits, options.resamples, family, out.p, out.q);
  return out;
}

// The expert of the highest weight of every token at every layer: [n, n_layers].
std::vector<int32_t> first_experts(const SampleRoutes& routes) {
  std::vector<int32_t> first;
  first.reserve(static_cast<size_t>(routes.n() * routes.n_layers));
  for (int64_t token = 0; token < routes.n(); ++token)
    for (int64_t layer = 0; layer < routes.n_layers; ++layer) first.push_back(routes.top_expert(token, layer));
  return first;
}

// Those whose later token stands at `from` or behind; `first` as of first_experts.
template <class Add>
void add_transitions(const SampleRoutes& routes, const std::vector<int32_t>& first, int64_t from,
                     const PairCounts& pairs, const std::vector<int64_t>* order, Add add) {
  for (int64_t place = std::max<int64_t>(1, from); place < routes.n(); ++place) {
    if (!routes.follows(place)) continue;
    const int64_t before = order ? (*order)[static_cast<size_t>(place - 1)] : place - 1,
                  after = order ? (*order)[static_cast<size_t>(place)] : place;
    const int32_t *a = first.data() + before * routes.n_layers, *b = first.data() + after * routes.n_layers;
    for (int64_t layer = 0; layer < routes.n_layers; ++layer)
      if (a[layer] >= 0 && b[layer] >= 0) add(pairs.cell(layer, a[layer], b[layer]));
  }
}

// Layer by layer, so that the counts of one stay near.
template <class Add>
void add_across(const SampleRoutes& routes, const PairCounts& pairs, Add add) {
  const int64_t n_slots = routes.n_slots;
  for (int64_t layer = 0; layer + 1 < routes.n_layers; ++layer)
    for (int64_t token = 0; token < routes.n(); ++token) {
      const int32_t *a = routes.route(token, layer), *b = routes.route(token, layer + 1);
      for (int64_t i = 0; i < n_slots; ++i)
        for (int64_t j = 0; j < n_slots && a[i] >= 0; ++j)
          if (b[j] >= 0) add(pairs.cell(layer, a[i], b[j]));
    }
}

}  // namespace

std::vector<Coactivation> coactivations(const TraceSet& set, const RouteOptions& options) {
  PairTally tally = tally_blocks(set, options, BlockWalk{"coactivation"}, empty_tally(set),
                                 [](PairTally& mine, const SampleRoutes& routes, int64_t) {
                                   count_selected(mine, routes);
                                   for (int64_t layer = 0; layer < routes.n_layers; ++layer)
                                     for (int64_t token = 0; token < routes.n(); ++token) {
                                       const int32_t* experts = routes.route(token, layer);
                                       for (int64_t i = 0; i < routes.n_slots; ++i)
                                         for (int64_t j = i + 1; j < routes.n_slots && experts[i] >= 0; ++j)
                                           if (experts[j] >= 0)
                                             ++mine.pairs.counts[mine.pairs.cell(layer, experts[i], experts[j])];
                                     }
                                 });
  // Both orders of a pair are one.
  for (int64_t layer = 0; layer < static_cast<int64_t>(set.layers().size()); ++layer)
    for (int64_t a = 0; a < set.n_experts(); ++a)
      for (int64_t b = a + 1; b < set.n_experts(); ++b) {
        int64_t& other = tally.pairs.counts[tally.pairs.cell(layer, b, a)];
        tally.pairs.counts[tally.pairs.cell(layer, a, b)] += other;
        other = 0;
      }
  const int64_t n_experts = set.n_experts();
  std::vector<Coactivation> out;
  for (const size_t cell : Occurred(tally.pairs).cells) {
    const int64_t b = static_cast<int64_t>(cell) % n_experts, a = static_cast<int64_t>(cell) / n_experts % n_experts,
                  layer = static_cast<int64_t>(cell) / n_experts / n_experts;
    out.push_back({set.layers()[static_cast<size_t>(layer)], static_cast<int32_t>(a), static_cast<int32_t>(b),
                   tally.pairs.counts[cell], tally.selected[static_cast<size_t>(layer * n_experts + a)],
                   tally.selected[static_cast<size_t>(layer * n_experts + b)], tally.tokens});
  }
  return out;
}

std::vector<Transition> transitions(const TraceSet& set, const RouteOptions& options) {
  const PairTally tally = tally_blocks(set, options, BlockWalk{"transitions", true, 1}, empty_tally(set),
                                       [](PairTally& mine, const SampleRoutes& routes, int64_t from) {
                                         add_transitions(routes, first_experts(routes), from, mine.pairs, nullptr,
                                                         [&](size_t cell) { ++mine.pairs.counts[cell]; });
                                       });
  const Occurred occurred(tally.pairs);
  const NullOfPairs null =
      null_of_pairs(set, options, "transitions", tally.pairs, occurred, tally.pairs.counts.size(), true,
                    [&](const SampleRoutes& routes) {
                      return [&, experts = first_experts(routes)](Shuffles& shuffles, int64_t replicate, auto add) {
                        add_transitions(routes, experts, 0, tally.pairs, &shuffles.order(replicate), add);
                      };
                    });
  const size_t n_experts = static_cast<size_t>(set.n_experts());
  std::vector<int64_t> from_all(set.n_rows());
  for (const size_t cell : occurred.cells) from_all[cell / n_experts] += tally.pairs.counts[cell];
  std::vector<Transition> out;
  for (size_t k = 0; k < occurred.cells.size(); ++k) {
    const size_t cell = occurred.cells[k], row = cell / n_experts;
    Transition one;
    one.layer = set.layers()[row / n_experts];
    one.from = static_cast<int32_t>(row % n_experts);
    one.to = static_cast<int32_t>(cell % n_experts);
    one.count = tally.pairs.counts[cell];
    one.probability = static_cast<double>(one.count) / static_cast<double>(from_all[row]);
    one.expected = static_cast<double>(null.sums[k]) / static_cast<double>(options.resamples);
    one.p = null.p[k];
    one.q = null.q[k];
    out.push_back(one);
  }
  return out;
}

std::vector<AcrossLayers> across_layers(const TraceSet& set, const RouteOptions& options) {
  const int64_t n_experts = set.n_experts(), n_layers = static_cast<int64_t>(set.layers().size());
  const PairTally tally =
      tally_blocks(set, options, BlockWalk{"across_layers"}, empty_tally(set),
                   [](PairTally& mine, const SampleRoutes& routes, int64_t) {
                     count_selected(mine, routes);
                     add_across(routes, mine.pairs, [&](size_t cell) { ++mine.pairs.counts[cell]; });
                   });
  const Occurred occurred(tally.pairs);
  const std::vector<int64_t> all_hits = turned_pair_hits(set, options, "across_layers", tally.pairs);
  std::vector<int64_t> hits;
  for (const size_t cell : occurred.cells) hits.push_back(all_hits[cell]);
  std::vector<double> p, q;
  significance(hits, options.resamples, static_cast<size_t>((n_layers - 1) * n_experts * n_experts), p, q);
  std::vector<AcrossLayers> out;
  for (size_t k = 0; k < occurred.cells.size(); ++k) {
    const int64_t cell = static_cast<int64_t>(occurred.cells[k]), b = cell % n_experts,
                  a = cell / n_experts % n_experts, layer = cell / n_experts / n_experts;
    const double n = static_cast<double>(tally.tokens),
                 both = static_cast<double>(tally.pairs.counts[occurred.cells[k]]),
                 of_a = static_cast<double>(tally.selected[static_cast<size_t>(layer * n_experts + a)]),
                 of_b = static_cast<double>(tally.selected[static_cast<size_t>((layer + 1) * n_experts + b)]);
    const double spread = of_a * (n - of_a) * of_b * (n - of_b);
    AcrossLayers one;
    one.layer_a = set.layers()[static_cast<size_t>(layer)];
    one.layer_b = set.layers()[static_cast<size_t>(layer + 1)];
    one.expert_a = static_cast<int32_t>(a);
    one.expert_b = static_cast<int32_t>(b);
    one.jaccard = both / (of_a + of_b - both);
    one.phi = spread > 0 ? (n * both - of_a * of_b) / std::sqrt(spread) : no_number;
    one.p = p[k];
    one.q = q[k];
    out.push_back(one);
  }
  return out;
}

void write_coactivation_csv(const std::filesystem::path& file, const std::vector<Coactivation>& rows) {
  CsvWriter csv({"layer", "expert_a", "expert_b", "count", "p_b_given_a", "p_a_given_b", "lift"});
  for (const Coactivation& row : rows) {
    csv.cell(int64_t{row.layer}).cell(int64_t{row.expert_a}).cell(int64_t{row.expert_b}).cell(row.count);
    csv.cell(row.p_b_given_a()).cell(row.p_a_given_b()).cell(row.lift()).end_row();
  }
  write_file_atomically(file, csv.text());
}

void write_transitions_csv(const std::filesystem::path& file, const std::vector<Transition>& rows) {
  CsvWriter csv({"layer", "from", "to", "count", "probability", "expected", "p", "q"});
  for (const Transition& row : rows) {
    csv.cell(int64_t{row.layer}).cell(int64_t{row.from}).cell(int64_t{row.to}).cell(row.count).cell(row.probability);
    csv.cell(row.expected).cell(row.p).cell(row.q).end_row();
  }
  write_file_atomically(file, csv.text());
}

void write_across_layers_csv(const std::filesystem::path& file, const std::vector<AcrossLayers>& rows) {
  CsvWriter csv({"layer_a", "expert_a", "layer_b", "expert_b", "jaccard", "phi", "p", "q"});
  for (const AcrossLayers& row : rows) {
    csv.cell(int64_t{row.layer_a}).cell(int64_t{row.expert_a}).cell(int64_t{row.layer_b}).cell(int64_t{row.expert_b});
    csv.cell(row.jaccard).cell(row.phi).cell(row.p).cell(row.q).end_row();
  }
  write_file_atomically(file, csv.text());
}

}  // namespace signalbox::eval
