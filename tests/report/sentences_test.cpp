// The five sentences of a run are true, also when nothing was found.
#include "eval/report/sentences.h"

#include <doctest/doctest.h>

#include "base/error.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;

namespace {

// A run of "off" beside a baseline, over the records of "a" (where the effect is expected) and of "b".
RunFindings run_of(const Contrast& contrast) {
  RunFindings findings;
  findings.baseline = "baseline";
  findings.metrics = {"em"};
  findings.interventions.resize(2);
  findings.interventions[0].name = "baseline";
  findings.interventions[1].name = "off";
  RecordFindings here;
  here.means = {{{0.9, 0.8, 1, 50}}, {{0.5, 0.4, 0.6, 50}}};
  here.contrasts = {{{}}, {contrast}};
  RecordFindings there = here;
  there.contrasts[1][0] = {};
  there.contrasts[1][0].difference = {0.01, -0.02, 0.04, 50};
  findings.all = here;
  findings.conditions = {{"a", here}, {"b", there}};
  return findings;
}

Contrast contrast_of(double value, double lo, double hi, double q) {
  Contrast contrast;
  contrast.difference = {value, lo, hi, 50};
  contrast.p = q / 2;
  contrast.q = q;
  contrast.random.differences = {-0.05, -0.1, 0, 20};
  contrast.random.rank = 1;
  return contrast;
}

EffectStory story() {
  return {"does it matter?", "off", "with them off", "em", "a", "right answers", "b", "other right answers"};
}

std::vector<std::string> told(const Contrast& contrast) {
  return effect_sentences(run_of(contrast), story(), "out/report.html");
}

bool says(const std::string& text, const std::string& part) {
  INFO(text);
  INFO(part);
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("sentences: an effect that random experts do not have") {
  const auto lines = told(contrast_of(-0.4, -0.5, -0.3, 0.001));
  REQUIRE(lines.size() == 5);
  CHECK(lines[0] == "Asked: does it matter?");
  CHECK(lines[1] ==
        "Found: with them off, right answers went from 90.0 % to 50.0 %, a difference of -40.0 points (95 % interval "
        "-50.0 to -30.0, p 0.0005, 50 records).");
  CHECK(says(lines[2], "20 sets of as many random experts change it by -5.0 points on average"));
  CHECK(says(lines[2], "none of the 20 sets by as much as these; other right answers changed by +1.0 points"));
  CHECK(says(lines[3], "more than chance (q 0.0010 after all comparisons) and more than any random set does"));
  CHECK(says(lines[3], "for no other"));
  CHECK(says(lines[4], "out/report.html"));
}

TEST_CASE("sentences: an effect that other experts have too is not theirs") {
  Contrast contrast = contrast_of(-0.4, -0.5, -0.3, 0.001);
  contrast.random.rank = 4;
  const auto lines = told(contrast);
  CHECK(says(lines[2], "3 of the 20 sets by as much"));
  CHECK(says(lines[3], "3 of the 20 sets of random experts do as much, so it is not shown to be the work of these"));
}

TEST_CASE("sentences: nothing found is said so, and is not called no effect") {
  for (const Contrast& contrast : {contrast_of(-0.02, -0.06, 0.03, 0.4), contrast_of(-0.1, -0.2, -0.01, 0.07)}) {
    const auto lines = told(contrast);
    CHECK(says(lines[3], "no effect is shown"));
    CHECK(says(lines[3], "none is ruled out"));
  }
  CHECK(says(told(contrast_of(-0.02, -0.06, 0.03, 0.4))[3], "from -6.0 to +3.0 points"));
}

TEST_CASE("sentences: few controls prove little, and what is not primary has no q") {
  Contrast contrast = contrast_of(-0.4, -0.5, -0.3, 0.001);
  contrast.random.differences.n = 7;
  CHECK(says(told(contrast)[3], "there are only 7 such sets"));
  contrast.q = no_number;
  CHECK(says(told(contrast)[3], "(p 0.0005, not one of the run's primary comparisons)"));
}

TEST_CASE("sentences: without controls, and without values") {
  Contrast alone = contrast_of(-0.4, -0.5, -0.3, 0.001);
  alone.random = {};
  CHECK(says(told(alone)[2], "no random sets of experts were run"));
  CHECK(says(told(alone)[3], "without controls nothing says"));
  const auto lines = told({});
  CHECK(says(lines[1], "nothing that can be compared"));
  CHECK(says(lines[3], "nothing to be sure of"));
  EffectStory all = story();
  all.condition = all.elsewhere = "";
  CHECK(!says(effect_sentences(run_of(alone), all, "r")[2], "other right answers"));
  all.metric = "f1";
  CHECK_THROWS_AS(effect_sentences(run_of(alone), all, "r"), Error);
}
