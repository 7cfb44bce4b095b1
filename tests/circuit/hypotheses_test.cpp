// Tests and scores of circuits against scipy (make_numbers.py), brute force, and their own level.
#include "eval/circuit/hypotheses.h"

#include <doctest/doctest.h>

#include <cmath>

#include "eval/circuit/circuit_scores.h"
#include "eval/circuit/random_circuits.h"
#include "eval/data/dice.h"

using namespace signalbox::eval;
using Kind = NodeId::Kind;

namespace {

double uniform(Dice& dice) { return static_cast<double>(dice.below(1'000'001)) / 1e6; }

// A model whose metric is a sum over its parts, of other parts' products where `products` says so.
class SumScorer : public CircuitScorer {
 public:
  SumScorer(std::vector<NodeId> nodes, std::vector<double> weights, std::vector<double> usage, size_t n_pairs)
      : nodes_(std::move(nodes)), weights_(std::move(weights)), usage_(std::move(usage)), n_pairs_(n_pairs) {
    active_ = all();
    whole_ = run(all());
    none_ = run(nothing());
  }
  const std::vector<NodeId>& nodes() const override { return nodes_; }
  size_t n_pairs() const override { return n_pairs_; }
  const std::vector<double>& usage() const override { return usage_; }
  const NodeMask& active() const override { return active_; }
  const std::vector<double>& whole() const override { return whole_; }
  const std::vector<double>& none() const override { return none_; }
  // Parts 0 and 1 can stand in for one another.
  bool either = false;

 protected:
  std::vector<double> run(const NodeMask& kept) override {
    double sum = 0;
    for (size_t i = 0; i < kept.size(); ++i)
      if (kept[i] && !(either && i == 1 && kept[0])) sum += weights_[i];
    std::vector<double> out;
    for (size_t r = 0; r < n_pairs_; ++r) out.push_back(sum * (1 + 0.01 * static_cast<double>(r)));
    return out;
  }

 private:
  std::vector<NodeId> nodes_;
  std::vector<double> weights_, usage_, whole_, none_;
  size_t n_pairs_;
  NodeMask active_;
};

std::vector<NodeId> experts(int32_t layers, int32_t per_layer) {
  std::vector<NodeId> out;
  for (int32_t l = 0; l < layers; ++l)
    for (int32_t e = 0; e < per_layer; ++e) out.push_back({Kind::expert, l, e, -1});
  return out;
}

}  // namespace

TEST_CASE("circuit: equivalence by the share of wins, ties counted apart") {
  std::vector<double> circuit(15, 0.0), model(15, 0.0);
  for (size_t i = 0; i < 13; ++i) circuit[i] = i < 9 ? 1 : -1;
  const EquivalenceTest test = test_equivalence(circuit, model);
  CHECK(test.wins == 9);
  CHECK(test.losses == 4);
  CHECK(test.ties == 2);
  CHECK(test.share == doctest::Approx(9.0 / 13));
  CHECK(test.p == doctest::Approx(0.38512617472));
  CHECK(test_equivalence(model, circuit).p == doctest::Approx(0.38512617472));  // two-sided
  CHECK(test_equivalence(model, model).p == 1);
  CHECK(std::isnan(test_equivalence(model, model).share));
}

TEST_CASE("circuit: independence by HSIC and permutations") {
  const std::vector<double> x = {0.1, 0.9, 0.4, 0.8, 0.3, 0.7, 0.2, 0.6}, y = {0.2, 1.1, 0.3, 0.9, 0.5, 0.6, 0.1, 0.7};
  const IndependenceTest test = test_independence(x, y, 1, 999);
  CHECK(test.hsic == doctest::Approx(0.07306446502));
  CHECK(test.p <= 0.01);
  CHECK(test.p >= 1.0 / 1000);  // never 0
  CHECK(test_independence(x, std::vector<double>(8, 2.0), 1).p == 1);
  // Of independent scores few reject.
  Dice dice(3, "hsic");
  int rejected = 0;
  for (int i = 0; i < 200; ++i) {
    std::vector<double> a, b;
    for (int r = 0; r < 12; ++r) {
      a.push_back(uniform(dice));
      b.push_back(uniform(dice));
    }
    rejected += test_independence(a, b, static_cast<uint64_t>(i), 99).p <= 0.05;
  }
  CHECK(rejected <= 20);
}

TEST_CASE("circuit: minimality and comparisons with random circuits are binomial; Holm corrects") {
  std::vector<double> reference(100);
  for (size_t i = 0; i < 100; ++i) reference[i] = static_cast<double>(i);
  const MinimalityTest test = test_minimality(std::vector<double>{82, 95}, reference);
  CHECK(test.exceeded == std::vector<int64_t>{82, 95});
  CHECK(test.p[0] == doctest::Approx(0.010007279262));
  CHECK(test.p[1] == doctest::Approx(0.976288917337));
  CHECK(test.holm[0] == doctest::Approx(2 * 0.010007279262));
  CHECK(test.holm[1] == doctest::Approx(0.976288917337));
  CHECK(test_against_random(4.5, reference).p == doctest::Approx(0.057576886487));
  CHECK(test_against_random(4, reference).worse == 95);  // the tie is not worse
  CHECK(test_against_random(3.5, reference).p == doctest::Approx(0.023711082663));
  CHECK(test_against_random(-1, reference).p == doctest::Approx(2.6561398887e-05));
  CHECK(holm(std::vector<double>{0.01, 0.04, 0.03}) == std::vector<double>{0.03, 0.06, 0.06});
}

