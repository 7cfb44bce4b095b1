#include "eval/routing/domains.h"

#include <algorithm>
#include <atomic>
#include <boost/math/special_functions/gamma.hpp>
#include <cmath>
#include <map>
#include <numeric>

#include "base/csv.h"
#include "base/files.h"
#include "eval/statistics/draws.h"
#include "eval/statistics/resampling.h"

namespace signalbox::eval {

namespace {

// [record][row] selections, of the records that have a domain.
struct RecordCounts {
  std::vector<std::vector<int32_t>> counts;
  RecordCounts& operator+=(const RecordCounts& other) {
    for (size_t r = 0; r < counts.size(); ++r) {
      if (counts[r].empty()) counts[r].resize(other.counts[r].size());
      for (size_t i = 0; i < other.counts[r].size(); ++i) counts[r][i] += other.counts[r][i];
    }
    return *this;
  }
};

// Chi-square of the counts [domain][expert] of one layer, and what its table looks like.
struct ChiSquare {
  double chi2 = 0, n = 0;
  int64_t domains = 0, experts = 0;  // with selections
};

ChiSquare chi_square(const std::vector<std::vector<int64_t>>& table, size_t begin, size_t end) {
  ChiSquare out;
  std::vector<double> of_domain, of_expert(end - begin);
  for (const std::vector<int64_t>& counts : table) {
    double sum = 0;
    for (size_t e = begin; e < end; ++e) {
      sum += static_cast<double>(counts[e]);
      of_expert[e - begin] += static_cast<double>(counts[e]);
    }
    of_domain.push_back(sum);
    out.n += sum;
    out.domains += sum > 0;
  }
  for (const double sum : of_expert) out.experts += sum > 0;
  // Sum of observed^2 / expected, minus n.
  double sum = 0;
  for (size_t d = 0; d < table.size(); ++d)
    for (size_t e = begin; e < end; ++e)
      if (const double seen = static_cast<double>(table[d][e]); seen > 0)
        sum += seen * seen / (of_domain[d] * of_expert[e - begin]);
  // What is left of the difference where domains are all alike is rounding.
  out.chi2 = out.n > 0 && sum - 1 > 1e-12 ? out.n * (sum - 1) : 0;
  return out;
}

}  // namespace

std::vector<DomainTest> domain_tests(const TraceSet& set, const RouteOptions& options) {
  const std::vector<std::string> names = set.domains();
  if (names.size() < 2) return {};
  const size_t n_experts = static_cast<size_t>(set.n_experts()), n_rows = set.n_rows();
  const RecordCounts all = tally_blocks(set, options, BlockWalk{"domains"},
                                        RecordCounts{std::vector<std::vector<int32_t>>(set.records().size())},
                                        [&](RecordCounts& mine, const SampleRoutes& routes, int64_t) {
                                          if (set.records()[routes.record].domain.empty() || routes.n() == 0) return;
                                          std::vector<int32_t>& counts = mine.counts[routes.record];
                                          counts.resize(n_rows);
                                          const int32_t* expert = routes.ids.data();
                                          for (int64_t token = 0; token < routes.n(); ++token)
                                            for (size_t layer = 0; layer < set.layers().size(); ++layer)
                                              for (int64_t slot = 0; slot < routes.n_slots; ++slot, ++expert)
                                                if (*expert >= 0)
                                                  ++counts[layer * n_experts + static_cast<size_t>(*expert)];
                                        });
  std::vector<size_t> records, domain_of;
  for (size_t r = 0; r < all.counts.size(); ++r)
    if (!all.counts[r].empty()) {
      records.push_back(r);
      domain_of.push_back(
          static_cast<size_t>(std::find(names.begin(), names.end(), set.records()[r].domain) - names.begin()));
    }
  using Table = std::vector<std::vector<int64_t>>;  // [domain][row]
  const auto fill = [&](const std::vector<size_t>& domains, Table& table) {
    table.resize(names.size());
    for (std::vector<int64_t>& counts : table) counts.assign(n_rows, 0);
    for (size_t i = 0; i < records.size(); ++i) {
      const std::vector<int32_t>& counts = all.counts[records[i]];
      std::vector<int64_t>& sums = table[domains[i]];
      for (size_t row = 0; row < n_rows; ++row) sums[row] += counts[row];
    }
  };
  Table table;
  fill(domain_of, table);
  std::vector<DomainTest> out;
  for (size_t layer = 0; layer < set.layers().size(); ++layer) {
    const ChiSquare found = chi_square(table, layer * n_experts, (layer + 1) * n_experts);
    DomainTest one;
    one.layer = set.layers()[layer];
    one.df = std::max<int64_t>(0, found.domains - 1) * std::max<int64_t>(0, found.experts - 1);
    if (one.df > 0) {
      one.chi2 = found.chi2;
      one.p = boost::math::gamma_q(static_cast<double>(one.df) / 2, found.chi2 / 2);
      one.cramers_v =
          std::sqrt(found.chi2 / (found.n * static_cast<double>(std::min(found.domains - 1, found.experts - 1))));
    }
    out.push_back(one);
  }
  ThreadPool pool(threads_of(options));
  const size_t n_threads = static_cast<size_t>(pool.n_threads());
  std::vector<std::vector<int64_t>> hits(n_threads, std::vector<int64_t>(out.size()));
  std::vector<Table> tables(n_threads);
  std::atomic<int64_t> done = 0;
  const ResamplingDraws draws(options.seed, Resampling::permutation);
  pool.parallel_for(options.resamples, [&](int64_t b, int thread) {
    std::vector<size_t> permuted = domain_of;
    std::vector<uint32_t> bits(domain_of.size());
    draws.fill(b, bits);
    ResamplingDraws::draw_subset(std::span(permuted), permuted.size(), bits);
    Table& mine = tables[static_cast<size_t>(thread)];
    fill(permuted, mine);
    for (size_t layer = 0; layer < out.size(); ++layer)
      if (out[layer].df > 0)
        hits[static_cast<size_t>(thread)][layer] +=
            chi_square(mine, layer * n_experts, (layer + 1) * n_experts).chi2 >= out[layer].chi2 * (1 - 1e-12);
    ++done;
    if (thread == 0 && options.on_progress) options.on_progress("domains", done, options.resamples);
  });
  for (size_t thread = 1; thread < n_threads; ++thread)
    for (size_t layer = 0; layer < out.size(); ++layer) hits[0][layer] += hits[thread][layer];
  std::vector<double> p;
  for (size_t layer = 0; layer < out.size(); ++layer) {
    if (out[layer].df > 0)
      out[layer].p_permutation = static_cast<double>(1 + hits[0][layer]) / static_cast<double>(1 + options.resamples);
    p.push_back(out[layer].p_permutation);
  }
  const std::vector<double> q = benjamini_hochberg(p);
  for (size_t layer = 0; layer < out.size(); ++layer) out[layer].q = q[layer];
  return out;
}

std::vector<Balance> balances(const std::vector<Usage>& usage) {
  std::vector<Balance> out;
  for (size_t begin = 0; begin < usage.size();) {
    size_t end = begin;
    double sum = 0;
    for (; end < usage.size() && usage[end].layer == usage[begin].layer && usage[end].domain == usage[begin].domain;
         ++end)
      sum += static_cast<double>(usage[end].count);
    Balance one{usage[begin].layer, usage[begin].domain};
    if (sum > 0) {
      const double n = static_cast<double>(end - begin), mean = sum / n;
      double entropy = 0, apart = 0;
      for (size_t i = begin; i < end; ++i) {
        const double count = static_cast<double>(usage[i].count);
        if (count > 0) entropy -= count / sum * std::log(count / sum);
        apart += std::abs(count - mean);
      }
      one.entropy = entropy;
      one.entropy_normalised = n > 1 ? entropy / std::log(n) : 1;
      one.load_balance = 1 - apart / (2 * sum);
      one.effective_experts = std::exp(entropy);
    }
    out.push_back(one);
    begin = end;
  }
  return out;
}

void write_domains_csv(const std::filesystem::path& file, const std::vector<DomainTest>& rows) {
  CsvWriter csv({"layer", "chi2", "df", "p", "cramers_v", "p_permutation", "q"});
  for (const DomainTest& row : rows) {
    csv.cell(int64_t{row.layer}).cell(row.chi2).cell(row.df).cell(row.p).cell(row.cramers_v);
    csv.cell(row.p_permutation).cell(row.q).end_row();
  }
  write_file_atomically(file, csv.text());
}

void write_balance_csv(const std::filesystem::path& file, const std::vector<Balance>& rows) {
  CsvWriter csv({"layer", "domain", "entropy", "entropy_normalised", "load_balance", "effective_experts"});
  for (const Balance& row : rows) {
    csv.cell(int64_t{row.layer}).cell(row.domain).cell(row.entropy).cell(row.entropy_normalised);
    csv.cell(row.load_balance).cell(row.effective_experts).end_row();
  }
  write_file_atomically(file, csv.text());
}

}  // namespace signalbox::eval
