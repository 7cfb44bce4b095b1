// Risk differences from counts: against numpy and scipy, against a naive resampler with the same draws, and calibrated
// in simulation.
#include "eval/detect/risk_difference.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "base/error.h"
#include "eval/detect/products.h"
#include "eval/detect/relabelled.h"
#include "eval/detect/selection.h"
#include "eval/detect/subset_sums.h"
#include "eval/statistics/draws.h"
#include "tests/detect/count_data.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;
using namespace signalbox::test;

namespace {

enum class Pairing { all, none, some };

// 24 records, A and B in turn, of one layer and 4 experts: record r has 5 + 7 r mod 11 tokens, of which (3 r r + 5 e +
// r e) mod (tokens + 1) select expert e; 3 more select expert 1 under A, and none expert 3.
ContrastCounts formula_counts(Pairing pairing) {
  ContrastCounts counts = empty_counts(1, 4, 12, false);
  for (int64_t r = 0; r < 24; ++r) {
    ContrastRecord& record = counts.records[static_cast<size_t>(r)];
    if (pairing == Pairing::all || (pairing == Pairing::some && r < 16)) record.pair = "p" + std::to_string(r / 2);
    record.tokens = 5 + 7 * r % 11;
    for (int64_t e = 0; e < 3; ++e) {
      int64_t selected = (3 * r * r + 5 * e + r * e) % (record.tokens + 1);
      if (e == 1 && !record.under_b) selected = std::min(record.tokens, selected + 3);
      counts.selected[static_cast<size_t>(r * 4 + e)] = static_cast<uint32_t>(selected);
    }
  }
  return counts;
}

bool near(double a, double b, double tolerance = 1e-12) { return std::abs(a - b) <= tolerance; }

// A replicate made record by record: which records stand under A and B, how often each.
struct Naive {
  const ContrastCounts& counts;
  ContrastUnits units = contrast_units(counts);

