#include "eval/routing/links.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <unordered_map>

#include "eval/routing/shuffled.h"

namespace signalbox::eval {

namespace {

constexpr double candidate_z = 4;
constexpr int64_t candidate_tokens = 5;
constexpr size_t most_links_at_once = 64;  // of a task, which reads all samples once for them

bool in_half(const TraceSet& set, size_t sample, const Units& units, const std::vector<uint8_t>& half_of, Half half) {
  return half == Half::both || half_of[units.of_record[set.samples()[sample].record]] == static_cast<uint8_t>(half);
}

// Which tokens of a sample select an expert.
bool selects(const SampleRoutes& routes, int64_t token, int64_t layer, int32_t expert) {
  const int32_t* route = routes.route(token, layer);
  return std::find(route, route + routes.n_slots, expert) != route + routes.n_slots;
}
std::vector<int32_t> places_of(const SampleRoutes& routes, int64_t layer, int32_t expert) {
  std::vector<int32_t> out;
  for (int64_t token = 0; token < routes.n(); ++token)
    if (selects(routes, token, layer, expert)) out.push_back(static_cast<int32_t>(token));
  return out;
}

// Of one layer and the next: sums over samples, in their order.
struct PairSums {
  size_t n_experts;
  std::vector<int64_t> both;                   // [E, E]
  std::vector<double> expected, variance;      // [E, E] of `both`, were the tokens of each sample exchangeable
  std::vector<double> spread_from, spread_to;  // [E] variance within samples, times tokens
  explicit PairSums(size_t experts)
      : n_experts(experts),
        both(experts * experts),
        expected(both.size()),
        variance(both.size()),
        spread_from(experts),
        spread_to(experts) {}

  void add(const SampleRoutes& routes, int64_t layer) {
    const double n = static_cast<double>(routes.n());
    std::vector<int32_t> from(n_experts), to(n_experts);
    for (int64_t token = 0; token < routes.n(); ++token) {
      const int32_t *a = routes.route(token, layer), *b = routes.route(token, layer + 1);
      for (int64_t i = 0; i < routes.n_slots; ++i) {
        if (b[i] >= 0) ++to[static_cast<size_t>(b[i])];
        if (a[i] < 0) continue;
        ++from[static_cast<size_t>(a[i])];
        int64_t* row = both.data() + static_cast<size_t>(a[i]) * n_experts;
        for (int64_t j = 0; j < routes.n_slots; ++j)
          if (b[j] >= 0) ++row[b[j]];
      }
    }
    std::vector<size_t> second;
    for (size_t b = 0; b < n_experts; ++b)
      if (to[b] > 0) {
        second.push_back(b);
        spread_to[b] += to[b] - to[b] * static_cast<double>(to[b]) / n;
      }
    for (size_t a = 0; a < n_experts; ++a) {
      if (from[a] == 0) continue;
      const double of_a = from[a];
      spread_from[a] += of_a - of_a * of_a / n;
      for (const size_t b : second) {
        const double of_b = to[b], mean = of_a * of_b / n;
        expected[a * n_experts + b] += mean;
        if (n > 1) variance[a * n_experts + b] += mean * (n - of_a) * (n - of_b) / (n * (n - 1));
      }
    }
  }

  double excess(size_t cell) const { return static_cast<double>(both[cell]) - expected[cell]; }
  // Correlation within samples; below 0 where it is undefined.
  double within(size_t a, size_t b) const {
    const double spread = spread_from[a] * spread_to[b];
    return spread > 1e-9 ? excess(a * n_experts + b) / std::sqrt(spread) : -1;
  }

