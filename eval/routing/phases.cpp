#include "eval/routing/phases.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <span>

#include "base/csv.h"
#include "base/files.h"
#include "eval/routing/shuffled.h"
#include "eval/statistics/draws.h"
#include "eval/statistics/resampling.h"

namespace signalbox::eval {

namespace {

// [n_parts + 1] where the parts of n tokens begin, and the end.
std::array<int64_t, n_parts + 1> cuts_of(int64_t n) { return {0, n / 3, 2 * n / 3, n}; }

using Parts = std::array<size_t, n_parts>;

Parts drawn_order(uint64_t seed, size_t sample, int64_t replicate) {
  Parts out = {0, 1, 2};
  std::array<uint32_t, n_parts> bits{};
  ResamplingDraws(sample_seed(seed, sample), Resampling::permutation, 3).fill(replicate, bits);
  ResamplingDraws::draw_subset(std::span<size_t>(out), n_parts, bits);
  return out;
}

// Of one sample: [parts, rows] selections.
std::vector<int32_t> count_parts(const SampleRoutes& routes, int64_t n_experts, size_t n_rows) {
  std::vector<int32_t> out(n_parts * n_rows);
  const std::array<int64_t, n_parts + 1> cuts = cuts_of(routes.n());
  for (size_t part = 0; part < n_parts; ++part)
    for (int64_t token = cuts[part]; token < cuts[part + 1]; ++token)
      for (int64_t layer = 0; layer < routes.n_layers; ++layer) {
        const int32_t* experts = routes.route(token, layer);
        for (int64_t slot = 0; slot < routes.n_slots; ++slot)
          if (experts[slot] >= 0) ++out[part * n_rows + static_cast<size_t>(layer * n_experts + experts[slot])];
      }
  return out;
}

// Sums over samples: [parts, rows] selections and [parts] tokens; how often pairs of experts lead parts.
struct PhaseTally {
  std::vector<int64_t> selected;
  std::array<int64_t, n_parts> tokens{};
  int64_t samples = 0;
  PairCounts handed;             // [layers, E, E] samples whose first part `a` leads and whose last `b`
  PairCounts one_way, two_ways;  // samples in which 1, or 2, of the 6 orders hand a part of a to one of b
  PhaseTally& operator+=(const PhaseTally& other) {
    for (size_t i = 0; i < selected.size(); ++i) selected[i] += other.selected[i];
    for (size_t part = 0; part < n_parts; ++part) tokens[part] += other.tokens[part];
    samples += other.samples;
    handed += other.handed;
    one_way += other.one_way;
    two_ways += other.two_ways;
    return *this;
  }
};

void count_leaders(PhaseTally& to, const std::vector<int32_t>& counts, size_t n_rows, int64_t n_layers) {
  const size_t n_experts = static_cast<size_t>(to.handed.n_experts);
  for (int64_t layer = 0; layer < n_layers; ++layer) {
    std::array<int64_t, n_parts> leader{};
    for (size_t part = 0; part < n_parts; ++part) {
      const auto begin = counts.begin() + static_cast<int64_t>(part * n_rows + static_cast<size_t>(layer) * n_experts);
      leader[part] = std::max_element(begin, begin + static_cast<int64_t>(n_experts)) - begin;
    }
    if (leader[0] != leader[2]) ++to.handed.counts[to.handed.cell(layer, leader[0], leader[2])];
    // Of two experts: over the 6 orders, as many hand a to b as there are parts of a times parts of b.
    for (size_t i = 0; i < n_parts; ++i)
      for (size_t j = 0; j < n_parts; ++j) {
        const int64_t a = leader[i], b = leader[j];
        if (a == b ||
            std::find(leader.begin(), leader.begin() + static_cast<int64_t>(i), a) !=
                leader.begin() + static_cast<int64_t>(i) ||
            std::find(leader.begin(), leader.begin() + static_cast<int64_t>(j), b) !=
                leader.begin() + static_cast<int64_t>(j))
          continue;
        const auto of = [&](int64_t expert) { return std::count(leader.begin(), leader.end(), expert); };
        PairCounts& ways = of(a) * of(b) == 2 ? to.two_ways : to.one_way;
        ++ways.counts[ways.cell(layer, a, b)];
      }
  }
}

// Chi-square of [parts, rows] counts over the experts of one layer, and how many of either have any.
template <class Count>
std::array<double, 3> chi_square(const Count* counts, size_t n_rows, size_t begin, size_t end) {
  std::array<double, n_parts> of_part{};
  double n = 0, sum = 0, experts = 0;
  for (size_t part = 0; part < n_parts; ++part)
    for (size_t row = begin; row < end; ++row) of_part[part] += static_cast<double>(counts[part * n_rows + row]);
  for (const double one : of_part) n += one;
  for (size_t row = begin; row < end; ++row) {
    double of_row = 0, squares = 0;
    for (size_t part = 0; part < n_parts; ++part) {
      const double seen = static_cast<double>(counts[part * n_rows + row]);
      of_row += seen;
      if (seen > 0) squares += seen * seen / of_part[part];
    }
    if (of_row > 0) sum += squares / of_row;
    experts += of_row > 0;
  }
  const double parts =
      static_cast<double>(std::count_if(of_part.begin(), of_part.end(), [](double one) { return one > 0; }));
  // What is left of the difference where parts are all alike is rounding.
  return {n > 0 && sum - 1 > 1e-12 ? n * (sum - 1) : 0, n, std::min(parts, experts) - 1};
}

// P(at least `count` of n1 draws of 1/6 and n2 draws of 1/3).
double exact_p(int64_t count, int64_t n1, int64_t n2) {
  std::vector<double> chance = {1};
  for (int64_t i = 0; i < n1 + n2; ++i) {
    const double hit = i < n1 ? 1.0 / 6 : 1.0 / 3;
    chance.push_back(0);
    for (size_t k = chance.size(); k-- > 1;) chance[k] = chance[k] * (1 - hit) + chance[k - 1] * hit;
    chance[0] *= 1 - hit;
  }
  double p = 0;
  for (size_t k = chance.size(); k-- > static_cast<size_t>(count);) p += chance[k];
  return std::min(1.0, p);
}

std::vector<Handoff> handoffs_of(const TraceSet& set, const PhaseTally& tally) {
  std::vector<Handoff> out;
  std::vector<double> p;
  const size_t n_experts = static_cast<size_t>(set.n_experts());
  for (size_t cell = 0; cell < tally.handed.counts.size(); ++cell) {
    const int64_t n1 = tally.one_way.counts[cell], n2 = tally.two_ways.counts[cell];
    if (n1 + n2 < handoff_samples) continue;
    Handoff one;
    one.layer = set.layers()[cell / n_experts / n_experts];
    one.from = static_cast<int32_t>(cell / n_experts % n_experts);
    one.to = static_cast<int32_t>(cell % n_experts);
    one.count = tally.handed.counts[cell];
    one.samples = n1 + n2;
    one.expected = static_cast<double>(n1) / 6 + static_cast<double>(n2) / 3;
    one.p = exact_p(one.count, n1, n2);
    p.push_back(one.p);
    out.push_back(one);
  }
  const std::vector<double> q = benjamini_hochberg(p);
  for (size_t i = 0; i < out.size(); ++i) out[i].q = q[i];
  return out;
}

}  // namespace

PhaseTables phase_tables(const TraceSet& set, const RouteOptions& all_options) {
  PhaseTables out;
  if (all_options.filter.phase == Phase::given) return out;
  RouteOptions options = all_options;
  options.filter.phase = Phase::generated;
  const size_t n_rows = set.n_rows(), n_layers = set.layers().size(), n_experts = static_cast<size_t>(set.n_experts());
  const PairCounts no_pairs(static_cast<int64_t>(n_layers), set.n_experts());
  PhaseTally none{std::vector<int64_t>(n_parts * n_rows), {}, 0, no_pairs, no_pairs, no_pairs};
  const PhaseTally tally = tally_routes(set, options, none, [&](PhaseTally& mine, const SampleRoutes& routes) {
    if (routes.n() < static_cast<int64_t>(n_parts)) return;
    const std::vector<int32_t> counts = count_parts(routes, set.n_experts(), n_rows);
    for (size_t i = 0; i < counts.size(); ++i) mine.selected[i] += counts[i];
    const std::array<int64_t, n_parts + 1> cuts = cuts_of(routes.n());
    for (size_t part = 0; part < n_parts; ++part) mine.tokens[part] += cuts[part + 1] - cuts[part];
    ++mine.samples;
    count_leaders(mine, counts, n_rows, routes.n_layers);
  });
  if (tally.samples == 0) return out;

  // Parts of samples in drawn orders change how many tokens a part has, by one a sample: these are cells too.
  const size_t cells = n_parts * n_rows + n_parts;
  const auto change = [&](const auto* counts, const auto* tokens, size_t row) {
    return static_cast<double>(counts[2 * n_rows + row]) / static_cast<double>(tokens[2]) -
           static_cast<double>(counts[row]) / static_cast<double>(tokens[0]);
  };
  const int64_t* selected = tally.selected.data();
  std::vector<double> observed(n_rows), seen(n_layers);
  for (size_t row = 0; row < n_rows; ++row) observed[row] = std::abs(change(selected, tally.tokens.data(), row));
  for (size_t layer = 0; layer < n_layers; ++layer)
    seen[layer] = chi_square(selected, n_rows, layer * n_experts, (layer + 1) * n_experts)[0];
  std::vector<int64_t> hits(n_rows), layer_hits(n_layers);
  run_null(
      set, options, "phases", cells,
      [&](int64_t first, int64_t n, int32_t* counts, const SampleRoutes& routes) {
        if (routes.n() < static_cast<int64_t>(n_parts)) return;
        const std::vector<int32_t> mine = count_parts(routes, set.n_experts(), n_rows);
        std::array<std::vector<std::pair<size_t, int32_t>>, n_parts> used;
        for (size_t i = 0; i < mine.size(); ++i)
          if (mine[i] > 0) used[i / n_rows].push_back({i % n_rows, mine[i]});
        const std::array<int64_t, n_parts + 1> cuts = cuts_of(routes.n());
        for (int64_t i = 0; i < n; ++i, counts += cells) {
          const Parts order = drawn_order(options.seed, routes.sample, first + i);
          for (size_t place = 0; place < n_parts; ++place) {
            const size_t part = order[place];
            for (const auto& [row, count] : used[part]) counts[place * n_rows + row] += count;
            counts[n_parts * n_rows + place] += static_cast<int32_t>(cuts[part + 1] - cuts[part]);
          }
        }
      },
      [&](int64_t, int64_t n, const int32_t* counts) {
        for (int64_t i = 0; i < n; ++i, counts += cells) {
          for (size_t row = 0; row < n_rows; ++row)
            hits[row] += std::abs(change(counts, counts + n_parts * n_rows, row)) >= observed[row] - 1e-12;
          for (size_t layer = 0; layer < n_layers; ++layer)
            layer_hits[layer] +=
                chi_square(counts, n_rows, layer * n_experts, (layer + 1) * n_experts)[0] >= seen[layer] * (1 - 1e-12);
        }
      });

  std::vector<double> p, layer_p;
  const auto p_of = [&](int64_t n) { return static_cast<double>(1 + n) / static_cast<double>(1 + options.resamples); };
  for (size_t row = 0; row < n_rows; ++row) {
    PhaseUse one{set.layers()[row / n_experts], static_cast<int32_t>(row % n_experts)};
    const auto share = [&](size_t part) {
      return static_cast<double>(selected[part * n_rows + row]) / static_cast<double>(tally.tokens[part]);
    };
    one.first = share(0);
    one.middle = share(1);
    one.last = share(2);
    if (one.first + one.middle + one.last > 0) one.p = p_of(hits[row]);
    p.push_back(one.p);
    out.experts.push_back(one);
  }
  for (size_t layer = 0; layer < n_layers; ++layer) {
    const auto [chi2, n, smaller] = chi_square(selected, n_rows, layer * n_experts, (layer + 1) * n_experts);
    Drift one{set.layers()[layer], tally.samples,
              std::accumulate(tally.tokens.begin(), tally.tokens.end(), int64_t{0})};
    if (smaller > 0) {
      one.chi2 = chi2;
      one.cramers_v = std::sqrt(chi2 / (n * smaller));
      one.p = p_of(layer_hits[layer]);
    }
    layer_p.push_back(one.p);
    out.layers.push_back(one);
  }
  const std::vector<double> q = benjamini_hochberg(p), layer_q = benjamini_hochberg(layer_p);
  for (size_t row = 0; row < n_rows; ++row) out.experts[row].q = q[row];
  for (size_t layer = 0; layer < n_layers; ++layer) out.layers[layer].q = layer_q[layer];
  out.handoffs = handoffs_of(set, tally);
  return out;
}

void write_phases_csv(const std::filesystem::path& file, const std::vector<PhaseUse>& rows) {
  CsvWriter csv({"layer", "expert", "first", "middle", "last", "p", "q"});
  for (const PhaseUse& row : rows) {
    csv.cell(int64_t{row.layer}).cell(int64_t{row.expert}).cell(row.first).cell(row.middle).cell(row.last);
    csv.cell(row.p).cell(row.q).end_row();
  }
  write_file_atomically(file, csv.text());
}

void write_drift_csv(const std::filesystem::path& file, const std::vector<Drift>& rows) {
  CsvWriter csv({"layer", "samples", "tokens", "chi2", "cramers_v", "p", "q"});
  for (const Drift& row : rows) {
    csv.cell(int64_t{row.layer}).cell(row.samples).cell(row.tokens).cell(row.chi2).cell(row.cramers_v).cell(row.p);
    csv.cell(row.q).end_row();
  }
  write_file_atomically(file, csv.text());
}

void write_handoffs_csv(const std::filesystem::path& file, const std::vector<Handoff>& rows) {
  CsvWriter csv({"layer", "from", "to", "count", "samples", "expected", "p", "q"});
  for (const Handoff& row : rows) {
    csv.cell(int64_t{row.layer}).cell(int64_t{row.from}).cell(int64_t{row.to}).cell(row.count).cell(row.samples);
    csv.cell(row.expected).cell(row.p).cell(row.q).end_row();
  }
  write_file_atomically(file, csv.text());
}

}  // namespace signalbox::eval
