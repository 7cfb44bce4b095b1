#include "eval/report/differences.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <set>

#include "base/text.h"
#include "eval/findings/format.h"
#include "eval/report/charts.h"
#include "eval/report/page.h"
#include "eval/score/scorer.h"

namespace signalbox::eval {

namespace {

// ---- One view of everything

std::string place_of(const ResultRow& row) {
  if (!row.controls.rank) return "";
  return std::to_string(*row.controls.rank) + " of " + std::to_string(row.controls.differences.n + 1) +
         (row.controls.few() ? " (few)" : "");
}

std::string effect_cell(const FindingsIndex& findings, const ResultRow* row, int decimals) {
  if (!row || !std::isfinite(row->difference.value)) return "-";
  const std::string number = html_escape(format_difference(row->difference.value, decimals));
  const std::string place = place_of(*row);
  return (findings.shows(*row) ? "<b>" + number + "</b>" : number) + "<br/><span class=\"note\">" +
         html_escape(format_interval(row->difference.lo, row->difference.hi, decimals, true)) +
         (place.empty() ? "" : "<br/>" + html_escape(place)) + "</span>";
}

// The name, and what it does to which experts.
std::string name_cell(const FindingsIndex& findings, const std::string& name) {
  return html_escape(name) + "<br/><span class=\"note\">" +
         html_escape(intervention_text(findings.intervention(name))) + "</span>";
}

std::string baseline_cell(const Estimate& mean, int decimals) {
  return html_escape(format_value(mean.value, decimals));
}

int decimals_of(const FindingsIndex& findings, const std::string& metric) {
  return decimals_for(findings.run().mean(findings.baseline(), metric).value);
}

const Estimate& baseline_mean(const FindingsIndex& findings, const std::string& metric, const std::string& condition) {
  const RunFindings& run = findings.run();
  return run.of_condition(condition).means[run.baseline_index()][run.metric_index(metric)];
}

// Columns of a matrix: heading, what the baseline has, and the cell of an intervention.
struct MatrixColumn {
  std::string heading, baseline;
  std::function<std::string(const std::string& name)> cell;
};

// A row for the baseline and for each intervention; the points of large grids folded away below, each with its grid.
std::string matrix(const FindingsIndex& findings, const std::string& corner, const std::vector<MatrixColumn>& columns) {
  std::vector<std::string> headings = {html_escape(corner)}, first = {html_escape(findings.baseline()) + " (mean)"};
  for (const MatrixColumn& column : columns) {
    headings.push_back(html_escape(column.heading));
    first.push_back(column.baseline);
  }
  std::vector<uint8_t> numeric(headings.size(), 1);
  numeric[0] = 0;
  const auto row_of = [&](const std::string& name) {
    std::vector<std::string> row = {name_cell(findings, name)};
    for (const MatrixColumn& column : columns) row.push_back(column.cell(name));
    return row;
  };
  std::vector<std::vector<std::string>> shown = {first};
  std::string folded;
  for (const TogetherTold& one : findings.together()) {
    if (!one.grid()) {
      shown.push_back(row_of(one.names[0]));
      continue;
    }
    std::vector<std::vector<std::string>> rows = {first};
    for (const std::string& name : one.names) rows.push_back(row_of(name));
    folded += "<details><summary>" +
              html_escape(corner + ": the " + std::to_string(one.names.size()) + " points of " + one.entry) +
              "</summary>" + html_table(headings, numeric, rows) + "</details>\n";
  }
  return (shown.size() > 1 ? html_table(headings, numeric, shown) : "") + folded;
}

// The cells of one metric: a column for each condition.
std::string matrix_of(const FindingsIndex& findings, const std::string& metric) {
  const int decimals = decimals_of(findings, metric);
  std::vector<MatrixColumn> columns;
  for (const std::string& condition : findings.conditions())
    columns.push_back({records_name(condition), baseline_cell(baseline_mean(findings, metric, condition), decimals),
                       [&findings, &metric, condition, decimals](const std::string& name) {
                         return effect_cell(findings, findings.row(name, metric, condition), decimals);
                       }});
  return matrix(findings, metric, columns);
}

// Without conditions: a column for each metric.
std::string matrix_of_metrics(const FindingsIndex& findings) {
  std::vector<MatrixColumn> columns;
  for (const std::string& metric : findings.metrics()) {
    const int decimals = decimals_of(findings, metric);
    columns.push_back({metric, baseline_cell(findings.run().mean(findings.baseline(), metric), decimals),
                       [&findings, metric, decimals](const std::string& name) {
                         return effect_cell(findings, findings.row(name, metric), decimals);
                       }});
  }
  return matrix(findings, "intervention", columns);
}

// ---- Metric by metric

// One metric's rows, condition by condition, folded away under a title.
std::string folded_table(const std::string& title, const std::vector<ResultRow>& rows, bool apart) {
  using Kind = TableColumn::Kind;
  FindingsTable table;
  table.title = title;
  table.columns = {{"intervention", Kind::text, {}},
                   {apart ? "records" : "", Kind::text, {}},
                   {"n", Kind::count, {}},
                   {"baseline [95 % CI]", Kind::estimate, {}, true},
                   {"mean [95 % CI]", Kind::estimate, {}, true},
                   {"difference [95 % CI]", Kind::difference, {}, true},
                   {"p", Kind::p, {}},
                   {"q", Kind::p, {}},
                   {"MDE", Kind::number, {}},
                   {"random controls", Kind::difference, {}},
                   {"minus controls [95 % CI]", Kind::difference, {}},
                   {"p of that", Kind::p, {}},
                   {"place by size", Kind::rank, {}}};
  table.shows_small = false;
  for (const ResultRow& row : rows) {
    const Versus versus = row.vs_controls.value_or(Versus());
    table.rows.push_back(
        {row.metric,
         {row.intervention, records_name(row.condition), row.difference.n, row.baseline, row.mean, row.difference,
          row.p, row.q, row.detectable, row.controls.differences, Estimate{versus.difference, versus.lo, versus.hi, 0},
          versus.p, RankCell{row.controls.rank, row.controls.differences.n}}});
  }
  return "<details><summary>" + html_escape(table.title) + "</summary>" + html_table(table) + "</details>\n";
}

// Says only what is drawn.
std::string how_to_read(const FindingsIndex& findings) {
  const PrimaryContrasts& primary = findings.run().primary;
  const std::string family = std::to_string(findings.family()) +
                             " primary contrasts of this run: " + html_escape(abridged(primary.interventions)) +
                             " in " + html_escape(abridged(primary.metrics, 8));
  std::string out =
      "<p class=\"small\">Each line is an intervention's difference to the baseline over the same records: a filled "
      "point where q &lt; 0.05, hollow otherwise, with its 95 % interval (exact for differences of 0 and 1, else BCa "
      "bootstrap over records, or pairs; none excludes 0 where its test does not reject). p: how often a difference "
      "at least as large comes up when the sign of each record's, or pair's, difference is a coin toss (of ppl: of "
      "its logarithm). q: p corrected (Benjamini-Hochberg) for the " +
      family + "; others have no q. MDE: the smallest true difference that p &lt; 0.05 would find in 4 of 5 such runs.";
  std::set<int64_t> sets;
  for (const ResultRow& row : findings.main_rows())
    if (row.controls.rank) sets.insert(row.controls.differences.n);
  if (!sets.empty()) {
    const std::string n = sets.size() == 1 ? std::to_string(*sets.begin())
                                           : std::to_string(*sets.begin()) + " to " + std::to_string(*sets.rbegin());
    out +=
        " Grey dots are the " + n +
        " random controls of a line: as many experts, drawn at random in the same layers; the grey band holds the "
        "middle 95 % of them. Minus controls: the difference minus their mean difference. Place by size \"1 of " +
        std::to_string(*sets.rbegin() + 1) + "\": larger in size, whatever the sign, than all " +
        std::to_string(*sets.rbegin()) + " of them" +
        (*sets.begin() < enough_controls ? "; (few): fewer than " + std::to_string(enough_controls) + " sets." : ".") +
        " An effect inside the band is what any experts would do.";
  }
  if (findings.has_controls(ControlKind::frequency_matched))
    out += " Grey rings are controls matched in frequency of use.";
  if (findings.has_controls(ControlKind::bottom)) out += " Orange squares are the bottom of the ranking.";
  return out + " Hover for numbers; click on a heading to sort.</p>";
}

ForestRow forest_row(const FindingsIndex& findings, const ResultRow& row) {
  ForestRow line;
  line.name = row.intervention;
  line.description = findings.intervention(row.intervention).description;
  if (!row.condition.empty()) line.description = records_name(row.condition) + ": " + line.description;
  line.difference = row.difference.value;
  line.lo = row.difference.lo;
  line.hi = row.difference.hi;
  line.q = std::isfinite(row.q) ? row.q : 1;
  if (row.controls.rank)
    line.place = std::to_string(*row.controls.rank) + " of " + std::to_string(row.controls.differences.n + 1);
  const auto controls = [&](ControlKind kind) {
    return findings.differences_of(row.intervention, kind, row.metric, row.condition);
  };
  line.random = controls(ControlKind::random);
  line.matched = controls(ControlKind::frequency_matched);
  line.bottom = controls(ControlKind::bottom);
  line.band_lo = row.controls.differences.lo;
  line.band_hi = row.controls.differences.hi;
  return line;
}

std::string baselines_of(const FindingsIndex& findings, const std::string& metric) {
  std::string out;
  for (const std::string& condition : findings.conditions()) {
    const Estimate& base = baseline_mean(findings, metric, condition);
    const int decimals = decimals_for(base.value);
    out += (out.empty() ? "" : "; ") +
           (findings.conditions().size() > 1 ? html_escape(records_name(condition)) + " " : std::string()) +
           format_value(base.value, decimals) + " " + format_interval(base.lo, base.hi, decimals) +
           ", n = " + std::to_string(base.n);
  }
  return "<p class=\"small\">Baseline: " + out + "</p>";
}

// The differences of some interventions in one metric, those that change nothing in a line below.
std::string forest_figure(const FindingsIndex& findings, const std::string& id, const std::string& metric,
                          const std::vector<std::string>& names) {
  const bool apart = findings.conditions().size() > 1;
  std::vector<ForestRow> forest;
  std::vector<std::string> unmoved;
  std::vector<ResultRow> rows;
  for (const std::string& name : names) {
    if (names.size() > 1 && findings.changes_nothing(name, metric)) {
      unmoved.push_back(name);
      continue;
    }
    if (apart) {
      forest.emplace_back().name = name;
      forest.back().heading = true;
    }
    for (const std::string& condition : findings.conditions())
      if (const ResultRow* row = findings.row(name, metric, condition)) {
        rows.push_back(*row);
        forest.push_back(forest_row(findings, *row));
        if (apart) forest.back().name = records_name(condition);
      }
  }
  std::string out;
  if (!rows.empty()) {
    const std::string axis = metric + ": intervention \xE2\x88\x92 baseline";
    std::set<int64_t> counts;
    for (const ResultRow& row : rows) counts.insert(row.difference.n);
    const std::string n = std::to_string(*counts.begin()) +
                          (counts.size() > 1 ? " to " + std::to_string(*counts.rbegin()) : std::string());
    out += html_figure("forest-" + id,
                       "<div class=\"broad\">" + forest_plot(forest, axis) + "</div><div class=\"narrow\">" +
                           forest_plot(forest, axis, ForestForm::narrow) + "</div>",
                       "Differences in " + html_escape(metric) + " to " + html_escape(findings.baseline()) +
                           " with 95 % intervals, over " + n + " records a row.",
                       table_csv({result_table(rows)}));
  }
  if (!unmoved.empty())
    out += "<p class=\"small\">Exactly as the baseline, under every condition: " + html_escape(abridged(unmoved, 8)) +
           ".</p>";
  return out;
}

// `comparisons`: of all metrics.
std::string metric_section(const FindingsIndex& findings, const std::string& metric, FindingsTable comparisons) {
  std::string out = "<h3 id=\"metric-" + html_escape(metric) + "\">" + html_escape(metric) + "</h3>";
  if (const Scorer* scorer = find_scorer(metric))
    out += "<p class=\"note small\">" + html_escape(scorer->summary) + "</p>";
  out += baselines_of(findings, metric);
  const bool apart = findings.conditions().size() > 1;
  std::vector<ResultRow> rows;
  std::vector<std::string> alone;
  std::string grids;
  size_t n_grids = 0;
  for (const TogetherTold& one : findings.together()) {
    for (const std::string& name : one.names)
      for (const std::string& condition : findings.conditions())
        if (const ResultRow* row = findings.row(name, metric, condition)) rows.push_back(*row);
    if (!one.grid()) {
      alone.push_back(one.names[0]);
      continue;
    }
    const std::string id = metric + "-grid-" + std::to_string(n_grids++);
    grids += "<details><summary>" + html_escape("the " + std::to_string(one.names.size()) + " points of " + one.entry) +
             "</summary>" + forest_figure(findings, id, metric, one.names) + "</details>\n";
  }
  if (findings.moves(metric))
    out += (alone.empty() ? "" : forest_figure(findings, metric, metric, alone)) + grids;
  else
    out += "<p>No intervention changes it, under any condition: all differences are exactly 0.</p>";
  out += folded_table("numbers", rows, apart);
  std::erase_if(comparisons.rows, [&](const TableRow& row) { return row.group != metric; });
  if (!comparisons.rows.empty())
    out +=
        "<details><summary>" + html_escape(comparisons.title) + "</summary>" + html_table(comparisons) + "</details>\n";
  return out;
}

}  // namespace

std::string overview_section(const FindingsIndex& findings) {
  if (findings.main_names().empty()) return "";
  const bool apart = findings.conditions().size() > 1;
  std::string out =
      "<h2 id=\"overview\">In one view</h2><p class=\"small\">The difference of each intervention to "
      "the baseline, its 95 % interval";
  if (findings.has_controls(ControlKind::random)) out += " and its place among the random controls";
  out += apart ? ", under each condition of the records; last, all records together. " : ". ";
  out += "Bold: q, or p where there is no q, below 0.05.</p>";
  if (!apart) return out + matrix_of_metrics(findings);
  for (const std::string& metric : findings.metrics())
    if (findings.moves(metric))
      out += matrix_of(findings, metric);
    else
      out += "<p>" + html_escape(metric) + ": no intervention changes it, under any condition.</p>";
  return out;
}

std::string differences_section(const FindingsIndex& findings) {
  std::string out = "<h2 id=\"differences\">What the interventions changed</h2>" + how_to_read(findings);
  const FindingsTable comparisons =
      comparisons_by_condition(findings.run(), SIZE_MAX, "effects compared: other interventions, conditions, margins");
  for (const std::string& metric : findings.metrics()) out += metric_section(findings, metric, comparisons);
  return out;
}

}  // namespace signalbox::eval
