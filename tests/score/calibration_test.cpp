// Judges against labels, and rates that labels correct: against scipy, statsmodels and ppi_py
// (make_calibration_goldens.py), by hand, and in simulation.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <random>

#include "base/json.h"
#include "eval/score/corrected_rates.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::eval;

namespace {

const json::Value& goldens() {
  static const json::Value value = json::parse_file(test::source_dir() / "tests/score/calibration_goldens.json");
  return value;
}

void check_share(const Share& share, const json::Value& golden, double tolerance = 1e-10) {
  CHECK(share.value == doctest::Approx(golden.items()[0].real()).epsilon(1e-12));
  CHECK(std::abs(share.lo - golden.items()[1].real()) < tolerance);
  CHECK(std::abs(share.hi - golden.items()[2].real()) < tolerance);
}

std::vector<LabelledScore> labels_of(const json::Value& lines) {
  std::vector<LabelledScore> out;
  for (const json::Value& line : lines.items())
    out.push_back({line.find("label")->boolean(), line.find("score")->real(), line.find("cluster")->integer()});
  return out;
}

std::vector<ScoredLine> lines_of(const json::Value& lines) {
  std::vector<ScoredLine> out;
  for (const LabelledScore& one : labels_of(lines)) out.push_back({one.cluster, one.score, std::nullopt});
  return out;
}

// A rule that misses some of the labels and invents others, on lines whose rate is known.
struct World {
  double rate = 0.3, misses = 0.1, invents = 0.05;
  std::mt19937_64 random{1};
  bool toss(double p) { return static_cast<double>(random() >> 11) * 0x1p-53 < p; }
  ScoredLine line(int64_t cluster) {
    const bool label = toss(rate);
    return {cluster, toss(label ? 1 - misses : invents) ? 1.0 : 0.0, label};
  }
  LabelledScore labelled(int64_t cluster) {
    const ScoredLine one = line(cluster);
    return {*one.label, one.score, cluster};
  }
  ScoredLine unlabelled(int64_t cluster) {
    ScoredLine one = line(cluster);
    one.label.reset();
    return one;
  }
};

}  // namespace

TEST_CASE("calibration: exact intervals of shares") {
  for (const json::Value& one : goldens().find("exact")->items()) {
    CAPTURE(json::dump(one));
    check_share(exact_share(one.find("x")->real(), one.find("n")->real()), *one.find("share"));
  }
  CHECK(std::isnan(exact_share(0, 0).value));
}

TEST_CASE("calibration: confusions and corrected rates of other implementations") {
  for (const json::Value& one : goldens().find("cases")->items()) {
    CAPTURE(one.find("name")->string());
    const std::vector<LabelledScore> labels = labels_of(*one.find("labels"));
    const json::Value& golden = *one.find("confusion");
    const Confusion found = confusion(labels, 0.5, 7, 4000);
    const auto& counts = golden.find("counts")->items();
    CHECK(found.true_positive == counts[0].integer());
    CHECK(found.false_positive == counts[1].integer());
    CHECK(found.false_negative == counts[2].integer());
    CHECK(found.true_negative == counts[3].integer());
    check_share(found.sensitivity, *golden.find("sensitivity"));
    check_share(found.specificity, *golden.find("specificity"));
    check_share(found.precision, *golden.find("precision"));
    check_share(found.f1, *golden.find("f1"));
    check_share(found.kappa, *golden.find("kappa"), 0.02);  // two bootstraps with draws of their own
    const std::vector<std::vector<ScoredLine>> lines = {lines_of(*one.find("lines"))};
    for (const auto& form : {std::pair{"published", 0.0}, {"widened", 0.5}}) {
      const char* key = form.first;
      const double imagined = form.second;
      CAPTURE(key);
      const json::Value& rates = *one.find(key);
      const CorrectedRate rate = corrected_rates(lines, labels, false, {0.5, imagined}).at(0);
      CHECK(rate.lambda == doctest::Approx(rates.find("lambda")->real()).epsilon(1e-12));
      check_share(rate.rule.share(), *rates.find("rule"));
      check_share(rate.ppi.share(), *rates.find("ppi"));
      check_share(rate.tuned.share(), *rates.find("tuned"));
      check_share(rate.rogan_gladen.share(), *rates.find("rogan_gladen"));
    }
  }
}