TEST_CASE("circuit: random circuits as candidates: sufficiency rejects at no more than its level") {
  Dice dice(7, "weights");
  std::vector<double> weights;
  for (int i = 0; i < 48; ++i) weights.push_back(uniform(dice) - 0.3);
  SumScorer scorer(experts(3, 16), weights, std::vector<double>(48, 0.25), 4);
  NodeMask shape = scorer.nothing();
  for (const size_t i : {0, 1, 17, 18, 19, 40}) shape[i] = 1;
  const double whole = scorer.whole()[0];
  const auto distance = [&](const NodeMask& mask) { return std::fabs(scorer.scores(mask)[0] - whole); };
  int rejected = 0;
  for (int64_t draw = 0; draw < 500; ++draw) {
    const NodeMask candidate = draw_random_circuits(scorer, shape, 11, 1, draw).circuits.front();
    std::vector<double> others;
    for (const NodeMask& mask : draw_random_circuits(scorer, candidate, 12, 100, 100 * draw).circuits)
      others.push_back(distance(mask));
    rejected += test_against_random(distance(candidate), others).p <= 0.05;
  }
  // Where a candidate is one of 101 alike, 96 or more worse ones have probability 5/101; 500 draws, three deviations.
  CHECK(rejected <= 25 + 15);
  CHECK(rejected > 5);  // and the test is not void
}

TEST_CASE("circuit: random circuits match experts per layer and usage") {
  std::vector<NodeId> nodes = experts(2, 8);
  std::vector<double> usage;
  for (int i = 0; i < 16; ++i) usage.push_back(i % 8 == 7 ? 0 : 0.05 + 0.1 * (i % 8));
  nodes.push_back({Kind::head, 2, 0, -1});
  nodes.push_back({Kind::head, 2, 1, -1});
  usage.insert(usage.end(), {1, 1});
  SumScorer scorer(nodes, std::vector<double>(18, 1.0), usage, 2);
  NodeMask circuit = scorer.nothing();
  for (const size_t i : {1, 4, 10, 16}) circuit[i] = 1;
  const RandomCircuits drawn = draw_random_circuits(scorer, circuit, 5, 60);
  CHECK(drawn.usage == doctest::Approx(0.15 + 0.45 + 0.25));
  CHECK(drawn.mean_usage == doctest::Approx(drawn.usage).epsilon(0.1));
  CHECK(drawn.unmatched == 0);
  for (const NodeMask& mask : drawn.circuits) {
    CHECK(mask != circuit);
    CHECK(std::count(mask.begin(), mask.begin() + 8, 1) == 2);
    CHECK(std::count(mask.begin() + 8, mask.begin() + 16, 1) == 1);
    CHECK(mask[16] + mask[17] == 1);
    CHECK(mask[7] + mask[15] == 0);  // they never run
  }
  CHECK(draw_random_circuits(scorer, circuit, 5, 1, 7).circuits[0] == drawn.circuits[7]);
}

TEST_CASE("circuit: faithfulness, completeness, minimality, curve") {
  SumScorer scorer(experts(1, 4), {3, 3, 1, 0}, std::vector<double>(4, 0.5), 5);
  CHECK(faithfulness(scorer.scores({1, 0, 1, 0}), scorer.whole(), scorer.none()) == doctest::Approx(4.0 / 7));
  CHECK(denominator_known(scorer.whole(), scorer.none()));
  CHECK(!denominator_known(std::vector<double>{1, -1, 0.5}, std::vector<double>{0, 0, 0}));
  const Faithfulness of =
      faithfulness_with_interval(scorer.scores({1, 0, 1, 0}), scorer.whole(), scorer.none(), 1, 200);
  CHECK(of.ci.lo == doctest::Approx(4.0 / 7));  // every pair has the same ratio
  CHECK(of.ci.hi == doctest::Approx(4.0 / 7));
  // F(C without K) - F(M without K) = 3/7 whatever K is: what the circuit lacks.
  CHECK(completeness(scorer, {1, 0, 1, 0}, 1, 8).gap == doctest::Approx(3.0 / 7));
  const std::vector<double> least = minimality(scorer, {1, 0, 1, 1}, 1, 8);
  CHECK(least[0] == doctest::Approx(3.0 / 7));
  CHECK(least[1] == doctest::Approx(1.0 / 7));
  CHECK(least[2] == doctest::Approx(0));

  // Two parts that stand in for one another: the circuit of one is faithful, and completeness says what is missing.
  SumScorer redundant(experts(1, 4), {3, 3, 1, 0}, std::vector<double>(4, 0.5), 5);
  redundant.either = true;
  const std::vector<double> whole = redundant.scores({1, 1, 1, 1});
  CHECK(whole[0] == 4);
  const size_t order[] = {0, 1, 2, 3};
  const SizeCurve curve = size_curve(scorer, order);
  CHECK(curve.f.back() == 1);
  CHECK(curve.f[8] == doctest::Approx(6.0 / 7));  // half of four parts
  CHECK(curve.f[7] == doctest::Approx(3.0 / 7));  // 0.2 of four parts: one
  CHECK(curve.cmd > 0);
}
