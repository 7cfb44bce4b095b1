// Format sensitivity: every number from traces and scored runs with public edits; and what is refused.
#include <doctest/doctest.h>

#include "base/csv.h"
#include "eval/causal/format_sensitivity.h"
#include "tests/causal/answer_study.h"

using namespace signalbox;
using namespace signalbox::eval;
using test::AnswerStudy;

namespace {

std::vector<Record> questions() {
  std::vector<Record> out;
  for (const auto& [question, answer] :
       {std::pair("What is 3 + 4?", "7."), {"What is 9 + 2?", "11."}, {"What is 6 + 2?", "8."}})
    out.push_back(parse_record(json::Value::object()
                                   .set("id", question)
                                   .set("prompt", "User: Question: " + std::string(question) + "\n\nAssistant: ")
                                   .set("target", answer),
                               question));
  return out;
}

// Of three questions in the formats base, trailing_blank, trailing_newline, leading_blank, inner_blank.
constexpr size_t n_formats = 5;

}  // namespace

TEST_CASE("causal format: behaviour, states and patches are those of traces and edited runs") {
  const AnswerStudy setup(formatted_records(questions()));
  REQUIRE(setup.records.size() == 3 * n_formats);
  FormatRequest request;
  request.resamples.n = 99;
  request.step_tokens = 30;
  const FormatStudy study = study_format(setup.session, setup.records, setup.made, request);
  CHECK(study.questions == 3);
  REQUIRE(study.behaviour.size() == n_formats - 1);
  const auto d = static_cast<size_t>(setup.session.model.d_model);
  std::vector<double> logprob;
  for (size_t i = 0; i < setup.records.size(); ++i) logprob.push_back(setup.logprob(i));
  const auto delta = [&](size_t q, size_t v) { return logprob[q * n_formats + v] - logprob[q * n_formats]; };
  for (size_t v = 1; v < n_formats; ++v) {
    const FormatBehaviour& row = study.behaviour[v - 1];
    CHECK(row.variant == setup.records[v].condition);
    CHECK(row.n == 3);
    CHECK(row.same_tokens == 0);
    double own = 0, others = 0;
    for (size_t q = 0; q < 3; ++q) {
      own += delta(q, v) / 3;
      for (size_t o = 1; o < n_formats; ++o) others += o == v ? 0 : delta(q, o) / 3 / 3;
    }
    CHECK(row.delta.mean == doctest::Approx(own));
    CHECK(row.over_others.mean == doctest::Approx(own - others));
    CHECK(row.base_right == 1);  // single-digit sums are what the model knows
  }

  // Tokens behind the change, from the end: by hand from the tokens.
  const auto common_end = [&](size_t a, size_t b) {
    const std::vector<int32_t>&x = setup.made.encoded[a].prompt->tokens, &y = setup.made.encoded[b].prompt->tokens;
    size_t begin = 0, end = 0;
    while (begin < std::min(x.size(), y.size()) && x[begin] == y[begin]) ++begin;
    while (begin + end < std::min(x.size(), y.size()) && x[x.size() - 1 - end] == y[y.size() - 1 - end]) ++end;
    return static_cast<int64_t>(end);
  };
  for (const FormatStates& row : study.states) {
    if (row.layer != 2) continue;
    CAPTURE(row.variant);
    CAPTURE(row.place);
    const size_t v =
        static_cast<size_t>(std::find_if(study.behaviour.begin(), study.behaviour.end(),
                                         [&](const FormatBehaviour& of) { return of.variant == row.variant; }) -
                            study.behaviour.begin()) +
        1;
    std::vector<double> centre(d);
    int64_t n = 0;
    for (size_t q = 0; q < 3; ++q) {
      const int64_t answer = setup.answer(q * n_formats), end = setup.made.jobs[q * n_formats].n_given();
      for (int64_t t = row.place == "answer" ? answer : 0; t < (row.place == "answer" ? answer + 1 : end); ++t, ++n) {
        const std::vector<float> x = setup.stream(q * n_formats, 2, t);
        for (size_t c = 0; c < d; ++c) centre[c] += static_cast<double>(x[c]);
      }
    }
    for (double& x : centre) x /= static_cast<double>(n);
    double cosine = 0, rel = 0, jaccard = 0, identified = 0;
    for (size_t q = 0; q < 3; ++q) {
      const size_t a = q * n_formats, b = a + v;
      std::vector<std::pair<int64_t, int64_t>> places;
      if (row.place == "answer") {
        places = {{setup.answer(a), setup.answer(b)}};
      } else {
        for (int64_t i = common_end(a, b); i > 0; --i) {
          const int64_t t = setup.made.jobs[a].n_given() - i;
          if (t != setup.answer(a)) places.emplace_back(t, setup.made.jobs[b].n_given() - i);
        }
      }
      REQUIRE(!places.empty());
      const double share = 1 / static_cast<double>(places.size()) / 3;
      for (const auto& [s, t] : places) {
        const std::vector<float> x = setup.stream(a, 2, s), y = setup.stream(b, 2, t);
        cosine += share * test::cosine(x, y, centre);
        double change = 0, size = 0;
        for (size_t c = 0; c < d; ++c) {
          change += std::pow(static_cast<double>(x[c]) - static_cast<double>(y[c]), 2);
          size += std::pow(static_cast<double>(x[c]), 2);
        }
        rel += share * std::sqrt(change / size);
        jaccard += share * test::jaccard(setup.route(a, 2, s), setup.route(b, 2, t));
      }
      if (row.place == "answer") {
        const std::vector<float> own = setup.stream(b, 2, setup.answer(b));
        for (size_t o = 0; o < 3; ++o)
          if (o != q)
            identified += (test::cosine(own, setup.stream(o * n_formats, 2, setup.answer(o * n_formats)), centre) <
                           test::cosine(own, setup.stream(a, 2, setup.answer(a)), centre)) /
                          6.0;
      }
    }
    CHECK(row.cosine == doctest::Approx(cosine));
    CHECK(row.rel_change == doctest::Approx(rel));
    CHECK(row.jaccard == doctest::Approx(jaccard));
    if (row.place == "answer")
      CHECK(row.identified == doctest::Approx(identified));
    else
      CHECK(std::isnan(row.identified));
  }

  for (const FormatPatch& row : study.patches) {
    if (row.layer != 1 && row.layer != setup.n_layers() - 1) continue;
    CAPTURE(row.variant);
    CAPTURE(row.layer);
    CAPTURE(row.place);
    CAPTURE(row.direction);
    const size_t v =
        static_cast<size_t>(std::find_if(study.behaviour.begin(), study.behaviour.end(),
                                         [&](const FormatBehaviour& of) { return of.variant == row.variant; }) -
                            study.behaviour.begin()) +
        1;
    double effect = 0, gap = 0;
    for (size_t q = 0; q < 3; ++q) {
      const size_t base = q * n_formats, variant = base + v;
      const auto [to, from] = row.direction == "denoising" ? std::pair(variant, base) : std::pair(base, variant);
      std::vector<std::pair<int64_t, std::vector<float>>> rows = {
          {setup.answer(to), setup.stream(from, row.layer, setup.answer(from))}};
      if (row.place == "aligned")
        for (int64_t i = common_end(base, variant); i > 0; --i) {
          const int64_t t = setup.made.jobs[to].n_given() - i;
          if (t != setup.answer(to))
            rows.emplace_back(t, setup.stream(from, row.layer, setup.made.jobs[from].n_given() - i));
        }
      effect += (setup.logprob(to, row.layer, rows) - logprob[to]) / 3;
      gap += (logprob[from] - logprob[to]) / 3;
    }
    CHECK(row.effect.mean == doctest::Approx(effect).epsilon(1e-9));
    if (!std::isnan(row.share.mean)) CHECK(row.share.mean == doctest::Approx(effect / gap));
    // Behind the last layer nothing is left but the head.
    if (row.place == "aligned" && row.layer == setup.n_layers() - 1) CHECK(effect == doctest::Approx(gap));
  }
  const test::TemporaryDirectory dir;
  write_format(dir / "out", study, request, setup.session, "");
  CHECK(CsvTable::read(dir / "out/behaviour.csv").n_rows() == 4);
  CHECK(CsvTable::read(dir / "out/patches.csv").n_rows() == static_cast<size_t>(4 * 4 * setup.n_layers()));
}