  void append_links(int32_t layer, std::vector<Link>& out) const {
    std::vector<size_t> best_to(n_experts), best_from(n_experts);
    for (size_t a = 0; a < n_experts; ++a)
      for (size_t b = 0; b < n_experts; ++b) {
        if (within(a, b) > within(a, best_to[a])) best_to[a] = b;
        if (within(a, b) > within(best_from[b], b)) best_from[b] = a;
      }
    for (size_t a = 0; a < n_experts; ++a) {
      const size_t b = best_to[a], cell = a * n_experts + b;
      if (best_from[b] != a || !(within(a, b) > 0) || both[cell] < candidate_tokens) continue;
      if (excess(cell) >= candidate_z * std::sqrt(variance[cell]) && variance[cell] > 0)
        out.push_back({layer, static_cast<int32_t>(a), static_cast<int32_t>(b)});
    }
  }
};

// Calls take(begin, end) for links in blocks, each by one task; progress counts blocks.
template <class Take>
void for_each_block_of_links(const RouteOptions& options, const char* name, size_t n_links, Take take) {
  const size_t n_threads = static_cast<size_t>(threads_of(options));
  const size_t at_once = std::clamp<size_t>((n_links + n_threads - 1) / n_threads, 1, most_links_at_once);
  const int64_t n_blocks = static_cast<int64_t>((n_links + at_once - 1) / at_once);
  ThreadPool pool(static_cast<int>(n_threads));
  std::atomic<int64_t> finished = 0;
  pool.parallel_for(n_blocks, [&](int64_t block, int thread) {
    const size_t begin = static_cast<size_t>(block) * at_once, end = std::min(begin + at_once, n_links);
    take(begin, end);
    const int64_t now = ++finished;
    if (thread == 0 && options.on_progress) options.on_progress(name, now, n_blocks);
  });
}

// totals[replicate] += the tokens t for which `from` holds t and `to` holds the place where t lies when turned.
void add_turned(const std::vector<int32_t>& from, const std::vector<int32_t>& to, const std::vector<int64_t>& shifts,
                int64_t n, std::vector<int64_t>& totals) {
  if (from.empty() || to.empty()) return;
  const size_t size = static_cast<size_t>(n);
  // Either all distances between two places, or every place for every turn.
  if (to.size() < shifts.size()) {
    std::vector<int32_t> at(size);
    for (const int32_t a : from)
      for (const int32_t b : to) ++at[static_cast<size_t>(b >= a ? b - a : b - a + n)];
    for (size_t i = 0; i < shifts.size(); ++i) totals[i] += at[static_cast<size_t>(shifts[i])];
    return;
  }
  std::vector<uint8_t> here(2 * size);
  for (const int32_t b : to) here[static_cast<size_t>(b)] = here[static_cast<size_t>(b) + size] = 1;
  for (size_t i = 0; i < shifts.size(); ++i)
    for (const int32_t a : from) totals[i] += here[static_cast<size_t>(a + shifts[i])];
}

std::vector<int64_t> shifts_of(const RouteOptions& options, const SampleRoutes& routes) {
  Shuffles shuffles(options.seed, routes.sample, routes.n());
  std::vector<int64_t> out(static_cast<size_t>(options.resamples));
  for (size_t i = 0; i < out.size(); ++i) out[i] = shuffles.shift(static_cast<int64_t>(i));
  return out;
}

double p_of(int64_t hits, int64_t resamples) {
  return static_cast<double>(1 + hits) / static_cast<double>(1 + resamples);
}

// In parts of 16 lanes that vector units add at once; floats hold a part of 4096 to seven digits or so.
double dot(const float* a, const float* b, size_t n) {
  double total = 0;
  for (size_t begin = 0; begin < n; begin += 4096) {
    const size_t end = std::min(n, begin + 4096);
    float sums[16] = {};
    size_t i = begin;
    for (; i + 16 <= end; i += 16)
      for (size_t lane = 0; lane < 16; ++lane) sums[lane] += a[i + lane] * b[i + lane];
    for (; i < end; ++i) sums[0] += a[i] * b[i];
    for (const float sum : sums) total += static_cast<double>(sum);
  }
  return total;
}

// How many tokens of each id there are, and how many of them select each end of some links, and both.
struct IdentityCounts {
  std::unordered_map<int32_t, size_t> place;
  std::vector<int64_t> tokens;
  std::vector<int32_t> from, to, both;  // [ids, links]
  size_t n_links;
  explicit IdentityCounts(size_t links) : n_links(links) {}