  double difference(const std::vector<int64_t>& in_a, const std::vector<int64_t>& in_b, size_t row) const {
    double a = 0, na = 0, b = 0, nb = 0;
    for (size_t r = 0; r < counts.records.size(); ++r) {
      const double selected = counts.selected[r * counts.n_rows() + row];
      const double tokens = static_cast<double>(counts.records[r].tokens);
      a += static_cast<double>(in_a[r]) * selected;
      na += static_cast<double>(in_a[r]) * tokens;
      b += static_cast<double>(in_b[r]) * selected;
      nb += static_cast<double>(in_b[r]) * tokens;
    }
    return a / na - b / nb;
  }
  std::vector<double> all(const std::vector<int64_t>& in_a, const std::vector<int64_t>& in_b) const {
    std::vector<double> out;
    for (size_t row = 0; row < counts.n_rows(); ++row) out.push_back(difference(in_a, in_b, row));
    return out;
  }
  std::vector<double> bootstrap(uint64_t seed, int64_t replicate) const {
    std::vector<int64_t> in_a(counts.records.size(), 0), in_b = in_a;
    const auto draw = [&](uint32_t stratum, size_t n, auto add) {
      std::vector<uint32_t> bits(n);
      ResamplingDraws(seed, Resampling::bootstrap, stratum).fill(replicate, bits);
      for (uint32_t word : bits) add(ResamplingDraws::below(word, n));
    };
    draw(0, units.pairs.size(), [&](size_t i) {
      for (size_t r : units.pairs[i].a) ++in_a[r];
      for (size_t r : units.pairs[i].b) ++in_b[r];
    });
    draw(1, units.only_a.size(), [&](size_t i) {
      for (size_t r : units.only_a[i]) ++in_a[r];
    });
    draw(2, units.only_b.size(), [&](size_t i) {
      for (size_t r : units.only_b[i]) ++in_b[r];
    });
    return all(in_a, in_b);
  }
  // |t| of every row under the labels of a replicate, or as they stand (-1): residuals unit by unit, then their
  // squares.
  std::vector<double> studentised(uint64_t seed, int64_t replicate) const {
    using Records = std::vector<size_t>;
    std::vector<std::pair<Records, Records>> pairs;  // what stands under A and under B
    std::vector<Records> a, b;
    std::vector<uint32_t> bits(units.pairs.size());
    if (replicate >= 0) ResamplingDraws(seed, Resampling::signs).fill(replicate, bits);
    for (size_t i = 0; i < units.pairs.size(); ++i) {
      const bool swapped = replicate >= 0 && ResamplingDraws::sign(bits[i]) < 0;
      const auto& [one, two] = units.pairs[i];
      a.push_back(swapped ? two : one);
      b.push_back(swapped ? one : two);
    }
    if (units.pairs.empty()) {
      std::vector<Records> rest = units.only_a;
      rest.insert(rest.end(), units.only_b.begin(), units.only_b.end());
      std::vector<size_t> order(rest.size());
      std::iota(order.begin(), order.end(), size_t{0});
      bits.resize(units.only_a.size());
      ResamplingDraws(seed, Resampling::permutation).fill(std::max<int64_t>(replicate, 0), bits);
      if (replicate >= 0)
        ResamplingDraws::draw_subset(std::span(order), units.only_a.size(), std::span<const uint32_t>(bits));
      for (size_t i = 0; i < rest.size(); ++i) (i < units.only_a.size() ? a : b).push_back(rest[order[i]]);
    }
    std::vector<double> out;
    for (size_t row = 0; row < counts.n_rows(); ++row) {
      double rate[2];
      std::vector<double> residuals[2];  // divided by the side's tokens
      for (const int side : {0, 1}) {
        double selected = 0, tokens = 0;
        for (const Records& unit : side ? b : a)
          for (size_t r : unit) {
            selected += counts.selected[r * counts.n_rows() + row];
            tokens += static_cast<double>(counts.records[r].tokens);
          }
        rate[side] = selected / tokens;
        for (const Records& unit : side ? b : a) {
          double residual = 0;
          for (size_t r : unit)
            residual +=
                counts.selected[r * counts.n_rows() + row] - rate[side] * static_cast<double>(counts.records[r].tokens);
          residuals[side].push_back(residual / tokens);
        }
      }
      const auto variance = [](const std::vector<double>& values) {
        double sum = 0;
        for (double value : values) sum += value * value;
        return values.size() < 2 ? 0.0
                                 : sum * static_cast<double>(values.size()) / static_cast<double>(values.size() - 1);
      };
      double error = variance(residuals[0]) + variance(residuals[1]);
      if (!units.pairs.empty()) {
        for (size_t i = 0; i < a.size(); ++i) residuals[0][i] -= residuals[1][i];
        error = variance(residuals[0]);
      }
      const double difference = std::abs(rate[0] - rate[1]);
      out.push_back(difference < 1e-13 ? 0 : error < 1e-26 ? INFINITY : difference / std::sqrt(error));
    }
    return out;
  }
};

ContrastOptions quick(int64_t resamples, uint64_t seed = 0, int threads = 1) {
  ContrastOptions options;
  options.a = "a";
  options.b = "b";
  options.resamples = resamples;
  options.seed = seed;
  options.threads = threads;
  return options;
}

}  // namespace