TEST_CASE("causal format: the formats of a prompt, and what is refused") {
  const std::vector<Record> made = formatted_records(questions());
  CHECK(made[1].prompt == made[0].prompt + " ");
  CHECK(made[1].id == made[0].id + "/trailing_blank");
  CHECK(made[2].prompt == made[0].prompt + "\n");
  CHECK(made[3].prompt == " " + made[0].prompt);
  CHECK(made[4].prompt.substr(0, 7) == "User:  ");
  CHECK(format_questions().size() == 56);
  CHECK(formatted_records(format_questions()).size() == 5 * 56);
  std::vector<Record> some = {made.begin(), made.begin() + 5};
  CHECK(formatted_records(some).size() == 5);
  some[2].condition.clear();
  CHECK_THROWS_WITH_AS(formatted_records(some),
                       "What is 3 + 4?: expected a key \"condition\" that names the format, as others have, found none",
                       Error);
  some[2].condition = "trailing_blank";
  CHECK_THROWS_WITH_AS(formatted_records(some),
                       "What is 3 + 4?: expected one record of pair \"What is 3 + 4?\" in the format trailing_blank, "
                       "found a second one",
                       Error);
  some[2].condition = "other";
  some[2].target = "8.";
  CHECK_THROWS_WITH_AS(formatted_records(some),
                       "What is 3 + 4?: expected the target of the base of pair \"What is 3 + 4?\", \"7.\", found "
                       "\"8.\"",
                       Error);
  some = {made.begin() + 1, made.begin() + 3};
  CHECK_THROWS_WITH_AS(formatted_records(some),
                       "What is 3 + 4?: expected a record of condition base, and others, of pair \"What is 3 + 4?\", "
                       "found no base",
                       Error);
  some = {made[0]};
  CHECK_THROWS_WITH_AS(formatted_records(some), doctest::Contains("found the base alone"), Error);
}