TEST_CASE("calibration: a rule that is never wrong, labels of one kind, one cluster, none") {
  std::vector<LabelledScore> labels;
  for (int64_t i = 0; i < 20; ++i) labels.push_back({i % 2 == 0, i % 2 == 0 ? 1.0 : 0.0, i});
  Confusion found = confusion(labels, 0.5, 1, 100);
  CHECK(found.n_wrong() == 0);
  CHECK(found.sensitivity.value == 1);
  CHECK(found.sensitivity.lo == doctest::Approx(std::pow(0.025, 0.1)));  // 10 of 10
  CHECK(found.f1.lo < 1);
  CHECK(found.kappa.value == 1);
  CHECK(std::isnan(found.kappa.lo));
  // Nothing to correct, which is no proof that there never is.
  std::vector<std::vector<ScoredLine>> lines(1);
  for (int64_t i = 0; i < 1000; ++i) lines[0].push_back({1000 + i, i % 5 == 0 ? 1.0 : 0.0, std::nullopt});
  CorrectedRate rate = corrected_rates(lines, labels, false, {}).at(0);
  CHECK(rate.ppi.value == doctest::Approx(0.2));
  CHECK(rate.ppi.share().hi - 0.2 == doctest::Approx(1.96 * std::sqrt(0.16 / 999 + 1.0 / 400)).epsilon(1e-4));
  CHECK(rate.rogan_gladen.value == doctest::Approx(0.2));

  for (LabelledScore& one : labels) one.label = true;
  found = confusion(labels, 0.5, 1, 100);
  CHECK(std::isnan(found.specificity.value));
  CHECK(found.kappa.value == doctest::Approx(0));
  rate = corrected_rates(lines, labels, false, {}).at(0);
  CHECK(std::isnan(rate.rogan_gladen.value));
  CHECK(rate.ppi.value == doctest::Approx(0.7));  // of the labels the rule says half

  for (LabelledScore& one : labels) one.cluster = 3;
  CHECK(std::isnan(confusion(labels, 0.5, 1, 100).sensitivity.lo));
  CHECK(std::isnan(corrected_rates(lines, labels, false, {}).at(0).ppi.value));
  CHECK(std::isnan(corrected_rates(lines, {}, false, {}).at(0).ppi.value));
  CHECK(std::isnan(confusion({}, 0.5, 1, 100).f1.value));
  // A rule that is right no more often than wrong cannot be corrected by sensitivity and specificity.
  for (size_t i = 0; i < labels.size(); ++i) labels[i] = {i % 2 == 1, i % 2 == 0 ? 1.0 : 0.0, static_cast<int64_t>(i)};
  CHECK(std::isnan(corrected_rates(lines, labels, false, {}).at(0).rogan_gladen.value));
}

