#include "eval/report/dose_report.h"

#include <algorithm>
#include <set>
#include <vector>

#include "base/no_number.h"
#include "base/text.h"
#include "eval/findings/format.h"
#include "eval/report/charts.h"
#include "eval/report/page.h"
#include "eval/report/run_grid.h"

namespace signalbox::eval {

namespace {

using FromZero = std::set<std::pair<std::string, std::string>>;  // entry, key

// The key's values as doses: numeric in all points, and at least two of them.
bool is_dose(const GridPoints& points, const std::string& key) {
  std::set<double> values;
  for (const Intervention* point : points)
    for (const auto& [name, value] : point->grid)
      if (name == key) {
        if (!value.is_number()) return false;
        values.insert(value.real());
      }
  return values.size() >= 2;
}

constexpr size_t most_lines = 6;  // that a picture has colours for

// Lines that share a picture: all, or, of more than it has colours for, those that differ in the last other key alone.
struct DosePicture {
  std::string title;  // of the keys that all its lines share
  std::vector<DoseLine> lines;
};

// The one of that name, added where there is none.
template <class T>
T& named(std::vector<T>& list, std::string T::*name, const std::string& wanted) {
  for (T& one : list)
    if (one.*name == wanted) return one;
  list.emplace_back().*name = wanted;
  return list.back();
}

std::vector<DosePicture> pictures_of(const RecordFindings& found, const RunFindings& run, const GridPoints& points,
                                     const std::string& key, const std::string& metric, bool from_zero) {
  const size_t m = run.metric_index(metric);
  std::vector<DosePicture> pictures;
  for (const Intervention* point : points) {
    std::vector<std::string> others;
    double x = no_number;
    for (const auto& [name, value] : point->grid) {
      if (name == key)
        x = value.real();
      else
        others.push_back(name + " = " + plain_text(value));
    }
    const std::string last = others.empty() ? metric : others.back();
    if (!others.empty()) others.pop_back();
    DosePicture& picture = named(pictures, &DosePicture::title, joined(others));
    const Estimate& mean = found.means[run.intervention_index(point->name)][m];
    named(picture.lines, &DoseLine::name, last).points.push_back({x, mean.value, mean.lo, mean.hi});
  }
  size_t n_lines = 0;
  const Estimate& base = found.means[run.baseline_index()][m];
  for (DosePicture& picture : pictures) {
    n_lines += picture.lines.size();
    for (DoseLine& one : picture.lines) {
      const auto at_zero = [](const DosePoint& point) { return point.x == 0; };
      if (from_zero && std::none_of(one.points.begin(), one.points.end(), at_zero))
        one.points.push_back({0, base.value, base.lo, base.hi});
      std::stable_sort(one.points.begin(), one.points.end(),
                       [](const DosePoint& a, const DosePoint& b) { return a.x < b.x; });
    }
  }
  if (pictures.size() == 1 || n_lines > most_lines) return pictures;
  DosePicture all;
  for (DosePicture& picture : pictures)
    for (DoseLine& one : picture.lines) all.lines.push_back({picture.title + ", " + one.name, std::move(one.points)});
  return {all};
}

std::string doses_of(const FindingsIndex& findings, const GridPoints& points, const std::string& key,
                     const std::string& metric, bool from_zero) {
  const RunFindings& run = findings.run();
  const bool apart = findings.conditions().size() > 1;
  std::string out;
  for (const std::string& condition : findings.conditions()) {
    const RecordFindings& found = run.of_condition(condition);
    if (std::all_of(points.begin(), points.end(), [&](const Intervention* point) {
          const ResultRow* row = findings.row(point->name, metric, condition);
          return row && row->difference.value == 0;
        })) {
      out += "<p class=\"small\">" + html_escape(metric + " \xC2\xB7 " + records_name(condition)) +
             ": exactly the baseline at every dose.</p>";
      continue;
    }
    const double baseline = found.means[run.baseline_index()][run.metric_index(metric)].value;
    for (const DosePicture& picture : pictures_of(found, run, points, key, metric, from_zero)) {
      std::vector<std::string> title = {metric};
      if (!picture.title.empty()) title.push_back(picture.title);
      if (apart) title.push_back(records_name(condition));
      out += "<div>" + dose_plots(picture.lines, key, joined(title, " \xC2\xB7 "), baseline) + "</div>";
    }
  }
  return out;
}

}  // namespace

std::string dose_section(const FindingsIndex& findings, const std::optional<Manifest>& manifest) {
  std::string out;
  const FromZero from_zero = fraction_keys(manifest);
  for (const auto& [entry, points] : grids_of(findings.run()))
    for (const auto& [key, unused] : points.front()->grid) {
      if (!is_dose(points, key)) continue;
      const bool zero_is_baseline = from_zero.contains({entry, key});
      out += "<h3>" + html_escape(entry) + ": " + html_escape(key) + "</h3>";
      if (zero_is_baseline) out += "<p class=\"small\">At 0 no token is edited: that point is the baseline.</p>";
      for (const std::string& metric : findings.metrics())
        out += findings.moves(metric)
                   ? "<div class=\"row\">" + doses_of(findings, points, key, metric, zero_is_baseline) + "</div>\n"
                   : "<p>" + html_escape(metric) + ": the same at every dose.</p>\n";
    }
  if (out.empty()) return "";
  return "<h2 id=\"doses\">Dose and response</h2><p class=\"small\">The mean under each point of a grid, with its 95 % "
         "interval. An effect that grows with the dose is harder to explain by chance than one that does not.</p>" +
         out;
}

}  // namespace signalbox::eval