TEST_CASE("risk differences of pairs, of records, and of both") {
  // Python with numpy and scipy over the same formula: 400,000 replicates of the bootstrap (multinomial draws); p and
  // p_maxt by relabelled_numbers.py; t by ttest_rel over complete pairs, or ttest_ind(equal_var=False).
  struct Expected {
    Pairing pairing;
    double lo[3], hi[3], p[3], p_maxt[3], t[3], t_p[3], stable[3];
  };
  const Expected cases[] = {{Pairing::all,
                             {-0.3893, 0.2337, -0.3489},
                             {0.1259, 0.5456, 0.1301},
                             {0.3827, 0.0019, 0.3894},
                             {0.6289, 0.0029, 0.6289},
                             {-1.611239520279844, 4.6446925764528935, -1.1229700957075803},
                             {0.13542519130687014, 0.000711194473229161, 0.2853623016298741},
                             {0.0037, 0.9698, 0.0265}},
                            {Pairing::none,
                             {-0.3688, 0.2072, -0.3418},
                             {0.1040, 0.5762, 0.1147},
                             {0.3359, 0.0016, 0.3670},
                             {0.5639, 0.0039, 0.5639},
                             {-1.684815653778889, 4.04823866619266, -1.230470913385875},
                             {0.10674936787299646, 0.0009233003003756857, 0.23289114615022705},
                             {0.0113, 0.9712, 0.0174}},
                            {Pairing::some,
                             {-0.3742, 0.2542, -0.3519},
                             {0.1158, 0.5257, 0.1225},
                             {0.4217, 0.0079, 0.8051},
                             {0.7031, 0.0079, 0.8051},
                             {-1.313884714021336, 5.04223187277594, -0.3874180776293488},
                             {0.23030387877151856, 0.0014927477607743589, 0.7099568544989365},
                             {0.0047, 0.9718, 0.0235}}};
  const double rd[] = {-0.12858161083392733, 0.40334996436208126, -0.11240199572344972};
  const double rd_example[] = {-0.1869061494061493, 0.39987535612535613, -0.1542307229807231};
  const double log_odds[] = {-0.5366583855561495, 2.092236706481141, -0.4489521151735453};
  const int64_t a1[] = {38, 102, 54}, a2[] = {56, 59, 71};
  for (const Expected& expected : cases) {
    ContrastOptions options = quick(20000);
    options.stable_top = 1;
    options.family_wise = true;
    const Detection found = detect(formula_counts(expected.pairing), options);
    REQUIRE(found.rows.size() == 4);
    for (size_t e = 0; e < 3; ++e) {
      CAPTURE(e);
      const RiskDifference& row = found.rows[e];
      CHECK(row.layer == 0);
      CHECK(row.expert == static_cast<int32_t>(e));
      CHECK(row.a1 == a1[e]);
      CHECK(row.d1 == 115 - a1[e]);
      CHECK(row.a2 == a2[e]);
      CHECK(row.d2 == 122 - a2[e]);
      CHECK(near(row.value(), rd[e]));
      CHECK(near(row.rd_example, rd_example[e]));
      CHECK(near(row.log_odds, log_odds[e]));
      CHECK(near(row.t, expected.t[e], 1e-9));
      CHECK(near(row.t_p, expected.t_p[e], 1e-9));
      CHECK(near(row.ci.lo, expected.lo[e], 0.008));
      CHECK(near(row.ci.hi, expected.hi[e], 0.008));
      CHECK(near(row.p, expected.p[e], expected.p[e] < 0.002 ? 0.001 : expected.p[e] < 0.01 ? 0.002 : 0.012));
      CHECK(near(row.p_maxt, expected.p_maxt[e], expected.p_maxt[e] < 0.01 ? 0.002 : 0.012));
      CHECK(near(row.stable, expected.stable[e], 0.005));
      CHECK(std::isnan(row.rd_weight));
      CHECK(std::isnan(row.logit_diff));
    }
    // Never selected.
    const RiskDifference& never = found.rows[3];
    CHECK(never.value() == 0);
    CHECK(never.ci.lo == 0);
    CHECK(never.ci.hi == 0);
    CHECK(never.p == 1);
    CHECK(never.p_maxt == 1);
    CHECK((never.se == 0 && never.rd_shrunk == 0 && never.lfsr == 1));
    for (size_t e = 0; e < 3; ++e) {
      const RiskDifference& row = found.rows[e];
      CHECK(std::abs(row.rd_shrunk) < std::abs(row.value()));
      CHECK(row.rd_shrunk * row.value() > 0);
      CHECK(row.lfsr > 0);
    }
    CHECK(found.rows[1].lfsr < found.rows[0].lfsr);
    CHECK(found.facts.null_share > 0);
    CHECK(never.q == 1);
    CHECK(std::isnan(never.t));
    CHECK(std::isnan(never.t_p));
    CHECK(near(never.log_odds, 0.058840500022933284));
    // q: Benjamini-Hochberg over the four rows.
    CHECK(near(found.rows[1].q, 4 * found.rows[1].p));
    const double larger = std::max(found.rows[0].p, found.rows[2].p), less = std::min(found.rows[0].p, found.rows[2].p);
    CHECK(near(std::max(found.rows[0].q, found.rows[2].q), std::min(1.0, larger * 4 / 3)));
    CHECK(near(std::min(found.rows[0].q, found.rows[2].q), std::min(less * 2, larger * 4 / 3)));
    const DetectionFacts& facts = found.facts;
    CHECK(facts.records.size() == 24);
    CHECK(facts.records[1] == "b0");
    CHECK(facts.records_a == 12);
    CHECK(facts.records_b == 12);
    CHECK(facts.tokens_a == 115);
    CHECK(facts.tokens_b == 122);
    const int64_t pairs = expected.pairing == Pairing::all ? 12 : expected.pairing == Pairing::some ? 8 : 0;
    CHECK(facts.pairs == pairs);
    CHECK(facts.unpaired_a == 12 - pairs);
    CHECK(facts.unpaired_b == 12 - pairs);
  }
}

