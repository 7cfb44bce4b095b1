#include "eval/report/curve_report.h"

#include <algorithm>
#include <cmath>

#include "base/text.h"
#include "eval/findings/cross_fit.h"
#include "eval/findings/format.h"
#include "eval/findings/specification_curve.h"
#include "eval/report/charts.h"
#include "eval/report/page.h"

namespace signalbox::eval {

namespace {

// Each value of each key of the curve's grids; values in order of first appearance in the run.
std::vector<SpecificationRow> choices_of(const RunFindings& run, const std::string& entry) {
  std::vector<SpecificationRow> rows;
  for (const Intervention& one : run.interventions) {
    if (!one.is_main() || one.entry != entry) continue;
    for (const auto& choice : one.grid) {
      const std::string& key = choice.first;
      const std::string text = plain_text(choice.second);
      const auto same = [&](const SpecificationRow& row) { return row.key == key && row.value == text; };
      if (std::any_of(rows.begin(), rows.end(), same)) continue;
      // Behind the last value of its key.
      const auto last = std::find_if(rows.rbegin(), rows.rend(), [&](const auto& row) { return row.key == key; });
      rows.insert(last == rows.rend() ? rows.end() : last.base(), {key, text});
    }
  }
  return rows;
}

std::string curve_html(const RunFindings& run, const SpecificationCurve& curve) {
  const std::vector<SpecificationRow> rows = choices_of(run, curve.entry);
  const size_t metric = run.metric_index(curve.metric);
  std::vector<SpecificationPoint> points;
  for (const size_t i : curve.order) {
    const Intervention& one = run.interventions[i];
    const Contrast& contrast = run.all.contrasts[i][metric];
    SpecificationPoint point;
    point.difference = contrast.difference.value;
    point.lo = contrast.difference.lo;
    point.hi = contrast.difference.hi;
    point.significant = contrast.p < 0.05;
    for (const auto& [key, value] : one.grid)
      for (size_t r = 0; r < rows.size(); ++r)
        if (rows[r].key == key && rows[r].value == plain_text(value)) point.marks.push_back(r);
    const int decimals = decimals_for(std::abs(point.difference));
    point.title = one.name + "\n" + format_difference(point.difference, decimals) + " " +
                  format_interval(point.lo, point.hi, decimals, true) + ", p = " + format_p(contrast.p);
    points.push_back(std::move(point));
  }
  std::string out = "<p>" + html_escape(curve_sentence(curve)) + "</p>";
  if (!points.empty())
    out += "<div class=\"wide\">" +
           specification_plot(points, rows, curve.metric + ": intervention \xE2\x88\x92 baseline") + "</div>";
  return out;
}

}  // namespace

std::string specification_section(const RunFindings& run) {
  if (run.curves.empty()) return "";
  std::string out =
      "<h2 id=\"curves\">Under every choice of detection</h2><p class=\"small\">Specification curves: each column is "
      "the "
      "effect under one way to choose the experts, in ascending order, filled where p &lt; 0.05 (not corrected), with "
      "its "
      "95 % interval; the dots below say which choices it has. A finding that holds under most choices does not hang "
      "on "
      "one of them. The choices share records and often experts: they are no independent tests, and their number is no "
      "p-value. The same numbers stand in specification_curve.csv.</p>";
  std::string entry;
  for (const SpecificationCurve& curve : specification_curves(run)) {
    if (curve.entry != entry) out += "<h3>" + html_escape(curve.entry) + "</h3>";
    entry = curve.entry;
    out += curve_html(run, curve);
  }
  return out;
}

namespace {

// The experts that most deals take, by intervention.
std::string selection_table(const RunFindings& run) {
  constexpr size_t most = 20;
  const CrossFitFindings& fit = *run.cross_fit;
  std::string out;
  for (size_t begin = 0; begin < fit.selection.size();) {
    const std::string& name = fit.selection[begin].intervention;
    size_t end = begin;
    std::vector<SelectedExpert> taken;
    for (; end < fit.selection.size() && fit.selection[end].intervention == name; ++end)
      if (fit.selection[end].deals > 0) taken.push_back(fit.selection[end]);
    begin = end;
    std::stable_sort(taken.begin(), taken.end(),
                     [](const SelectedExpert& a, const SelectedExpert& b) { return a.deals > b.deals; });
    const auto always =
        std::count_if(taken.begin(), taken.end(), [&](const auto& one) { return one.deals == fit.deals; });
    std::vector<std::vector<std::string>> rows;
    for (size_t i = 0; i < std::min(most, taken.size()); ++i)
      rows.push_back({std::to_string(taken[i].expert.layer), std::to_string(taken[i].expert.expert),
                      std::to_string(taken[i].deals) + " of " + std::to_string(fit.deals),
                      format_difference(taken[i].rd, 4)});
    out += "<details><summary>" + html_escape(name) + ": " + std::to_string(taken.size()) +
           " experts were taken by some deal, " + std::to_string(always) + " by all" +
           (taken.size() > most ? "; the first " + std::to_string(most) : "") + "</summary>" +
           html_table({"layer", "expert", "deals", "mean rd"}, {1, 1, 1, 1}, rows) + "</details>\n";
  }
  return out;
}

}  // namespace

std::string cross_fit_section(const RunFindings& run) {
  if (!run.cross_fit) return "";
  const CrossFitFindings& fit = *run.cross_fit;
  char share[32];
  std::snprintf(share, sizeof share, "%g", 100 * fit.share);
  return "<h2 id=\"deals\">Deal by deal</h2><p class=\"small\">The records were dealt " + std::to_string(fit.deals) +
         " times into a part that chose the experts (" + share +
         " % of the examples) and a part that tested them. Effects above are means over the deals that tested a "
         "record; "
         "intervals and p draw examples, for the experts that these deals chose. Below: the effect on the test part of "
         "each deal by itself, and how often each expert was chosen. Where deals disagree, the finding hangs on the "
         "luck "
         "of a split. Each deal is a run of its own in deals/.</p>" +
         html_table(cross_fit_table(run)) + selection_table(run);
}

}  // namespace signalbox::eval