TEST_CASE("calibration: differences keep what both sides share") {
  World world;
  std::vector<LabelledScore> pooled;
  for (int64_t i = 0; i < 50; ++i) pooled.push_back(world.labelled(i));
  std::vector<std::vector<ScoredLine>> lines(2);
  for (int64_t i = 0; i < 200; ++i)
    for (auto& one : lines) one.push_back(world.unlabelled(1000 + i));
  const auto rates = corrected_rates(lines, pooled, false, {});
  const CorrectedRate difference = rate_difference(rates[1], rates[0]);
  // The same labels on both sides: what they correct falls away, with its uncertainty.
  CHECK(difference.ppi.value == doctest::Approx(rates[1].rule.value - rates[0].rule.value));
  CHECK(difference.ppi.share().hi == doctest::Approx((rates[1].rule - rates[0].rule).share().hi));
  // By hand: paired by cluster.
  double mean = 0, square = 0;
  for (size_t i = 0; i < 200; ++i) mean += (lines[1][i].score - lines[0][i].score) / 200;
  for (size_t i = 0; i < 200; ++i) square += std::pow(lines[1][i].score - lines[0][i].score - mean, 2);
  CHECK(difference.rule.share().hi - mean == doctest::Approx(1.959964 * std::sqrt(square / 199 / 200)));
  const Confusion table = confusion(pooled, 0.5, 0, 1);
  CHECK(difference.rogan_gladen.value ==
        doctest::Approx(mean / (table.sensitivity.value + table.specificity.value - 1)));
  // A difference from itself is 0 and certain.
  CHECK(rate_difference(rates[0], rates[0]).tuned.share().hi == doctest::Approx(0));

  // Own labels: an intervention is corrected by those of its lines alone, and these lines are not counted again.
  for (size_t i = 0; i < 60; ++i) lines[0][i].label = i < 30;
  const auto own = corrected_rates(lines, pooled, true, {});
  CHECK(own[0].n_labels == 60);
  CHECK(own[1].n_labels == 0);
  CHECK(std::isnan(own[1].ppi.value));
  double rest = 0, rectifier = 0;
  for (size_t i = 0; i < 200; ++i)
    (i < 60 ? rectifier : rest) += i < 60 ? ((i < 30) - lines[0][i].score) / 60 : lines[0][i].score / 140;
  CHECK(own[0].ppi.value == doctest::Approx(rest + rectifier));
  CHECK(own[0].rogan_gladen.value == rates[0].rogan_gladen.value);
  // All lines labelled: the mean of the labels, whatever the rule says.
  for (size_t i = 0; i < 200; ++i) lines[0][i].label = i < 50;
  const CorrectedRate whole = corrected_rates(lines, pooled, true, {0.5, 0}).at(0);
  CHECK(std::isnan(whole.ppi.value));
  CHECK(whole.lambda == 0);
  CHECK(whole.tuned.value == doctest::Approx(0.25));
  CHECK(whole.tuned.share().hi - 0.25 == doctest::Approx(1.959964 * std::sqrt(0.1875 / 199)));
}

TEST_CASE("calibration: intervals of corrected rates cover") {
  const int rounds = std::getenv("SIGNALBOX_LONG_TESTS") ? 4000 : 100;
  struct Design {
    double misses, invents;
    int64_t n, lines;
  };
  for (const Design& design : {Design{0.1, 0.05, 100, 400}, {0.05, 0, 60, 2000}, {0.3, 0.1, 60, 400}}) {
    World world;
    world.misses = design.misses;
    world.invents = design.invents;
    double rule = 0, published = 0, ppi = 0, tuned = 0, gladen = 0;
    for (int round = 0; round < rounds; ++round) {
      std::vector<LabelledScore> labels;
      for (int64_t i = 0; i < design.n; ++i) labels.push_back(world.labelled(i));
      std::vector<std::vector<ScoredLine>> lines(1);
      for (int64_t i = 0; i < design.lines; ++i) lines[0].push_back(world.unlabelled(design.n + i));
      const auto covers = [&](const LinearEstimate& one) {
        const Share share = one.share();
        return share.lo <= world.rate && world.rate <= share.hi ? 1.0 / rounds : 0;
      };
      const CorrectedRate rate = corrected_rates(lines, labels, false, {}).at(0);
      rule += covers(rate.rule);
      ppi += covers(rate.ppi);
      tuned += covers(rate.tuned);
      gladen += covers(rate.rogan_gladen);
      published += covers(corrected_rates(lines, labels, false, {0.5, 0}).at(0).ppi);
    }
    MESSAGE("misses ", design.misses, ", invents ", design.invents, ": rule ", rule, ", PPI as published ", published,
            ", PPI ", ppi, ", tuned ", tuned, ", Rogan-Gladen ", gladen);
    // The long run says .95 or more of all; 100 rounds differ from it by .06 at most once in a hundred times.
    for (const double share : {ppi, tuned, gladen}) CHECK(share >= (rounds > 1000 ? 0.935 : 0.88));
  }
}