TEST_CASE("copies of a record under other ids change neither intervals nor p") {
  for (const Pairing pairing : {Pairing::all, Pairing::none}) {
    ContrastCounts once = formula_counts(pairing), thrice = once;
    for (size_t r = 0; r < once.records.size(); ++r) once.records[r].prompts = {"prompt " + std::to_string(r)};
    thrice.records.clear();
    thrice.selected.clear();
    for (const char* copy : {"", "'", "''"})
      for (size_t r = 0; r < once.records.size(); ++r) {
        ContrastRecord record = once.records[r];
        record.id += copy;
        if (!record.pair.empty()) record.pair += copy;
        thrice.records.push_back(record);
        const auto begin = once.selected.begin() + static_cast<int64_t>(r * once.n_rows());
        thrice.selected.insert(thrice.selected.end(), begin, begin + static_cast<int64_t>(once.n_rows()));
      }
    const ContrastOptions options = quick(999, 4, 2);
    const Detection one = detect(once, options), three = detect(thrice, options);
    for (size_t i = 0; i < one.rows.size(); ++i) {
      CAPTURE(i);
      const RiskDifference &a = one.rows[i], &b = three.rows[i];
      CHECK(b.a1 == 3 * a.a1);
      CHECK(b.value() == doctest::Approx(a.value()).epsilon(1e-12));
      CHECK(b.ci.lo == doctest::Approx(a.ci.lo).epsilon(1e-12));
      CHECK(b.ci.hi == doctest::Approx(a.ci.hi).epsilon(1e-12));
      CHECK(b.p == a.p);
      CHECK(b.q == a.q);
      CHECK(b.stable == a.stable);
      CHECK(b.rd_example == doctest::Approx(a.rd_example).epsilon(1e-12));
      CHECK((b.t_p == doctest::Approx(a.t_p).epsilon(1e-9) || (std::isnan(a.t_p) && std::isnan(b.t_p))));
    }
    CHECK(three.facts.pairs == (pairing == Pairing::all ? 36 : 0));
    CHECK(three.facts.pair_examples == (pairing == Pairing::all ? 12 : 0));
    CHECK(three.facts.unpaired_a == (pairing == Pairing::all ? 0 : 36));
    CHECK(three.facts.examples_a == (pairing == Pairing::all ? 0 : 12));
    REQUIRE(!three.warnings.empty());
    const std::string told = pairing == Pairing::all ? "36 pairs that make 12 examples"
                                                     : "36 records under \"a\" and 36 under \"b\" that make 12 and 12 "
                                                       "examples";
    CHECK(three.warnings[0] == told +
                                   ": those that have the same prompt under the same condition are resampled as one; "
                                   "nothing is wrong, they only add no certainty");
  }
}

