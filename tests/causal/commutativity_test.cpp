// Commutativity: every number from traces and scored runs with public edits; and what is refused.
#include "eval/causal/commutativity.h"

#include <doctest/doctest.h>

#include "base/csv.h"
#include "tests/causal/answer_study.h"

using namespace signalbox;
using namespace signalbox::eval;
using test::AnswerStudy;

namespace {

Record sum_record(int a, int b, const std::string& pair, const std::string& sign = "+") {
  const int answer = sign == "+" ? a + b : a - b;
  const std::string question = std::to_string(a) + " " + sign + " " + std::to_string(b);
  return parse_record(json::Value::object()
                          .set("id", question)
                          .set("prompt", "User: Question: What is " + question + "?\n\nAssistant: ")
                          .set("target", std::to_string(answer) + ".")
                          .set("pair", pair),
                      question);
}

// 2 + 6 and 3 + 5 have one answer; 2 + 6 and 2 + 5 differ in one token; the order of 7 - 3 matters.
std::vector<Record> sums() {
  std::vector<Record> out;
  for (const auto& [a, b] : {std::pair(2, 6), {3, 5}, {2, 5}, {4, 9}}) {
    const std::string pair = std::to_string(a) + "+" + std::to_string(b);
    out.push_back(sum_record(a, b, pair));
    out.push_back(sum_record(b, a, pair));
  }
  out.push_back(sum_record(7, 3, "7-3", "-"));
  out.push_back(sum_record(3, 7, "7-3", "-"));
  return out;
}

}  // namespace

