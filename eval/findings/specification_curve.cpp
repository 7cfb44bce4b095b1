#include "eval/findings/specification_curve.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "base/csv.h"
#include "base/files.h"
#include "eval/findings/format.h"
#include "eval/findings/intervals.h"
#include "eval/statistics/resampling.h"
#include "eval/store/manifest.h"

namespace signalbox::eval {

namespace {

std::vector<size_t> points_of(const RunFindings& findings, const std::string& entry) {
  std::vector<size_t> out;
  for (size_t i = 0; i < findings.interventions.size(); ++i) {
    const Intervention& one = findings.interventions[i];
    if (one.is_main() && one.entry == entry && !one.grid.empty()) out.push_back(i);
  }
  return out;
}

SpecificationCurve curve_of(const RunFindings& findings, const std::string& entry, size_t metric) {
  SpecificationCurve out;
  out.entry = entry;
  out.metric = findings.metrics[metric];
  const std::vector<size_t> points = points_of(findings, entry);
  out.points = static_cast<int64_t>(points.size());
  const auto contrast = [&](size_t i) -> const Contrast& { return findings.all.contrasts[i][metric]; };
  for (const size_t i : points)
    if (std::isfinite(contrast(i).difference.value)) out.order.push_back(i);
  std::stable_sort(out.order.begin(), out.order.end(),
                   [&](size_t a, size_t b) { return contrast(a).difference.value < contrast(b).difference.value; });
  std::vector<double> sorted;
  for (const size_t i : out.order) {
    const double value = contrast(i).difference.value;
    sorted.push_back(value);
    const bool below = contrast(i).p < test_level;
    out.negative += value < 0;
    out.positive += value > 0;
    out.zero += value == 0;
    out.negative_p += value < 0 && below;
    out.positive_p += value > 0 && below;
  }
  if (sorted.empty()) return out;
  out.median = quantile(sorted, 0.5);
  out.least = sorted.front();
  out.greatest = sorted.back();
  return out;
}

// Keys of all grids of these entries, in order of first appearance.
std::vector<std::string> keys_of(const RunFindings& findings) {
  std::vector<std::string> keys;
  for (const std::string& entry : findings.curves)
    for (const size_t i : points_of(findings, entry))
      for (const auto& [key, value] : findings.interventions[i].grid)
        if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
  return keys;
}

bool takes_from_detection(const json::Value& intervention) {
  const json::Value* edits = intervention.find("edits");
  if (!edits) return false;
  return std::any_of(edits->items().begin(), edits->items().end(),
                     [](const json::Value& edit) { return detect_stage_of(edit).has_value(); });
}

}  // namespace

std::vector<SpecificationCurve> specification_curves(const RunFindings& findings) {
  std::vector<SpecificationCurve> out;
  for (const std::string& entry : findings.curves)
    for (size_t m = 0; m < findings.metrics.size(); ++m) out.push_back(curve_of(findings, entry, m));
  return out;
}

std::string curve_sentence(const SpecificationCurve& curve) {
  const auto n = [](int64_t count) { return std::to_string(count); };
  if (curve.order.empty()) return curve.metric + " is defined under none of the " + n(curve.points) + " choices.";
  const int decimals = decimals_for(std::max(std::abs(curve.least), std::abs(curve.greatest)));
  std::string text = n(curve.negative) + " of " + n(curve.points) + " choices lower " + curve.metric + ", " +
                     n(curve.positive) + " raise it";
  if (curve.zero > 0) text += ", " + n(curve.zero) + " leave it as it is";
  if (const int64_t undefined = curve.points - static_cast<int64_t>(curve.order.size()); undefined > 0)
    text += ", under " + n(undefined) + " it is undefined";
  return text + "; p < 0.05 in " + n(curve.negative_p) + " of those that lower it and in " + n(curve.positive_p) +
         " of those that raise it. Median " + format_difference(curve.median, decimals) + ", from " +
         format_difference(curve.least, decimals) + " to " + format_difference(curve.greatest, decimals) + ".";
}

std::string specification_curve_csv(const RunFindings& findings) {
  const std::vector<std::string> keys = keys_of(findings);
  std::vector<std::string> header = {"entry", "metric", "place", "intervention"};
  for (const std::string& key : keys) header.push_back("choice_" + key);
  header.insert(header.end(), {"diff", "ci_lo", "ci_hi", "p", "q", "n"});
  CsvWriter csv(std::vector<std::string_view>(header.begin(), header.end()));
  for (const SpecificationCurve& curve : specification_curves(findings)) {
    const size_t m = findings.metric_index(curve.metric);
    std::vector<size_t> rows = curve.order;
    for (const size_t i : points_of(findings, curve.entry))
      if (std::find(curve.order.begin(), curve.order.end(), i) == curve.order.end()) rows.push_back(i);
    for (size_t place = 0; place < rows.size(); ++place) {
      const Intervention& one = findings.interventions[rows[place]];
      const Contrast& contrast = findings.all.contrasts[rows[place]][m];
      csv.cell(curve.entry).cell(curve.metric);
      if (place < curve.order.size())
        csv.cell(static_cast<int64_t>(place + 1));
      else
        csv.cell(std::string_view());
      csv.cell(one.name);
      for (const std::string& key : keys) {
        const auto found =
            std::find_if(one.grid.begin(), one.grid.end(), [&](const auto& item) { return item.first == key; });
        csv.cell(found == one.grid.end() ? std::string() : plain_text(found->second));
      }
      csv.cell(contrast.difference.value).cell(contrast.difference.lo).cell(contrast.difference.hi);
      csv.cell(contrast.p).cell(contrast.q).cell(contrast.difference.n).end_row();
    }
  }
  return csv.text();
}

std::vector<std::string> curve_entries(const json::Value& spec, const RunFindings& findings) {
  std::set<std::string> detected;  // names of points
  if (const json::Value* list = spec.find("interventions"))
    for (const json::Value& one : list->items())
      if (takes_from_detection(one)) detected.insert(one.find("name")->string());
  std::vector<std::string> out;
  for (const Intervention& one : findings.interventions) {
    if (!one.is_main() || !detected.contains(one.name) || std::find(out.begin(), out.end(), one.entry) != out.end())
      continue;
    if (points_of(findings, one.entry).size() > 1) out.push_back(one.entry);
  }
  return out;
}

void write_specification_curves(const std::filesystem::path& dir, const std::filesystem::path& out,
                                RunFindings& findings) {
  const std::optional<Manifest> manifest = Manifest::read(dir);
  const json::Value* spec = manifest ? manifest->identity.find("spec") : nullptr;
  if (!spec) return;
  findings.curves = curve_entries(*spec, findings);
  if (!findings.curves.empty())
    write_file_atomically(out / "specification_curve.csv", specification_curve_csv(findings));
}

}  // namespace signalbox::eval