TEST_CASE("pairs that share a side are one unit, and unpaired copies another") {
  ContrastCounts counts = empty_counts(1, 2, 5, true);  // a0 b0 a1 b1 ...
  const char* prompts[] = {"d0", "q", "d1", "q", "d2", "r", "d3", "s", "d2", "t"};
  for (size_t r = 0; r < 10; ++r) counts.records[r].prompts = {prompts[r]};
  counts.records[6].pair = counts.records[7].pair = "";
  counts.records[7].prompts = {"r"};  // the same prompt as b2, which has a pair
  for (const char* side : {"d3", "d4"}) {
    ContrastRecord record;
    record.id = side;
    record.prompts = {side};
    counts.records.push_back(record);
  }
  const ContrastUnits units = contrast_units(counts);
  CHECK(units.named_pairs == 4);
  REQUIRE(units.pairs.size() == 2);
  CHECK(units.pairs[0].a == std::vector<size_t>{0, 2});
  CHECK(units.pairs[0].b == std::vector<size_t>{1, 3});
  CHECK(units.pairs[1].a == std::vector<size_t>{4, 8});
  CHECK(units.only_a == std::vector<std::vector<size_t>>{{6, 10}, {11}});
  CHECK(units.only_b == std::vector<std::vector<size_t>>{{7}});
}

TEST_CASE("records whose counts contradict that they have one prompt are no copies") {
  ContrastCounts counts = empty_counts(1, 2, 3, false);  // a0 b0 a1 b1 a2 b2
  for (ContrastRecord& record : counts.records) record.prompts = {"same"}, record.decided_by_prompt = true;
  counts.selected[4 * counts.n_rows()] = 1;  // a2
  const ContrastUnits units = contrast_units(counts);
  CHECK(units.only_a == std::vector<std::vector<size_t>>{{0, 2}, {4}});
  CHECK(units.only_b == std::vector<std::vector<size_t>>{{1, 3, 5}});
}

TEST_CASE("resampling is that of a naive resampler with the same draws") {
  for (const Pairing pairing : {Pairing::all, Pairing::none, Pairing::some}) {
    ContrastCounts counts = formula_counts(pairing);
    if (pairing == Pairing::some) counts.records[3].pair = "p0";  // a pair of one record against two; p1 is broken
    const int64_t n = 401;
    const uint64_t seed = uint64_t{5} << 33;
    ContrastOptions options = quick(n, seed, 3);
    options.stable_top = 2;
    options.family_wise = true;
    const Detection found = detect(counts, options);
    const Naive naive{counts};
    std::vector<std::vector<double>> drawn(4);
    std::vector<int64_t> in_top(4, 0), hits(4, 0), family_hits(4, 0);
    const std::vector<double> observed = naive.studentised(seed, -1);
    const auto is_hit = [](double t, double bar) { return t == bar || t >= bar * (1 - 1e-10); };
    for (int64_t b = 0; b < n; ++b) {
      const std::vector<double> replicate = naive.bootstrap(seed, b), t = naive.studentised(seed, b);
      std::vector<size_t> order = {0, 1, 2, 3};
      std::stable_sort(order.begin(), order.end(),
                       [&](size_t x, size_t y) { return std::abs(replicate[x]) > std::abs(replicate[y]); });
      for (size_t i : {0, 1}) ++in_top[order[i]];
      for (size_t i = 0; i < 4; ++i) {
        drawn[i].push_back(replicate[i]);
        hits[i] += is_hit(t[i], observed[i]);
        double largest = 0;
        for (size_t j = 0; j < 4; ++j)
          if (observed[j] <= observed[i]) largest = std::max(largest, t[j]);
        family_hits[i] += is_hit(largest, observed[i]);
      }
    }
    const auto share = [&](int64_t count) { return static_cast<double>(1 + count) / static_cast<double>(1 + n); };
    for (size_t i = 0; i < 4; ++i) {
      CAPTURE(i);
      std::sort(drawn[i].begin(), drawn[i].end());
      CHECK(found.rows[i].ci.lo == quantile(drawn[i], 0.025));
      CHECK(near(found.rows[i].ci.hi, quantile(drawn[i], 0.975), 1e-15));
      CHECK(found.rows[i].p == share(hits[i]));
      double family_wise = 0;
      for (size_t j = 0; j < 4; ++j)
        if (observed[j] >= observed[i]) family_wise = std::max(family_wise, share(family_hits[j]));
      CHECK(found.rows[i].p_maxt == family_wise);
      CHECK(found.rows[i].stable == static_cast<double>(in_top[i]) / static_cast<double>(n));
    }
  }
}

