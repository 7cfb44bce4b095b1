// Differences of what experts give: by hand from a hand-written trace, their intervals and p against plain loops over
// the same draws, and the tables.
#include <doctest/doctest.h>

#include <cmath>
#include <random>

#include "base/csv.h"
#include "eval/detect/analysis.h"
#include "eval/detect/contribution_difference.h"
#include "eval/statistics/draws.h"
#include "tests/detect/count_data.h"
#include "tests/detect/hand_trace.h"
#include "tests/support.h"

namespace {

using namespace signalbox;
using namespace signalbox::eval;
using namespace signalbox::test;

// Counts with sums of both signs for every record; some tokens are without a defined value.
ContrastCounts drawn_counts(bool paired, int64_t n_each) {
  ContrastCounts counts = empty_counts(2, 3, n_each, paired);
  std::mt19937_64 generator(5);
  draw_counts(counts, 4, 20, 0.3, generator, [](size_t i, bool b) { return 0.2 + 0.05 * static_cast<double>(i + b); });
  std::normal_distribution<double> normal;
  for (const Contribution which : {Contribution::norm, Contribution::direct}) {
    ContributionSums& own = counts.contributions[static_cast<size_t>(which)];
    for (size_t r = 0; r < counts.records.size(); ++r) {
      own.tokens.push_back(counts.records[r].tokens - (which == Contribution::direct ? 1 : 0));
      for (size_t i = 0; i < counts.n_rows(); ++i) {
        const double shift = i == 2 && !counts.records[r].under_b ? 0.7 : 0;
        own.sums.push_back(i == 4 ? 0 : (normal(generator) + shift) * static_cast<double>(own.tokens[r]));
      }
    }
  }
  return counts;
}

// Sums of one side, record by record with a multiplicity.
struct Side {
  double sum = 0, tokens = 0;
  double rate() const { return tokens == 0 ? 0 : sum / tokens; }
};

double quantile_of(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  const double at = q * static_cast<double>(values.size() - 1);
  const auto low = static_cast<size_t>(at);
  return values[low] + (at - std::floor(at)) * (values[std::min(low + 1, values.size() - 1)] - values[low]);
}

}  // namespace

