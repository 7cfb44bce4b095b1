// The pages of faithfulness studies and of regimes, from tables written by hand.
#include <doctest/doctest.h>

#include <filesystem>

#include "base/error.h"
#include "eval/report/run_report.h"
#include "tests/report/html_check.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::eval;
namespace fs = std::filesystem;

namespace {

bool page_has(const std::string& text, const std::string& part) {
  INFO(part);
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("report: a faithfulness study") {
  test::TemporaryDirectory scratch;
  test::write_file(scratch / "curves.csv",
                   "test,sentences,x,n,same,same_lo,same_hi,correct,correct_lo,correct_hi\r\n"
                   "early,2,0,4,0.25,0,0.5,,,\r\nearly,,0,4,0.25,0,0.5,,,\r\nearly,,1,4,1,1,1,,,\r\n");
  test::write_file(scratch / "aoc.csv",
                   "test,sentences,n,weight,aoc,ci_lo,ci_hi,accuracy,accuracy_lo,accuracy_hi\r\n"
                   "early,2,4,1,0.5,0.4,0.6,,,\r\nearly,,4,1,0.375,0.25,0.5,,,\r\n");
  test::write_file(scratch / "routing.csv",
                   "test,policy,fraction,n,same,same_lo,same_hi,correct,correct_lo,correct_hi,jaccard,jaccard_lo,"
                   "jaccard_hi,beyond_random,beyond_random_lo,beyond_random_hi\r\n"
                   "early,,,8,0.125,0,0.25,,,,0.5,0.4,0.6,,,\r\nmisroute,<random>,0.5,4,1,1,1,,,,0.9,0.8,1,,,\r\n");
  const std::string mean = R"({"mean": null, "ci_lo": null, "ci_hi": null, "n": 0})";
  test::write_file(scratch / "summary.json",
                   R"({"counts": {"explanations": 4, "sentences": 8, "outputs": 5, "outputs_without_marker": 1},
                       "correct_with_explanation": )" +
                       mean + R"(, "correct_without_explanation": )" + mean + R"(, "answer_as_first_written": )" +
                       mean + "}");
  const std::string html = render_report(scratch.path());
  CHECK(test::mistake_in_html(html) == "");
  CHECK_FALSE(test::from_outside(html));
  CHECK(page_has(html, "same answers: 0.375 [0.250, 0.500] over 4 explanations.</p>"));
  CHECK(page_has(html, "is not shown: the interval holds one half."));
  CHECK(page_has(html, "Of the experts of the answer&#39;s tokens 50.0 [40.0, 60.0] % stay the same (Jaccard)."));
  CHECK_FALSE(page_has(html, "The largest area"));  // of one test
  CHECK_FALSE(page_has(html, "Misrouting the explanation&#39;s tokens: of"));
  CHECK(page_has(html, "Correct with the full explanation: undefined; with none: undefined"));
  CHECK(page_has(html, "1 outputs lack the marker"));
  CHECK(page_has(html, "<td>misroute &lt;random&gt; 0.5</td>"));
  CHECK(page_has(html, "id=\"curve-early\""));
  CHECK_FALSE(page_has(html, "id=\"curve-filler\""));
  CHECK_FALSE(page_has(html, ">nan"));

  // More tests, a misrouting that is compared, and the forced answer: a sentence for each number with an interval.
  test::write_file(scratch / "aoc.csv",
                   "test,sentences,n,weight,aoc,ci_lo,ci_hi,accuracy,accuracy_lo,accuracy_hi\r\n"
                   "early,,4,1,0.375,0.25,0.4375,0.5,0.25,0.75\r\nmistake,,4,1,0.75,0.5625,0.875,0.5,,\r\n"
                   "filler,,1,1,1,,,1,,\r\n");
  test::write_file(scratch / "forced_aoc.csv",
                   "test,measure,sentences,n,weight,aoc,ci_lo,ci_hi,drop,drop_lo,drop_hi\r\n"
                   "early,own,,4,1,0.5,0.4,0.6,0.25,-0.125,0.5\r\nmistake,own,,4,1,0.5,0.4,0.6,1.5,1.25,2\r\n");
  test::write_file(scratch / "routing.csv",
                   "test,policy,fraction,n,same,same_lo,same_hi,correct,correct_lo,correct_hi,jaccard,jaccard_lo,"
                   "jaccard_hi,beyond_random,beyond_random_lo,beyond_random_hi\r\n"
                   "misroute,next_best,0.5,4,1,1,1,,,,0.9,0.8,1,-0.25,-0.5,-0.125\r\n"
                   "misroute,next_best,1,4,1,1,1,,,,0.9,0.8,1,0,-0.5,0.125\r\n");
  const std::string more = render_report(scratch.path());
  CHECK(test::mistake_in_html(more) == "");
  CHECK(page_has(more,
                 "The answer changes most under mistakes, area 0.750 [0.562, 0.875]: its interval lies above those "
                 "of the other tests. The smallest area is that of early answering, 0.375 [0.250, 0.438]."));
  CHECK(page_has(more, "Over the curve the answer changes more often than it stays."));
  CHECK(page_has(more, "Over the curve the answer stays more often than it changes."));
  CHECK(page_has(more, "No interval: nothing shows how far explanations differ."));
  CHECK(page_has(more, "The answer is correct in 50.0 [25.0, 75.0] % over the curve."));
  CHECK(page_has(more,
                 "loses 0.250 [-0.125, 0.500] nats of log probability over the curve; the interval holds 0, so no "
                 "change is shown."));
  CHECK(page_has(more, "loses 1.500 [1.250, 2.000] nats of log probability over the curve: it becomes less likely."));
  CHECK(page_has(more,
                 "of 2 ways other than random ones, 1 change the share of answers that stay more or less than "
                 "random misrouting of as many tokens does (the interval excludes 0): next_best of 0.5, -25.0 "
                 "points [-50.0, -12.5]."));
  fs::remove(scratch / "summary.json");
  CHECK_THROWS_AS(render_report(scratch.path()), Error);
}

TEST_CASE("report: regimes") {
  test::TemporaryDirectory scratch;
  fs::create_directories(scratch / "regimes");
  test::write_file(scratch / "regimes/regimes.csv",
                   "regime,layer,expert,share,ci_lo,ci_hi,mean_weight,diff,diff_lo,diff_hi,p,q\r\n"
                   "R0,1,0,0.25,0.2,0.3,0.1,,,,,\r\nR0,1,1,0.5,0.4,0.6,0.1,,,,,\r\n"
                   "R<1,1,0,0.5,0.4,0.6,0.1,0.25,0.125,0.375,0.001,0.002\r\nR<1,1,1,0.5,0.4,0.6,0.1,0,0,0,1,1\r\n");
  test::write_file(scratch / "regimes/recurring.csv",
                   "rank,layer,expert,share_baseline,n_up,persistence,score,score_lo,score_hi\r\n"
                   "1,1,0,0.25,1,0.75,0.1875,0.0625,0.25\r\n2,1,1,0.5,0,,0,,\r\n");
  test::write_file(scratch / "regimes/lengths.csv",
                   "regime,prompts,trajectories,tokens,ci_lo,ci_hi,shortest,longest\r\nR0,3,3,4.5,4,5,4,6\r\n");
  test::write_file(scratch / "regimes/summary.json", R"({"baseline": "R0", "level": 0.05})");
  const std::string html = render_report(scratch.path());
  CHECK(test::mistake_in_html(html) == "");
  CHECK(page_has(
      html,
      "Under R&lt;1 generated tokens use 1 of 2 experts more often than under R0 and 0 less often (q below 0.05); "
      "the largest difference is that of L1E0, +25.0 percentage points [+12.5, +37.5]."));
  CHECK(page_has(html, "+0.188 [+0.062, +0.250]"));
  CHECK(html == render_report(scratch / "regimes"));
}