TEST_CASE("detection does not depend on threads, and depends on the seed") {
  const ContrastCounts counts = formula_counts(Pairing::some);
  for (const int64_t n : {1, 33, 1000}) {
    ContrastOptions options = quick(n, 3, 1);
    options.family_wise = true;
    const Detection one = detect(counts, options);
    options.threads = 4;
    const Detection four = detect(counts, options);
    for (size_t i = 0; i < one.rows.size(); ++i) {
      CHECK(one.rows[i].ci.lo == four.rows[i].ci.lo);
      CHECK(one.rows[i].ci.hi == four.rows[i].ci.hi);
      CHECK(one.rows[i].p == four.rows[i].p);
      CHECK(one.rows[i].p_maxt == four.rows[i].p_maxt);
      CHECK(one.rows[i].stable == four.rows[i].stable);
    }
  }
  CHECK(detect(counts, quick(1000, 3)).rows[0].ci.lo != detect(counts, quick(1000, 4)).rows[0].ci.lo);
}

TEST_CASE("products of counts are exact, in float and in double") {
  std::mt19937_64 generator(3);
  for (const int64_t scale : {int64_t{100}, int64_t{1} << 18, int64_t{1} << 40}) {
    CAPTURE(scale);
    const int64_t n_units = 37, n_columns = 21;
    std::vector<int64_t> counts(static_cast<size_t>(n_units * n_columns));
    for (int64_t& count : counts)
      count = static_cast<int64_t>(generator() % static_cast<uint64_t>(2 * scale + 1)) - scale;
    const CountTable table(n_units, n_columns, n_units,
                           [&](int64_t u, int64_t c) { return counts[static_cast<size_t>(u * n_columns + c)]; });
    std::vector<uint32_t> multiplicities(static_cast<size_t>(replicate_block * n_units), 0);
    for (int64_t r = 0; r < replicate_block; ++r)
      for (int64_t u = 0; u < n_units; ++u)
        ++multiplicities[static_cast<size_t>(r * n_units) + generator() % static_cast<uint64_t>(n_units)];
    std::vector<double> sums(static_cast<size_t>(replicate_block * n_columns), NAN);
    CountTable::Scratch scratch;
    table.multiply(multiplicities, sums, scratch);
    bool equal = true;
    for (int64_t r = 0; r < replicate_block; ++r)
      for (int64_t c = 0; c < n_columns; ++c) {
        int64_t expected = 0;
        for (int64_t u = 0; u < n_units; ++u)
          expected +=
              multiplicities[static_cast<size_t>(r * n_units + u)] * counts[static_cast<size_t>(u * n_columns + c)];
        equal = equal && sums[static_cast<size_t>(r * n_columns + c)] == static_cast<double>(expected);
      }
    CHECK(equal);
  }
  CHECK_THROWS_AS(CountTable(2, 1, 2, [](int64_t, int64_t) { return int64_t{1} << 60; }), Error);
}