  void add(const SampleRoutes& routes, const Link* links) {
    for (int64_t t = 0; t < routes.n(); ++t) {
      const size_t id = place.try_emplace(routes.tokens[static_cast<size_t>(t)], place.size()).first->second;
      if (id == tokens.size()) {
        tokens.push_back(0);
        for (auto* one : {&from, &to, &both}) one->resize(tokens.size() * n_links);
      }
      ++tokens[id];
      for (size_t k = 0; k < n_links; ++k) {
        const bool a = selects(routes, t, links[k].layer, links[k].from),
                   b = selects(routes, t, links[k].layer + 1, links[k].to);
        from[id * n_links + k] += a;
        to[id * n_links + k] += b;
        both[id * n_links + k] += a && b;
      }
    }
  }
  double phi(size_t k) const {
    double product = 0, of_from = 0, of_to = 0;
    for (size_t id = 0; id < tokens.size(); ++id) {
      const double n = static_cast<double>(tokens[id]), a = static_cast<double>(from[id * n_links + k]),
                   b = static_cast<double>(to[id * n_links + k]);
      product += static_cast<double>(both[id * n_links + k]) - a * b / n;
      of_from += a - a * a / n;
      of_to += b - b * b / n;
    }
    return of_from > 1e-9 && of_to > 1e-9 ? product / std::sqrt(of_from * of_to) : no_number;
  }
};

}  // namespace

double LinkTest::phi() const {
  const double n = static_cast<double>(tokens), a = static_cast<double>(from), b = static_cast<double>(to);
  const double spread = a * (n - a) * b * (n - b);
  return spread > 0 ? (n * static_cast<double>(both) - a * b) / std::sqrt(spread) : no_number;
}

std::vector<Link> candidate_links(const TraceSet& set, const RouteOptions& options, const Units& units,
                                  const std::vector<uint8_t>& half_of) {
  const size_t n_pairs = set.layers().empty() ? 0 : set.layers().size() - 1;
  const size_t n_threads = static_cast<size_t>(threads_of(options));
  const size_t at_once = std::max<size_t>(1, (n_pairs + n_threads - 1) / n_threads);
  const size_t n_groups = (n_pairs + at_once - 1) / at_once;
  std::vector<std::vector<Link>> found(n_pairs);
  // Layers in groups, each summed by one task in the order of samples: sums of fractions depend on it.
  ThreadPool pool(static_cast<int>(n_threads));
  pool.parallel_for(static_cast<int64_t>(n_groups), [&](int64_t group, int) {
    const size_t begin = static_cast<size_t>(group) * at_once, end = std::min(begin + at_once, n_pairs);
    std::vector<PairSums> sums(end - begin, PairSums(static_cast<size_t>(set.n_experts())));
    for (size_t sample = 0; sample < set.samples().size(); ++sample) {
      if (!in_half(set, sample, units, half_of, Half::explore)) continue;
      const SampleRoutes routes = read_routes(set, sample, options.filter);
      for (size_t layer = begin; layer < end && routes.n() > 0; ++layer)
        sums[layer - begin].add(routes, static_cast<int64_t>(layer));
    }
    for (size_t layer = begin; layer < end; ++layer)
      sums[layer - begin].append_links(static_cast<int32_t>(layer), found[layer]);
  });
  std::vector<Link> out;
  for (const std::vector<Link>& of_layer : found) out.insert(out.end(), of_layer.begin(), of_layer.end());
  return out;
}

std::vector<LinkTest> test_links(const TraceSet& set, const RouteOptions& options, const Units& units,
                                 const std::vector<uint8_t>& half_of, Half half, const std::vector<Link>& links) {
  std::vector<LinkTest> out(links.size());
  for_each_block_of_links(options, "pipelines: links", links.size(), [&](size_t begin, size_t end) {
    std::vector<std::vector<int64_t>> totals(end - begin, std::vector<int64_t>(static_cast<size_t>(options.resamples)));
    for (size_t sample = 0; sample < set.samples().size(); ++sample) {
      if (!in_half(set, sample, units, half_of, half)) continue;
      const SampleRoutes routes = read_routes(set, sample, options.filter);
      if (routes.n() == 0) continue;
      const std::vector<int64_t> shifts = shifts_of(options, routes);
      for (size_t k = begin; k < end; ++k) {
        const std::vector<int32_t> from = places_of(routes, links[k].layer, links[k].from),
                                   to = places_of(routes, links[k].layer + 1, links[k].to);
        std::vector<int32_t> both;
        std::set_intersection(from.begin(), from.end(), to.begin(), to.end(), std::back_inserter(both));
        out[k].tokens += routes.n();
        out[k].from += static_cast<int64_t>(from.size());
        out[k].to += static_cast<int64_t>(to.size());
        out[k].both += static_cast<int64_t>(both.size());
        add_turned(from, to, shifts, routes.n(), totals[k - begin]);
      }
    }
    for (size_t k = begin; k < end; ++k) {
      int64_t hits = 0;
      double sum = 0, squares = 0;
      for (const int64_t total : totals[k - begin]) {
        hits += total >= out[k].both;
        sum += static_cast<double>(total);
        squares += static_cast<double>(total) * static_cast<double>(total);
      }
      const double n = static_cast<double>(options.resamples), mean = sum / n;
      const double deviation = std::sqrt(std::max(0.0, squares / n - mean * mean));
      if (deviation > 0) out[k].z = (static_cast<double>(out[k].both) - mean) / deviation;
      out[k].p = p_of(hits, options.resamples);
    }
  });
  return out;
}

std::vector<PartialLink> partial_links(const TraceSet& set, const RouteOptions& options, const Units& units,
                                       const std::vector<uint8_t>& half_of, Half half, const std::vector<Link>& links) {
  std::vector<PartialLink> out(links.size());
  for_each_block_of_links(options, "pipelines: token identity", links.size(), [&](size_t begin, size_t end) {
    const size_t n_links = end - begin;
    IdentityCounts counts(n_links);
    for (size_t sample = 0; sample < set.samples().size(); ++sample)
      counts.add(read_routes(set, sample, options.filter), links.data() + begin);
    std::vector<double> observed(n_links);
    std::vector<std::vector<double>> totals(n_links, std::vector<double>(static_cast<size_t>(options.resamples)));
    for (size_t sample = 0; sample < set.samples().size(); ++sample) {
      if (!in_half(set, sample, units, half_of, half)) continue;
      const SampleRoutes routes = read_routes(set, sample, options.filter);
      if (routes.n() == 0) continue;
      const size_t n = routes.tokens.size();
      const std::vector<int64_t> shifts = shifts_of(options, routes);
      std::vector<float> from(n), to(2 * n);  // the second twice over, so that no turn wraps
      std::vector<double> turned;             // by how far
      for (size_t k = 0; k < n_links; ++k) {
        const Link& link = links[begin + k];
        for (size_t t = 0; t < n; ++t) {
          const size_t id = counts.place.at(routes.tokens[t]);
          const double seen = static_cast<double>(counts.tokens[id]);
          const int64_t token = static_cast<int64_t>(t);
          from[t] = static_cast<float>(selects(routes, token, link.layer, link.from) -
                                       static_cast<double>(counts.from[id * n_links + k]) / seen);
          to[t] = to[t + n] = static_cast<float>(selects(routes, token, link.layer + 1, link.to) -
                                                 static_cast<double>(counts.to[id * n_links + k]) / seen);
        }
        observed[k] += dot(from.data(), to.data(), n);
        turned.assign(n, no_number);
        for (size_t i = 0; i < shifts.size(); ++i) {
          double& one = turned[static_cast<size_t>(shifts[i])];
          if (std::isnan(one)) one = dot(from.data(), to.data() + shifts[i], n);
          totals[k][i] += one;
        }
      }
    }
    for (size_t k = 0; k < n_links; ++k) {
      out[begin + k].phi = counts.phi(k);
      const double bar = observed[k] - 1e-9 * (1 + std::abs(observed[k]));
      const auto hits = std::count_if(totals[k].begin(), totals[k].end(), [&](double total) { return total >= bar; });
      out[begin + k].p = p_of(hits, options.resamples);
    }
  });
  return out;
}

}  // namespace signalbox::eval