TEST_CASE("contributions: values, intervals and p against plain loops over the same draws") {
  for (const bool paired : {true, false}) {
    CAPTURE(paired);
    const size_t n = 9;
    const ContrastCounts counts = drawn_counts(paired, static_cast<int64_t>(n));
    ContrastOptions options;
    options.a = "A";
    options.b = "B";
    options.resamples = 300;
    options.seed = 3;
    options.threads = 2;
    Detection found = detect(counts, options);
    CHECK(std::isnan(found.rows[0].contributions[static_cast<size_t>(Contribution::update_share)].value));
    for (const Contribution which : {Contribution::norm, Contribution::direct}) {
      const ContributionSums& own = counts.contributions[static_cast<size_t>(which)];
      std::vector<double> ps;
      for (size_t row = 0; row < counts.n_rows(); ++row) {
        CAPTURE(row);
        // Records 2i are under A, 2i + 1 under B.
        const auto value = [&](size_t record) { return own.sums[record * counts.n_rows() + row]; };
        const auto tokens = [&](size_t record) { return static_cast<double>(own.tokens[record]); };
        const auto add = [&](Side& side, size_t record) {
          side.sum += value(record);
          side.tokens += tokens(record);
        };
        Side a, b;
        for (size_t i = 0; i < n; ++i) add(a, 2 * i), add(b, 2 * i + 1);
        const ContributionDifference& one = found.rows[row].contributions[static_cast<size_t>(which)];
        CHECK(one.value == doctest::Approx(a.rate() - b.rate()).epsilon(1e-12));

        std::vector<double> replicates;
        std::vector<uint32_t> bits(n);
        for (int64_t r = 0; r < options.resamples; ++r) {
          Side x, y;
          const auto draw = [&](uint32_t stratum, const auto& put) {
            ResamplingDraws(options.seed, Resampling::bootstrap, stratum).fill(r, bits);
            for (const uint32_t word : bits) put(ResamplingDraws::below(word, n));
          };
          if (paired) {
            draw(0, [&](size_t i) { add(x, 2 * i), add(y, 2 * i + 1); });
          } else {
            draw(1, [&](size_t i) { add(x, 2 * i); });
            draw(2, [&](size_t i) { add(y, 2 * i + 1); });
          }
          replicates.push_back(x.rate() - y.rate());
        }
        CHECK(one.ci.lo == doctest::Approx(quantile_of(replicates, 0.025)).epsilon(1e-6));
        CHECK(one.ci.hi == doctest::Approx(quantile_of(replicates, 0.975)).epsilon(1e-6));

        // |t| with these records on either side: residuals over units, side by side or of pairs.
        const auto statistic = [&](const std::vector<size_t>& on_a, const std::vector<size_t>& on_b) {
          Side x, y;
          for (const size_t record : on_a) add(x, record);
          for (const size_t record : on_b) add(y, record);
          const auto residual = [&](size_t record, const Side& side) {
            return (value(record) - side.rate() * tokens(record)) / side.tokens;
          };
          double variance = 0;
          for (size_t i = 0; i < n; ++i) {
            const double u = residual(on_a[i], x), v = residual(on_b[i], y);
            variance +=
                (paired ? (u - v) * (u - v) : u * u + v * v) * static_cast<double>(n) / static_cast<double>(n - 1);
          }
          const double difference = std::abs(x.rate() - y.rate());
          return difference == 0 ? 0 : difference / std::sqrt(variance);
        };
        std::vector<size_t> as, bs;
        for (size_t i = 0; i < n; ++i) as.push_back(2 * i), bs.push_back(2 * i + 1);
        const double bar = statistic(as, bs) * (1 - 1e-6);
        int64_t hits = 0;
        for (int64_t r = 0; r < options.resamples; ++r) {
          std::vector<size_t> x = as, y = bs;
          if (paired) {
            ResamplingDraws(options.seed, Resampling::signs).fill(r, bits);
            for (size_t i = 0; i < n; ++i)
              if (ResamplingDraws::sign(bits[i]) < 0) std::swap(x[i], y[i]);
          } else {
            std::vector<size_t> all = as;
            all.insert(all.end(), bs.begin(), bs.end());
            ResamplingDraws(options.seed, Resampling::permutation).fill(r, bits);
            ResamplingDraws::draw_subset(std::span(all), n, std::span<const uint32_t>(bits));
            x.assign(all.begin(), all.begin() + static_cast<int64_t>(n));
            y.assign(all.begin() + static_cast<int64_t>(n), all.end());
          }
          hits += statistic(x, y) >= bar;
        }
        CHECK(one.p == static_cast<double>(1 + hits) / static_cast<double>(1 + options.resamples));
        ps.push_back(one.p);
        if (row == 4) CHECK((one.value == 0 && one.p == 1));  // it never gives anything
      }
      const std::vector<double> q = benjamini_hochberg(ps);
      for (size_t row = 0; row < counts.n_rows(); ++row)
        CHECK(found.rows[row].contributions[static_cast<size_t>(which)].q == q[row]);
    }
    options.threads = 1;
    const Detection again = detect(counts, options);
    for (size_t row = 0; row < counts.n_rows(); ++row)
      for (const size_t which : {size_t{0}, size_t{2}}) {
        CHECK(again.rows[row].contributions[which].ci.lo == found.rows[row].contributions[which].ci.lo);
        CHECK(again.rows[row].contributions[which].p == found.rows[row].contributions[which].p);
      }
  }
}

