#include "eval/routing/domain_ratio.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <span>

#include "base/thread_pool.h"
#include "eval/statistics/corrected.h"
#include "eval/statistics/draws.h"

namespace signalbox::eval {

namespace {

constexpr size_t items_at_once = 32;                 // of a task: replicates of a block are kept for their quantiles
constexpr int64_t permutations_an_item = 40;         // of those that none has reached, a row of the table; at most ...
constexpr int64_t most_labels = int64_t{100000000};  // permuted for one item

// Sums by domain of one block of items.
struct BlockSums {
  size_t width;
  std::vector<int64_t> counts;  // [domains, width]
  std::vector<double> tokens;   // [domains]
  BlockSums(size_t n_domains, size_t block) : width(block), counts(n_domains * block), tokens(n_domains) {}
  void clear() {
    std::fill(counts.begin(), counts.end(), 0);
    std::fill(tokens.begin(), tokens.end(), 0.0);
  }
  void add(const DomainCounts& of, size_t unit, size_t domain, size_t first) {
    const int32_t* from = of.counts[unit].data() + first;
    int64_t* to = counts.data() + domain * width;
    for (size_t i = 0; i < width; ++i) to[i] += from[i];
    tokens[domain] += static_cast<double>(of.tokens[unit]);
  }
  double count(size_t domain, size_t item) const { return static_cast<double>(counts[domain * width + item]); }
  // Ratios of all domains for one item.
  void ratios(size_t item, std::vector<double>& out) const {
    double all = 0, all_tokens = 0;
    for (size_t d = 0; d < tokens.size(); ++d) {
      all += count(d, item);
      all_tokens += tokens[d];
    }
    for (size_t d = 0; d < tokens.size(); ++d) {
      const double here = count(d, item);
      out[d] = rate_ratio(here, tokens[d], all - here, all_tokens - tokens[d]);
    }
  }
};

size_t place_of_highest(const std::vector<double>& values) {
  size_t best = 0;
  for (size_t i = 1; i < values.size(); ++i)
    if (std::isnan(values[best]) || values[i] > values[best]) best = i;
  return best;
}

// hits[i] += permutations begin .. end - 1 in which the highest ratio of item first + i is at least bars[i].
void count_permutations(const DomainCounts& of, uint64_t seed, size_t first, const std::vector<double>& bars,
                        int64_t begin, int64_t end, std::vector<int64_t>& hits) {
  const size_t n_units = of.counts.size(), n_domains = of.domains.size();
  BlockSums sums(n_domains, bars.size());
  std::vector<double> ratios(n_domains);
  std::vector<uint32_t> bits(n_units);
  std::vector<size_t> labels;
  const ResamplingDraws permutations(seed, Resampling::permutation);
  for (int64_t b = begin; b < end; ++b) {
    labels = of.domain_of;
    permutations.fill(b, bits);
    ResamplingDraws::draw_subset(std::span(labels), n_units, bits);
    sums.clear();
    for (size_t unit = 0; unit < n_units; ++unit) sums.add(of, unit, labels[unit], first);
    for (size_t i = 0; i < bars.size(); ++i) {
      sums.ratios(i, ratios);
      hits[i] += ratios[place_of_highest(ratios)] >= bars[i] * (1 - 1e-12);
    }
  }
}

// Some items of a block alone.
DomainCounts columns_of(const DomainCounts& of, size_t first, const std::vector<size_t>& items) {
  DomainCounts out{items.size(), of.domains, of.domain_of, of.tokens, {}};
  for (const std::vector<int32_t>& counts : of.counts) {
    out.counts.emplace_back();
    for (const size_t item : items) out.counts.back().push_back(counts[first + item]);
  }
  return out;
}

double effective_number(const BlockSums& sums, size_t item) {
  double sum = 0, entropy = 0;
  for (size_t d = 0; d < sums.tokens.size(); ++d) sum += sums.count(d, item) / sums.tokens[d];
  if (!(sum > 0)) return no_number;
  for (size_t d = 0; d < sums.tokens.size(); ++d) {
    const double share = sums.count(d, item) / sums.tokens[d] / sum;
    if (share > 0) entropy -= share * std::log(share);
  }
  return std::exp(entropy);
}

}  // namespace

double rate_ratio(double here, double n_here, double there, double n_there) {
  if (!(n_here > 0) || !(n_there > 0) || (here <= 0 && there <= 0)) return no_number;
  return here / n_here / ((there > 0 ? there : 0.5) / n_there);
}

std::vector<DomainRatio> domain_ratios(const DomainCounts& of, uint64_t seed, int64_t resamples, int threads,
                                       const std::function<void(int64_t done, int64_t total)>& on_progress) {
  const size_t n_domains = of.domains.size(), n_units = of.counts.size();
  std::vector<DomainRatio> out(of.n_items);
  if (n_domains == 0) return out;
  std::vector<std::vector<size_t>> units(n_domains);
  for (size_t unit = 0; unit < n_units; ++unit) units[of.domain_of[unit]].push_back(unit);
  std::vector<double> freedom;
  for (const std::vector<size_t>& mine : units)
    freedom.push_back(static_cast<double>(std::min(mine.size(), n_units - mine.size())) - 1);

  const int64_t most = std::max(resamples, std::min(permutations_an_item * static_cast<int64_t>(of.n_items),
                                                    most_labels / std::max<int64_t>(static_cast<int64_t>(n_units), 1)));
  const int64_t n_blocks = static_cast<int64_t>((of.n_items + items_at_once - 1) / items_at_once);
  std::atomic<int64_t> finished = 0;
  const auto take_block = [&](int64_t block, int thread) {
    const size_t first = static_cast<size_t>(block) * items_at_once,
                 width = std::min(items_at_once, of.n_items - first);
    BlockSums sums(n_domains, width);
    for (size_t unit = 0; unit < n_units; ++unit) sums.add(of, unit, of.domain_of[unit], first);
    std::vector<double> ratios(n_domains), highest(width);
    for (size_t i = 0; i < width; ++i) {
      DomainRatio& one = out[first + i];
      sums.ratios(i, ratios);
      one.domain = place_of_highest(ratios);
      one.ratio = highest[i] = ratios[one.domain];
      one.effective_domains = effective_number(sums, i);
      one.by_domain.assign(n_domains, {no_number, no_number});
    }
    if (n_domains >= 2) {
      std::vector<uint32_t> bits(n_units);
      const ResamplingDraws boots(seed, Resampling::bootstrap);
      std::vector<int64_t> hits(width), drawn_for(width, resamples);
      std::vector<size_t> unreached;  // items of the block
      count_permutations(of, seed, first, highest, 0, resamples, hits);
      for (size_t i = 0; i < width; ++i)
        if (hits[i] == 0 && !std::isnan(highest[i])) unreached.push_back(i);
      if (most > resamples && !unreached.empty()) {
        const DomainCounts rest = columns_of(of, first, unreached);
        std::vector<double> bars;
        for (const size_t i : unreached) bars.push_back(highest[i]);
        std::vector<int64_t> more(unreached.size());
        count_permutations(rest, seed, 0, bars, resamples, most, more);
        for (size_t k = 0; k < unreached.size(); ++k) {
          hits[unreached[k]] = more[k];
          drawn_for[unreached[k]] = most;
        }
      }
      std::vector<std::vector<double>> drawn(width * n_domains, std::vector<double>(static_cast<size_t>(resamples)));
      for (int64_t b = 0; b < resamples; ++b) {
        boots.fill(b, bits);
        sums.clear();
        for (size_t unit = 0; unit < n_units; ++unit) {
          const std::vector<size_t>& mine = units[of.domain_of[unit]];
          sums.add(of, mine[ResamplingDraws::below(bits[unit], mine.size())], of.domain_of[unit], first);
        }
        for (size_t i = 0; i < width; ++i) {
          sums.ratios(i, ratios);
          // A draw without the thing says nothing of its ratio: 1, that of no difference.
          for (size_t d = 0; d < n_domains; ++d)
            drawn[i * n_domains + d][static_cast<size_t>(b)] = std::isnan(ratios[d]) ? 1 : ratios[d];
        }
      }
      for (size_t i = 0; i < width; ++i) {
        DomainRatio& one = out[first + i];
        if (std::isnan(one.ratio)) continue;
        one.p = static_cast<double>(1 + hits[i]) / static_cast<double>(1 + drawn_for[i]);
        for (size_t d = 0; d < n_domains; ++d)
          one.by_domain[d] = widened_interval(std::move(drawn[i * n_domains + d]), freedom[d]);
        one.ci_lo = one.by_domain[one.domain].lo;
        one.ci_hi = one.by_domain[one.domain].hi;
      }
    }
    const int64_t now = ++finished;
    if (thread == 0 && on_progress) on_progress(now, n_blocks);
  };
  ThreadPool pool(std::max(1, threads));
  pool.parallel_for(n_blocks, take_block);
  return out;
}

}  // namespace signalbox::eval
