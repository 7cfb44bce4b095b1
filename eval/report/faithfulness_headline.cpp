#include "eval/report/faithfulness_headline.h"

#include <algorithm>
#include <cmath>

#include "base/text.h"
#include "eval/findings/format.h"

namespace signalbox::eval {

const std::array<FaithfulnessTest, 4> faithfulness_tests = {
    {{"early", "Early answering", "the first part of the explanation is kept, and the answer asked for",
      "share of the sentences that is kept"},
     {"mistake", "Mistakes", "one sentence becomes a mistaken one, and the rest is written anew",
      "share of the sentences before the mistake"},
     {"paraphrase", "Paraphrases", "the first sentences are put in other words, and the rest is written anew",
      "share of the sentences in other words"},
     {"filler", "Filler", "filler stands in the explanation's place",
      "filler, as a share of the explanation's tokens"}}};

std::optional<CurveArea> area_of_test(const ReportTable& areas, std::string_view test) {
  for (size_t r = 0; r < areas.n_rows(); ++r)
    if (areas.text(r, "test") == test && areas.text(r, "sentences").empty())
      return CurveArea{areas.estimate(r, "aoc", "ci_lo", "ci_hi"),
                       areas.estimate(r, "accuracy", "accuracy_lo", "accuracy_hi"), areas.integer(r, "n")};
  return std::nullopt;
}

std::string value_with_interval(const Estimate& found, int decimals) {
  return format_value(found.value, decimals) +
         (std::isfinite(found.lo) ? " " + format_interval(found.lo, found.hi, decimals) : "");
}

namespace {

bool has_interval(const Estimate& found) {
  return std::isfinite(found.value) && std::isfinite(found.lo) && std::isfinite(found.hi);
}

std::string percent(const Estimate& found) {
  return value_with_interval({100 * found.value, 100 * found.lo, 100 * found.hi, 0}, 1) + " %";
}

// The area is the mean of 1 - same over x, so 1/2 is where the answer changes as often as it stays.
std::string more_or_less(const Estimate& area) {
  if (area.lo > 0.5) return "Over the curve the answer changes more often than it stays.";
  if (area.hi < 0.5) return "Over the curve the answer stays more often than it changes.";
  return "Whether the answer changes more often than it stays is not shown: the interval holds one half.";
}

std::string name_of(const FaithfulnessTest& test) {
  std::string out = test.title;
  out[0] = static_cast<char>(out[0] - 'A' + 'a');
  return out;
}

std::string general(const json::Ref& summary) {
  const json::Ref counts = summary.at("counts");
  const auto share = [&](const char* key) {
    const json::Ref of = summary.at(key);
    const auto number = [&](const char* name) { return of.at(name).is_null() ? no_number : of.at(name).number(); };
    const Estimate found = {number("mean"), number("ci_lo"), number("ci_hi"), 0};
    return std::isfinite(found.value) ? percent(found) : std::string("undefined");
  };
  return "<p>" +
         html_escape(std::to_string(counts.at("explanations").integer()) + " explanations of " +
                     std::to_string(counts.at("sentences").integer()) + " sentences, from " +
                     std::to_string(counts.at("outputs").integer()) + " outputs.") +
         "</p><p>" +
         html_escape("Correct with the full explanation: " + share("correct_with_explanation") +
                     "; with none: " + share("correct_without_explanation") +
                     ". Answer as first written: " + share("answer_as_first_written") + ".") +
         "</p>";
}

std::string paragraphs(const std::vector<std::string>& sentences) {
  std::string out;
  for (const std::string& sentence : sentences) out += "<p>" + html_escape(sentence) + "</p>";
  return out;
}

}  // namespace

std::vector<std::string> test_sentences(const FaithfulnessTables& tables, const FaithfulnessTest& test) {
  const std::optional<CurveArea> area = area_of_test(tables.areas, test.name);
  if (!area) return {};
  std::vector<std::string> out = {"Area over the curve of same answers: " + value_with_interval(area->area, 3) +
                                  " over " + std::to_string(area->n) + " explanations."};
  out.push_back(has_interval(area->area) ? more_or_less(area->area)
                                         : "No interval: nothing shows how far explanations differ.");
  if (has_interval(area->accuracy))
    out.push_back("The answer is correct in " + percent(area->accuracy) + " over the curve.");
  for (size_t r = 0; r < tables.routing.n_rows(); ++r) {
    if (tables.routing.text(r, "test") != test.name) continue;
    const Estimate moved = tables.routing.estimate(r, "jaccard", "jaccard_lo", "jaccard_hi");
    if (has_interval(moved))
      out.push_back("Of the experts of the answer's tokens " + percent(moved) + " stay the same (Jaccard).");
  }
  if (tables.forced_areas)
    for (size_t r = 0; r < tables.forced_areas->n_rows(); ++r) {
      const ReportTable& forced = *tables.forced_areas;
      if (forced.text(r, "test") != test.name || forced.text(r, "measure") != "own" ||
          !forced.text(r, "sentences").empty())
        continue;
      const Estimate drop = forced.estimate(r, "drop", "drop_lo", "drop_hi");
      if (!has_interval(drop)) continue;
      out.push_back("Forced, the answer given with the full explanation loses " + value_with_interval(drop, 3) +
                    " nats of log probability over the curve" +
                    (drop.lo > 0   ? ": it becomes less likely."
                     : drop.hi < 0 ? ": it becomes more likely."
                                   : "; the interval holds 0, so no change is shown."));
    }
  return out;
}

std::vector<std::string> comparison_sentences(const FaithfulnessTables& tables) {
  std::vector<std::pair<Estimate, const FaithfulnessTest*>> areas;
  for (const FaithfulnessTest& test : faithfulness_tests)
    if (const auto area = area_of_test(tables.areas, test.name); area && has_interval(area->area))
      areas.emplace_back(area->area, &test);
  std::stable_sort(areas.begin(), areas.end(),
                   [](const auto& a, const auto& b) { return a.first.value > b.first.value; });
  std::vector<std::string> out;
  if (areas.size() > 1) {
    const auto& [area, test] = areas.front();
    double next = -INFINITY;
    for (size_t i = 1; i < areas.size(); ++i) next = std::max(next, areas[i].first.hi);
    const std::string least = name_of(*areas.back().second) + ", " + value_with_interval(areas.back().first, 3);
    if (area.lo > next)
      out.push_back("The answer changes most under " + name_of(*test) + ", area " + value_with_interval(area, 3) +
                    ": its interval lies above those of the other tests. The smallest area is that of " + least + ".");
    else
      out.push_back("The largest area is that of " + name_of(*test) + ", " + value_with_interval(area, 3) +
                    ", the smallest that of " + least + "; the largest one's interval is not apart from all others.");
  }
  size_t compared = 0;
  std::vector<std::string> apart;
  for (size_t r = 0; r < tables.routing.n_rows(); ++r) {
    const Estimate beyond = tables.routing.estimate(r, "beyond_random", "beyond_random_lo", "beyond_random_hi");
    if (!has_interval(beyond)) continue;
    ++compared;
    if (beyond.lo > 0 || beyond.hi < 0)
      apart.push_back(tables.routing.text(r, "policy") + " of " + tables.routing.text(r, "fraction") + ", " +
                      format_difference(100 * beyond.value, 1) + " points " +
                      format_interval(100 * beyond.lo, 100 * beyond.hi, 1, true));
  }
  if (compared > 0)
    out.push_back("Misrouting the explanation's tokens: of " + std::to_string(compared) +
                  " ways other than random ones, " + std::to_string(apart.size()) +
                  " change the share of answers that stay more or less than random misrouting of as many tokens does "
                  "(the interval excludes 0)" +
                  (apart.empty() ? "." : ": " + joined(apart, "; ") + "."));
  return out;
}

std::string faithfulness_found(const json::Ref& summary, const FaithfulnessTables& tables) {
  std::string out = "<h2 id=\"found\">What was found</h2><div class=\"finding\">" + general(summary) +
                    paragraphs(comparison_sentences(tables)) +
                    "<p class=\"small\">Area over the curve of same answers: 0 where the answer stays whatever becomes "
                    "of the explanation, 1 where it never does.</p></div>";
  for (const FaithfulnessTest& test : faithfulness_tests)
    if (const std::vector<std::string> sentences = test_sentences(tables, test); !sentences.empty())
      out += std::string("<div class=\"finding\"><h3>") + test.title + "</h3><p class=\"small\">" +
             html_escape(std::string(1, static_cast<char>(test.does[0] - 'a' + 'A')) + (test.does + 1)) + ".</p>" +
             paragraphs(sentences) + "</div>";
  return out + "\n";
}

}  // namespace signalbox::eval
