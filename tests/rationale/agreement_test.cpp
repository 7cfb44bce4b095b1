// Agreement of divisions against scikit-learn 1.9's numbers, base rates against the table that they are known by, and
// factors scored against labels.
#include "eval/rationale/agreement.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "eval/data/dice.h"
#include "eval/rationale/factor_scores.h"

namespace {

using namespace signalbox;
using namespace signalbox::eval;

// Factors of 40 sentences of 5 units; `noise` of 10 units say something else.
FactorUnits made_units(int32_t n_factors, uint64_t noise, uint64_t seed) {
  FactorUnits units;
  Dice dice(seed, "units");
  for (int64_t s = 0; s < 40; ++s)
    for (int i = 0; i < 5; ++i) {
      const auto label = static_cast<int32_t>(dice.below(static_cast<uint64_t>(n_factors)));
      const bool wrong = dice.below(10) < noise;
      units.label.push_back(label);
      units.factor.push_back(wrong ? static_cast<int32_t>(dice.below(static_cast<uint64_t>(n_factors))) : label);
      units.sentence.push_back(s);
    }
  return units;
}

}  // namespace

TEST_CASE("agreement: adjusted Rand index and information as scikit-learn has them") {
  const std::vector<int32_t> a = {0, 0, 1, 1, 2, 2, 2, 0, 1, 2}, b = {0, 0, 1, 2, 2, 2, 2, 1, 1, 1};
  const Contingency table(a, b, 3, 3);
  CHECK(adjusted_rand(table) == doctest::Approx(0.16974169741697417).epsilon(1e-12));
  const InformationScores scores = information_scores(table);
  CHECK(scores.homogeneity == doctest::Approx(0.4247502538671898).epsilon(1e-12));
  CHECK(scores.completeness == doctest::Approx(0.41149565553041295).epsilon(1e-12));
  CHECK(scores.v_measure == doctest::Approx(0.4180179112091442).epsilon(1e-12));
  const std::vector<int32_t> c = {1, 1, 2, 2, 0, 0, 0, 1, 2, 0};
  CHECK(adjusted_rand(Contingency(a, c, 3, 3)) == 1);
  CHECK(information_scores(Contingency(a, c, 3, 3)).v_measure == doctest::Approx(1));
}

TEST_CASE("base rates: the table") {
  struct Row {
    double p;
    int64_t k;
    double all, random, best;
  };
  for (const Row& row : {Row{.5, 2, .667, .5, 1}, Row{.17, 2, .291, .254, .507}, Row{.17, 4, .291, .202, .810},
                         Row{.17, 10, .291, .126, .741}}) {
    const BaseRates rates = base_rates(row.p, row.k);
    CHECK(std::abs(rates.all_tokens - row.all) < 5e-4);
    CHECK(std::abs(rates.random - row.random) < 5e-4);
    CHECK(std::abs(rates.best_balanced - row.best) < 5e-4);
  }
}

TEST_CASE("matching takes the largest sum of F1, not the largest F1 first") {
  Contingency table(2, 3);  // column 0: no label
  table.at(0, 1) = 10;
  table.at(0, 2) = 9;
  table.at(1, 1) = 9;
  CHECK(match_rows(table, 1) == std::vector<int32_t>{2, 1});
  CHECK(majority_columns(table) == std::vector<int32_t>{1, 1});
  Contingency more(3, 2);  // more rows than labels: what is left goes with none
  more.at(0, 0) = 5;
  more.at(1, 1) = 5;
  CHECK(match_rows(more, 1) == std::vector<int32_t>{-1, 1, -1});
}

TEST_CASE("factor scores: other names of factors change nothing, other labels leave chance") {
  const FactorUnits units = made_units(3, 3, 1), fitted = made_units(3, 3, 2);
  const FactorReport report = score_factors(fitted, units, 3, 2, 0, 200, 50, 1);
  CHECK(report.macro_f1 > 0.7);
  CHECK(report.permuted_mean < 0.45);
  CHECK(report.permuted_p == doctest::Approx(1.0 / 51));
  CHECK(report.rows.size() == 3);
  const std::vector<int32_t> renamed = {2, 0, 1};
  FactorUnits other = units, other_fitted = fitted;
  for (int32_t& factor : other.factor) factor = renamed[static_cast<size_t>(factor)];
  for (int32_t& factor : other_fitted.factor) factor = renamed[static_cast<size_t>(factor)];
  const FactorReport again = score_factors(other_fitted, other, 3, 2, 0, 200, 50, 1);
  CHECK(again.macro_f1 == doctest::Approx(report.macro_f1).epsilon(1e-14));
  CHECK(again.micro_f1 == report.micro_f1);
  CHECK(again.many_to_one_f1 == doctest::Approx(report.many_to_one_f1).epsilon(1e-14));
  CHECK(again.information.v_measure == doctest::Approx(report.information.v_measure).epsilon(1e-12));
  CHECK(again.adjusted_rand == doctest::Approx(report.adjusted_rand).epsilon(1e-12));
  for (const FactorScore& row : report.rows) {
    const auto same = std::find_if(again.rows.begin(), again.rows.end(), [&](const FactorScore& r) {
      return r.factor == renamed[static_cast<size_t>(row.factor)];
    });
    REQUIRE(same != again.rows.end());
    CHECK(same->label == row.label);
    CHECK(same->f1 == row.f1);
    CHECK(same->ci.lo == row.ci.lo);
  }
}

TEST_CASE("factor scores: labels that nothing tells stay within what random factors reach") {
  double sum = 0, base = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const FactorUnits units = made_units(4, 10, 2 * seed), fitted = made_units(4, 10, 2 * seed + 1);
    const FactorReport report = score_factors(fitted, units, 4, 3, 0, 10, 20, 1);
    sum += report.macro_f1 / 20;
    for (const FactorScore& row : report.rows)
      if (row.label > 0) base += row.base.random / 60;
  }
  CHECK(std::abs(sum - base) < 0.04);
}

TEST_CASE("factor scores: precision, recall and F1 of pooled counts") {
  FactorUnits units;
  units.factor = {0, 0, 0, 1, 1, 1};
  units.label = {1, 1, 0, 1, 0, 0};
  units.sentence = {0, 0, 1, 1, 2, 2};
  const FactorReport report = score_factors(units, units, 2, 2, 0, 100, 0, 1);
  REQUIRE(report.rows.size() == 3);
  CHECK(report.rows[0].label == 1);
  CHECK(report.rows[0].precision == doctest::Approx(2.0 / 3));
  CHECK(report.rows[0].recall == doctest::Approx(2.0 / 3));
  CHECK(report.rows[0].f1_sentences == doctest::Approx(0.5));  // 1 in sentence 0, 0 in sentence 1
  CHECK(report.rows[1].label == -1);
  CHECK(report.rows[2].factor == -1);
  CHECK(report.rows[2].f1 == 0);
  CHECK(report.macro_f1 == doctest::Approx(1.0 / 3));  // the label that nobody has counts as 0
}