TEST_CASE("causal commutativity: likeness and exchanged streams are those of traces and edited runs") {
  const AnswerStudy setup(sums());
  CommutativityRequest request;
  request.resamples.n = 99;
  request.step_tokens = 7;  // several steps a record
  const Commutativity study = study_commutativity(setup.session, setup.records, setup.made, request);
  CHECK(study.commuted == 4);
  CHECK(study.other_order == 1);
  // Records of one pair stand together: 2i and 2i + 1.
  const auto alike = [&](const std::string& measure, int64_t l, size_t a, size_t b) {
    if (measure == "jaccard")
      return test::jaccard(setup.route(a, l, setup.answer(a)), setup.route(b, l, setup.answer(b)));
    std::vector<double> centre(static_cast<size_t>(setup.session.model.d_model));
    for (size_t i = 0; i < setup.records.size(); ++i) {
      const std::vector<float> row = setup.stream(i, l, setup.answer(i));
      for (size_t c = 0; c < row.size(); ++c) centre[c] += static_cast<double>(row[c]) / 10;
    }
    return test::cosine(setup.stream(a, l, setup.answer(a)), setup.stream(b, l, setup.answer(b)), centre);
  };
  // Controls of each pair by hand: (own record, another).
  using Pairs = std::vector<std::pair<size_t, size_t>>;
  const std::map<std::string, std::vector<Pairs>> controls = {
      {"same_answer", {{{0, 2}, {0, 3}, {1, 2}, {1, 3}}, {{2, 0}, {2, 1}, {3, 0}, {3, 1}}, {}, {}}},
      // 2+6: 2+5; 6+2: 5+2. 3+5: 2+5; 5+3: 5+2. 2+5: 2+6, 3+5; 5+2: 6+2, 5+3.
      {"one_token", {{{0, 4}, {1, 5}}, {{2, 4}, {3, 5}}, {{4, 0}, {4, 2}, {5, 1}, {5, 3}}, {}}},
      {"other_order", {{{8, 9}}, {{8, 9}}, {{8, 9}}, {{8, 9}}}}};
  size_t rows = 0;
  for (const SimilarityRow& row : study.similarity) {
    if (row.layer != 1 && row.layer != 4) continue;
    CAPTURE(row.layer);
    CAPTURE(row.measure);
    CAPTURE(row.control);
    double commuted = 0, of_controls = 0, auc = 0;
    int64_t n = 0, n_controls = 0;
    for (size_t i = 0; i < 4; ++i) {
      const Pairs& of = controls.at(row.control)[i];
      if (of.empty()) continue;
      const double own = alike(row.measure, row.layer, 2 * i, 2 * i + 1);
      double below = 0, sum = 0;
      for (const auto& [a, b] : of) {
        const double other = alike(row.measure, row.layer, a, b);
        // Jaccard indices may be equal; cosines of different vectors are not.
        below += std::fabs(other - own) < 1e-9 ? 0.5 : other < own;
        sum += other;
      }
      commuted += own;
      of_controls += sum / static_cast<double>(of.size());
      auc += below / static_cast<double>(of.size());
      n_controls += row.control == "other_order" ? 0 : static_cast<int64_t>(of.size());
      ++n;
    }
    if (row.control == "other_order") n_controls = 1;
    CHECK(row.pairs == n);
    CHECK(row.controls == n_controls);
    CHECK(row.commuted == doctest::Approx(commuted / static_cast<double>(n)));
    CHECK(row.of_controls == doctest::Approx(of_controls / static_cast<double>(n)));
    CHECK(row.auc.mean + 0.5 == doctest::Approx(auc / static_cast<double>(n)));
    ++rows;
  }
  CHECK(rows == 2 * 2 * 3);

  for (const int64_t l : {int64_t{0}, int64_t{3}, setup.n_layers() - 1}) {
    for (const CommutedPair& pair : study.pairs) {
      if (pair.layer != l) continue;
      size_t first = 0;
      while (setup.records[first].pair != pair.pair) ++first;
      for (const bool second : {false, true}) {
        const size_t own = first + second, other = first + !second;
        const double base = setup.logprob(own),
                     swapped =
                         setup.logprob(own, l, {{setup.answer(own), setup.stream(other, l, setup.answer(other))}});
        CHECK((second ? pair.logprob_second : pair.logprob_first) == base);
        CHECK((second ? pair.effect_second : pair.effect_first) == swapped - base);
      }
    }
    for (const SwapRow& row : study.swaps) {
      if (row.layer != l || row.donor != "commuted") continue;
      double sum = 0;
      for (const CommutedPair& pair : study.pairs)
        if (pair.layer == l) sum += pair.effect_first + pair.effect_second;
      CHECK(row.effect.mean == doctest::Approx(sum / 8));
      CHECK(row.pairs == 4);
    }
  }
  const test::TemporaryDirectory dir;
  write_commutativity(dir / "out", study, request, setup.session, "");
  const CsvTable swaps = CsvTable::read(dir / "out/swaps.csv");
  // Four donors a layer; the difference to a control has no value for commuted and other_order.
  CHECK(swaps.n_rows() == static_cast<size_t>(4 * setup.n_layers()));
  CHECK(swaps.text(0, swaps.column("over_control")).empty());
  CHECK(!swaps.text(1, swaps.column("over_control")).empty());
}

TEST_CASE("causal commutativity: the own questions, and what is refused") {
  const std::vector<Record> own = product_records();
  CHECK(own.size() == 112);
  CHECK_NOTHROW(require_commuted_pairs(own));
  CHECK(own[0].prompt == "2*3=");
  CHECK(*own[1].target == "6");
  CHECK(*own[56].target == "-1");
  CHECK(*own[57].target == "1");
  std::vector<Record> three = sums();
  three.push_back(sum_record(6, 2, "2+6"));
  CHECK_THROWS_WITH_AS(require_commuted_pairs(three),
                       "6 + 2: expected two records, the two orders, of pair \"2+6\", found a third one", Error);
  std::vector<Record> one = sums();
  one.pop_back();
  CHECK_THROWS_WITH_AS(require_commuted_pairs(one),
                       "7 - 3: expected two records, the two orders, of pair \"7-3\", found one", Error);
  one = sums();
  one[0].target.reset();
  CHECK_THROWS_WITH_AS(require_commuted_pairs(one), "2 + 6: expected a key \"target\" with the answer, found none",
                       Error);
  one[0].pair.clear();
  CHECK_THROWS_WITH_AS(require_commuted_pairs(one),
                       "2 + 6: expected a key \"pair\" that names the question, found none", Error);
  const std::vector<Record> order = {own.end() - 4, own.end()};
  CHECK_THROWS_WITH_AS(require_commuted_pairs(order),
                       "--input: expected at least two pairs whose records have the same target, found 0", Error);
}
