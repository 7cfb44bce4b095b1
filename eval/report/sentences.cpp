#include "eval/report/sentences.h"

#include <cmath>
#include <cstdio>

#include "eval/findings/format.h"
#include "eval/findings/intervals.h"

namespace signalbox::eval {

namespace {

std::string percent(double share) { return format_value(100 * share, 1) + " %"; }
std::string points(double difference) { return format_difference(100 * difference, 1); }

bool excludes_zero(const Estimate& estimate) { return estimate.lo > 0 || estimate.hi < 0; }

std::string interval(const Estimate& difference) {
  return "95 % interval " + points(difference.lo) + " to " + points(difference.hi);
}

// "3 of the 20 sets"
std::string sets(int64_t n, int64_t of) {
  return (n == 0 ? "none" : std::to_string(n)) + " of the " + std::to_string(of) + " sets";
}

std::string found_sentence(const Estimate& before, const Estimate& after, const Contrast& contrast,
                           const EffectStory& story) {
  if (std::isnan(contrast.difference.value))
    return "Found: nothing that can be compared, since no record has " + story.metric + " on both sides.";
  return "Found: " + story.changed + ", " + story.counted + " went from " + percent(before.value) + " to " +
         percent(after.value) + ", a difference of " + points(contrast.difference.value) + " points (" +
         interval(contrast.difference) + ", p " + format_p(contrast.p) + ", " + std::to_string(contrast.difference.n) +
         " records).";
}

std::string controls_sentence(const Contrast& contrast, const Contrast* there, const EffectStory& story) {
  const Estimate& band = contrast.random.differences;
  std::string text = "Controls: ";
  if (band.n == 0 || !contrast.random.rank) {
    text += "no random sets of experts were run";
  } else {
    text += std::to_string(band.n) + " sets of as many random experts change it by " + points(band.value) +
            " points on average (most of them between " + points(band.lo) + " and " + points(band.hi) + "), and " +
            sets(*contrast.random.rank - 1, band.n) + " by as much as these";
  }
  if (there) {
    text += "; " + story.counted_there + " ";
    text += std::isnan(there->difference.value)
                ? "cannot be compared"
                : "changed by " + points(there->difference.value) + " points (" + interval(there->difference) + ")";
  }
  return text + ".";
}

std::string certainty_sentence(const Contrast& contrast) {
  const double q = std::isnan(contrast.q) ? contrast.p : contrast.q;
  if (std::isnan(contrast.difference.value)) return "How sure: there is nothing to be sure of.";
  const std::string with_q = std::isnan(contrast.q)
                                 ? " (p " + format_p(q) + ", not one of the run's primary comparisons)"
                                 : " (q " + format_p(q) + " after all comparisons)";
  if (!(q < test_level) || !excludes_zero(contrast.difference))
    return "How sure: no effect is shown" + with_q + ", and none is ruled out: anything from " +
           points(contrast.difference.lo) + " to " + points(contrast.difference.hi) + " points agrees with the data.";
  const std::string real = "How sure: that is more than chance" + with_q;
  if (contrast.random.differences.n == 0 || !contrast.random.rank)
    return real + ", but without controls nothing says that it is the work of these experts rather than of any.";
  if (*contrast.random.rank > 1)
    return real + ", but " + sets(*contrast.random.rank - 1, contrast.random.differences.n) +
           " of random experts do as much, so it is not shown to be the work of these ones.";
  if (contrast.random.few())
    return real + " and more than any random set does, but there are only " +
           std::to_string(contrast.random.differences.n) +
           " such sets: to be the first of so few can be chance, so it is not shown to be the work of these experts.";
  return real +
         " and more than any random set does, so it is the work of these experts; it is shown for this model, these "
         "records and this seed, and for no other.";
}

}  // namespace

std::vector<std::string> effect_sentences(const RunFindings& findings, const EffectStory& story,
                                          const std::string& report) {
  const size_t i = findings.intervention_index(story.intervention), m = findings.metric_index(story.metric);
  const RecordFindings& here = findings.of_condition(story.condition);
  const Contrast& contrast = here.contrasts[i][m];
  const Contrast* there = story.elsewhere.empty() ? nullptr : &findings.of_condition(story.elsewhere).contrasts[i][m];
  return {"Asked: " + story.asked,
          found_sentence(here.means[findings.baseline_index()][m], here.means[i][m], contrast, story),
          controls_sentence(contrast, there, story), certainty_sentence(contrast),
          "Report: tables, pictures and what each number means are in " + report + "."};
}

}  // namespace signalbox::eval
