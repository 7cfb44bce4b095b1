// Coverage of intervals of means and size of sign flips, by the kind of values. SIGNALBOX_LONG_TESTS=1 makes the table
// of docs/statistics.md: 4,000 sets, B = 2,000; otherwise one row of it.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "eval/statistics/changes.h"
#include "eval/statistics/paired.h"

using namespace signalbox::eval;

namespace {

using Generator = std::mt19937_64;

struct Kind {
  const char* name;
  double mean;
  bool centred;  // p is of mean = 0, which then holds
  std::function<double(Generator&)> draw;
};

double uniform(Generator& generator, double low, double high) {
  return std::uniform_real_distribution<double>(low, high)(generator);
}

const Kind kinds[] = {
    {"normal", 0, true, [](Generator& g) { return std::normal_distribution<double>()(g); }},
    {"exponential - 1", 0, true, [](Generator& g) { return std::exponential_distribution<double>()(g) - 1; }},
    {"log-normal, sigma 1, less its mean", 0, true,
     [](Generator& g) { return std::exp(std::normal_distribution<double>()(g)) - std::exp(0.5); }},
    {"half 0, half -1 to 0.5", -0.125, false,
     [](Generator& g) { return uniform(g, 0, 1) < 0.5 ? 0 : uniform(g, -1, 0.5); }},
    {"four fifths 0, else -0.2 to 1", 0.08, false,
     [](Generator& g) { return uniform(g, 0, 1) < 0.8 ? 0 : uniform(g, -0.2, 1); }},
    {"-1, 0, 1 with .02, .88, .1", 0.08, false,
     [](Generator& g) {
       const double u = uniform(g, 0, 1);
       return u < 0.02 ? -1.0 : u < 0.9 ? 0.0 : 1.0;
     }},
};

}  // namespace

TEST_CASE("intervals of means cover at their level") {
  const char* asked = std::getenv("SIGNALBOX_LONG_TESTS");
  const bool is_long = asked && std::string(asked) == "1";
  const int n_sets = is_long ? 4000 : 300;
  const int64_t resamples = is_long ? 2000 : 400;
  Generator generator(23);
  std::string table = "| values | n | percentile | corrected | exact | p <= .05 |\n|---|---:|---:|---:|---:|---:|\n";
  for (const Kind& kind : kinds)
    for (const int n : {20, 50, 200}) {
      if (!is_long && (n != 20 || &kind > &kinds[1])) continue;
      std::vector<ClusteredValues> columns;
      int exact = 0;
      const bool is_change = &kind == &kinds[5];
      for (int set = 0; set < n_sets; ++set) {
        ClusteredValues column;
        Changes changes{0, 0, n};
        for (int i = 0; i < n; ++i) {
          column.sums.push_back(kind.draw(generator));
          changes.plus += column.sums.back() > 0;
          changes.minus += column.sums.back() < 0;
        }
        column.counts.assign(static_cast<size_t>(n), 1);
        columns.push_back(std::move(column));
        if (!is_change) continue;
        const Interval interval = change_interval(changes);
        exact += interval.lo <= kind.mean && kind.mean <= interval.hi;
      }
      const auto plain = bootstrap_means(columns, 1, resamples, 1),
                 corrected = corrected_means(columns, 1, resamples, 1);
      const std::vector<double> p = sign_flip_ps(columns, 1, resamples, 1);
      int covered = 0, corrected_covered = 0, hits = 0;
      for (size_t c = 0; c < columns.size(); ++c) {
        covered += plain[c].ci.lo <= kind.mean && kind.mean <= plain[c].ci.hi;
        corrected_covered += corrected[c].ci.lo <= kind.mean && kind.mean <= corrected[c].ci.hi;
        hits += p[c] <= 0.05;
      }
      const auto share = [&](int count) { return static_cast<double>(count) / n_sets; };
      char line[160], of_exact[16] = "", of_p[16] = "";
      if (is_change) std::snprintf(of_exact, sizeof of_exact, "%.3f", share(exact));
      if (kind.centred) std::snprintf(of_p, sizeof of_p, "%.3f", share(hits));
      std::snprintf(line, sizeof line, "| %s | %d | %.3f | %.3f | %s | %s |\n", kind.name, n, share(covered),
                    share(corrected_covered), of_exact, of_p);
      table += line;
      CAPTURE(kind.name);
      CAPTURE(n);
      const double slack = 3.3 * std::sqrt(0.05 * 0.95 / n_sets);
      CHECK(share(corrected_covered) > (&kind < &kinds[2] ? 0.925 : 0.8) - slack);
      CHECK(share(corrected_covered) > share(covered) - 0.01);
      if (is_change) CHECK(share(exact) > 0.95 - slack);
      if (&kind == &kinds[0]) CHECK(share(hits) < 0.05 + slack);
    }
  MESSAGE("\n" << table);
}