TEST_CASE("contributions: tables of a trace by hand") {
  const TemporaryDirectory dir;
  // Record a (A): tokens 0 and 1; the second has no token that follows. Record b (B): one token, of domain d.
  HandToken first{0, 1}, last{1, 2}, other{0, 3};
  last.norms[0] = 4;
  last.directs[0] = last.directs[1] = NAN;
  other.directs[0] = 2;
  write_hand_trace(dir.path(),
                   {{R"({"id":"a","tokens":[1,2],"condition":"A"})", {first, last}},
                    {R"({"id":"b","tokens":[3],"condition":"B","domain":"d"})", {other}}},
                   "router.ids,router.weights,expert.norm,expert.update_share,expert.direct");
  const TraceSet set({dir.path()});
  CHECK(recorded_contributions(set).size() == 3);
  AnalysisOptions options;
  options.contrasted = true;
  options.detection.a = "A";
  options.detection.b = "B";
  options.detection.resamples = 10;
  CHECK(n_replicates(set, options.detection) == 80);
  int64_t last_told = 0;
  options.detection.on_progress = [&](int64_t done) { last_told = done; };
  const TraceAnalysis found = analyze_traces(set, options);
  CHECK(last_told == 80);
  // Tokens under A: 2, with something that follows 1; under B: 1 and 1. Expert 0 of layer 1: 2 at A's first, 2 at B's.
  const auto& rows = found.detection->rows;
  const auto value = [&](size_t expert, Contribution which) {
    return rows[expert].contributions[static_cast<size_t>(which)].value;
  };
  CHECK(value(0, Contribution::norm) == doctest::Approx(2.0 / 2 - 2));
  CHECK(value(1, Contribution::norm) == doctest::Approx((1.0 + 4) / 2));
  CHECK(value(2, Contribution::update_share) == doctest::Approx(0.25 / 2));
  CHECK(value(0, Contribution::direct) == doctest::Approx(0.5 - 2));
  CHECK(value(1, Contribution::direct) == doctest::Approx(-0.25));
  CHECK(value(3, Contribution::direct) == doctest::Approx(0.25));

  write_analysis(found, dir.path());
  CHECK(read_file(dir / "contribution.csv") ==
        "layer,expert,domain,n,norm,update_share,direct\r\n"
        "1,0,,2,2,0.75,1.25\r\n1,1,,2,2.5,0.5,-0.25\r\n1,2,,1,1,0.25,\r\n1,3,,1,1,0.25,-0.25\r\n"
        "1,0,d,1,2,0.75,2\r\n1,1,d,0,,,\r\n1,2,d,0,,,\r\n1,3,d,1,1,0.25,-0.25\r\n");
  const std::vector<std::string> header = CsvTable::read(dir / "rd.csv").header();
  const std::vector<std::string> end(header.end() - 15, header.end());
  CHECK(end == std::vector<std::string>{"rd_norm", "rd_norm_lo", "rd_norm_hi", "p_norm", "q_norm", "rd_update",
                                        "rd_update_lo", "rd_update_hi", "p_update", "q_update", "rd_direct",
                                        "rd_direct_lo", "rd_direct_hi", "p_direct", "q_direct"});
  CHECK(read_file(dir / "summary.json").find("\"contribution.csv\"") != std::string::npos);
  CHECK(analysis_text(found, options, dir.path(), 5).find("rd_direct") != std::string::npos);
}

TEST_CASE("contributions: a trace of routes alone has the tables that it had") {
  const TemporaryDirectory dir;
  write_hand_trace(dir.path(), {{R"({"id":"a","tokens":[1],"condition":"A"})", {HandToken()}},
                                {R"({"id":"b","tokens":[3],"condition":"B"})", {HandToken()}}});
  AnalysisOptions options;
  options.contrasted = true;
  options.detection.a = "A";
  options.detection.b = "B";
  options.detection.resamples = 10;
  const TraceAnalysis found = analyze_traces(TraceSet({dir.path()}), options);
  write_analysis(found, dir.path());
  CHECK_FALSE(std::filesystem::exists(dir / "contribution.csv"));
  CHECK(CsvTable::read(dir / "rd.csv").header().back() == "lfsr");
  CHECK(read_file(dir / "summary.json").find("rd_norm") == std::string::npos);
}