TEST_CASE("sums over subsets are exact, in 32 bits and in 64") {
  std::mt19937_64 generator(4);
  for (const int64_t scale : {int64_t{100}, int64_t{1} << 27, int64_t{1} << 50})
    for (const int64_t n_units : {1, 8, 37}) {
      CAPTURE(scale);
      CAPTURE(n_units);
      const int64_t n_columns = 21, n_subsets = 19;
      std::vector<int64_t> counts(static_cast<size_t>(n_units * n_columns));
      for (int64_t& count : counts)
        count = static_cast<int64_t>(generator() % static_cast<uint64_t>(2 * scale + 1)) - scale;
      const auto at = [&](int64_t unit, int64_t column) {
        return counts[static_cast<size_t>(unit * n_columns + column)];
      };
      const SubsetSums table(n_units, n_columns, at);
      REQUIRE(table.n_panels() == 2);
      std::vector<uint8_t> subsets(static_cast<size_t>(table.n_bytes() * n_subsets), 0);
      for (int64_t unit = 0; unit < n_units; ++unit)
        for (int64_t s = 0; s < n_subsets; ++s)
          if (generator() % 2) subsets[static_cast<size_t>(unit / 8 * n_subsets + s)] |= 1 << unit % 8;
      SubsetSums::Scratch scratch;
      int64_t wrong = 0;
      for (int64_t panel = 0; panel < 2; ++panel) {
        std::vector<int64_t> sums(static_cast<size_t>(n_subsets * SubsetSums::panel_columns), -1);
        table.sum(panel, subsets, n_subsets, sums.data(), scratch);
        for (int64_t s = 0; s < n_subsets; ++s)
          for (int64_t c = 0; c < SubsetSums::panel_columns; ++c) {
            int64_t expected = 0;
            const int64_t column = panel * SubsetSums::panel_columns + c;
            for (int64_t unit = 0; unit < n_units && column < n_columns; ++unit)
              if (subsets[static_cast<size_t>(unit / 8 * n_subsets + s)] >> unit % 8 & 1) expected += at(unit, column);
            wrong += sums[static_cast<size_t>(s * SubsetSums::panel_columns + c)] != expected;
          }
      }
      CHECK(wrong == 0);
    }
  CHECK_THROWS_AS(SubsetSums(8, 1, [](int64_t, int64_t) { return int64_t{1} << 60; }), Error);
}

TEST_CASE("detection refuses what it cannot resample") {
  ContrastCounts counts = formula_counts(Pairing::none);
  CHECK_THROWS_WITH_AS(detect(counts, quick(0)), doctest::Contains("resamples: expected at least 1"), Error);
  ContrastOptions none = quick(10);
  none.stable_top = 0;
  CHECK_THROWS_WITH_AS(detect(counts, none), doctest::Contains("stable top: expected at least 1"), Error);
  ContrastCounts many = counts;
  many.records[5].tokens = int64_t{1} << 31;
  CHECK_THROWS_WITH_AS(detect(many, quick(10)), doctest::Contains("fewer than 2^31 tokens"), Error);
  for (ContrastRecord& record : counts.records) record.under_b = false;
  CHECK_THROWS_WITH_AS(detect(counts, quick(10)), doctest::Contains("records under both conditions, found 24 and 0"),
                       Error);
}

TEST_CASE("top experts: by sign, ties by layer and expert") {
  std::vector<RiskDifference> rows(4);
  const int64_t selected[] = {5, 1, 9, 5};
  for (int32_t i = 0; i < 4; ++i) {
    rows[static_cast<size_t>(i)].layer = i / 2;
    rows[static_cast<size_t>(i)].expert = i % 2;
    rows[static_cast<size_t>(i)].a1 = selected[i];
    rows[static_cast<size_t>(i)].d1 = 10 - selected[i];
    rows[static_cast<size_t>(i)].a2 = 5;
    rows[static_cast<size_t>(i)].d2 = 5;
  }
  const auto order = [&](size_t n, int sign) {
    std::vector<int> out;
    for (const RiskDifference& row : top_experts(rows, n, sign)) out.push_back(row.layer * 2 + row.expert);
    return out;
  };
  CHECK(order(4, +1) == std::vector<int>{2, 0, 3, 1});
  CHECK(order(4, -1) == std::vector<int>{1, 0, 3, 2});
  CHECK(order(2, 0) == std::vector<int>{1, 2});
  CHECK(order(9, 0).size() == 4);
}

TEST_CASE("intervals of risk differences cover at their rate" * doctest::test_suite("repeats: statistics at length")) {
  std::mt19937_64 generator(11);
  for (const bool paired : {true, false}) {
    CAPTURE(paired);
    int64_t covered = 0, total = 0;
    for (int set = 0; set < 100; ++set) {
      ContrastCounts counts = empty_counts(1, 10, 60, paired);
      const auto rate = [](size_t i, bool b) { return 0.1 + 0.04 * static_cast<double>(i) + (b || i < 5 ? 0.0 : 0.1); };
      draw_counts(counts, 20, 60, 0.4, generator, rate);
      const Detection found = detect(counts, quick(600, static_cast<uint64_t>(set)));
      for (size_t i = 0; i < 10; ++i, ++total) {
        const double truth = rate(i, false) - rate(i, true);
        covered += found.rows[i].ci.lo <= truth && truth <= found.rows[i].ci.hi;
      }
    }
    const double share = static_cast<double>(covered) / static_cast<double>(total);
    CAPTURE(share);
    CHECK(share > 0.92);
    CHECK(share < 0.97);
  }
}

TEST_CASE("p is uniform and q holds its rate among experts without an effect" *
          doctest::test_suite("repeats: statistics at length")) {
  std::mt19937_64 generator(12);
  for (const bool paired : {true, false}) {
    CAPTURE(paired);
    double false_share = 0;
    int64_t found_planted = 0, below = 0, nulls = 0;
    const int n_sets = 60, n_experts = 100, n_planted = 20;
    std::vector<double> ps;
    for (int set = 0; set < n_sets; ++set) {
      ContrastCounts counts = empty_counts(1, n_experts, 40, paired);
      draw_counts(counts, 20, 60, 0.4, generator, [&](size_t i, bool b) { return i < n_planted && !b ? 0.35 : 0.15; });
      const Detection found = detect(counts, quick(999, static_cast<uint64_t>(set)));
      int64_t right = 0, wrong = 0;
      for (size_t i = 0; i < n_experts; ++i) {
        (i < n_planted ? right : wrong) += found.rows[i].q < 0.05;
        if (i < n_planted) continue;
        ++nulls;
        below += found.rows[i].p <= 0.05;
        ps.push_back(found.rows[i].p);
      }
      found_planted += right;
      false_share += right + wrong == 0 ? 0 : static_cast<double>(wrong) / static_cast<double>(right + wrong);
    }
    false_share /= n_sets;
    CAPTURE(false_share);
    CHECK(static_cast<double>(found_planted) / (n_sets * n_planted) >= 0.95);
    CHECK(false_share < 0.04 + 0.015);  // 0.05 * 80 / 100, and what 60 sets can miss it by
    CHECK(false_share > 0.015);
    const double rate = static_cast<double>(below) / static_cast<double>(nulls);
    CAPTURE(rate);
    CHECK(std::abs(rate - 0.05) < 0.012);
    std::sort(ps.begin(), ps.end());
    double distance = 0;
    for (size_t i = 0; i < ps.size(); ++i)
      distance = std::max(distance, std::abs(ps[i] - static_cast<double>(i + 1) / static_cast<double>(ps.size())));
    CAPTURE(distance);
    CHECK(distance < 0.035);  // 1.63 / sqrt(4800) = 0.024 for independent values; records share their tokens
  }
}
