#include "eval/report/regimes_report.h"

#include <algorithm>
#include <cmath>

#include "base/json.h"
#include "base/text.h"
#include "eval/findings/format.h"
#include "eval/findings/table.h"
#include "eval/report/charts.h"
#include "eval/report/page.h"
#include "eval/report/report_table.h"
#include "eval/report/routes_report.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

constexpr size_t n_listed_experts = 20;

fs::path tables_of(const fs::path& dir) { return fs::exists(dir / "recurring.csv") ? dir : dir / "regimes"; }

std::string expert_name(const ReportTable& table, size_t row) {
  return "L" + table.text(row, "layer") + "E" + table.text(row, "expert");
}

std::string points_text(double share) { return format_difference(100 * share, 1); }

std::vector<std::string> regimes_in(const ReportTable& regimes) {
  std::vector<std::string> out;
  for (size_t r = 0; r < regimes.n_rows(); ++r)
    if (std::find(out.begin(), out.end(), regimes.text(r, "regime")) == out.end())
      out.push_back(regimes.text(r, "regime"));
  return out;
}

std::string regime_sentence(const ReportTable& regimes, const std::string& name, const std::string& baseline,
                            double level) {
  int64_t up = 0, down = 0, all = 0;
  double largest = 0;
  size_t most = regimes.n_rows();
  for (size_t r = 0; r < regimes.n_rows(); ++r) {
    if (regimes.text(r, "regime") != name) continue;
    const double diff = regimes.number(r, "diff");
    ++all;
    if (!std::isfinite(diff)) continue;
    if (std::abs(diff) > largest) largest = std::abs(diff), most = r;
    if (!(regimes.number(r, "q") < level)) continue;
    (diff > 0 ? up : down) += diff != 0;
  }
  std::string out = "Under " + name + " generated tokens use " + std::to_string(up) + " of " + std::to_string(all) +
                    " experts more often than under " + baseline + " and " + std::to_string(down) +
                    " less often (q below " + short_number(level) + ")";
  if (most < regimes.n_rows())
    out += "; the largest difference is that of " + expert_name(regimes, most) + ", " +
           points_text(regimes.number(most, "diff")) + " percentage points [" +
           points_text(regimes.number(most, "diff_lo")) + ", " + points_text(regimes.number(most, "diff_hi")) + "]";
  return out + ".";
}

std::string map_of(const ReportTable& regimes, const std::string& name, const std::string& baseline, double level) {
  std::vector<HeatCell> cells;
  for (size_t r = 0; r < regimes.n_rows(); ++r) {
    if (regimes.text(r, "regime") != name) continue;
    HeatCell cell;
    cell.layer = static_cast<int32_t>(regimes.integer(r, "layer"));
    cell.expert = static_cast<int32_t>(regimes.integer(r, "expert"));
    cell.value = regimes.number(r, "diff");
    cell.text = std::isfinite(cell.value) ? format_difference(100 * cell.value, 0) : "";
    cell.small = !(regimes.number(r, "q") < level);
    cell.title = expert_name(regimes, r) + "\nselected by " + format_value(100 * regimes.number(r, "share"), 2) +
                 " % of tokens under " + name + "\ndifference " + points_text(cell.value) + " [" +
                 points_text(regimes.number(r, "diff_lo")) + ", " + points_text(regimes.number(r, "diff_hi")) +
                 "]\nq " + format_p(regimes.number(r, "q"));
    cells.push_back(std::move(cell));
  }
  return heat_map(cells, "difference in use under " + name + " and " + baseline);
}

std::string recurring_section(const ReportTable& recurring, const std::vector<std::string>& others,
                              const ReportTable& regimes) {
  std::vector<ForestRow> forest;
  std::vector<std::string> headings = {"rank", "expert", "share under the baseline"};
  for (const std::string& name : others) headings.push_back(html_escape(name));
  for (const char* heading : {"up", "persistence", "score"}) headings.push_back(heading);
  std::vector<std::vector<std::string>> rows;
  CsvWriter score_csv({"layer", "expert", "score", "score_lo", "score_hi"});
  for (size_t r = 0; r < std::min(recurring.n_rows(), n_listed_experts); ++r) {
    const std::string name = expert_name(recurring, r);
    ForestRow row;
    row.name = name;
    row.difference = recurring.number(r, "score");
    row.lo = recurring.number(r, "score_lo");
    row.hi = recurring.number(r, "score_hi");
    row.q = no_number;  // a score has none
    row.filled = row.lo > 0;
    score_csv.cell(recurring.integer(r, "layer")).cell(recurring.integer(r, "expert")).cell(row.difference);
    score_csv.cell(row.lo).cell(row.hi).end_row();
    forest.push_back(row);
    rows.push_back(
        {recurring.text(r, "rank"), name, format_value(100 * recurring.number(r, "share_baseline"), 1) + " %"});
    for (const std::string& other : others) {
      std::string cell;
      for (size_t s = 0; s < regimes.n_rows(); ++s)
        if (regimes.text(s, "regime") == other && regimes.text(s, "layer") == recurring.text(r, "layer") &&
            regimes.text(s, "expert") == recurring.text(r, "expert"))
          cell = points_text(regimes.number(s, "diff"));
      rows.back().push_back(cell);
    }
    rows.back().push_back(recurring.text(r, "n_up"));
    rows.back().push_back(format_value(recurring.number(r, "persistence"), 3));
    rows.back().push_back(format_value(row.difference, 4) + " " + format_interval(row.lo, row.hi, 4));
  }
  if (rows.empty()) return "";
  std::vector<uint8_t> numeric(headings.size(), 1);
  numeric[1] = 0;
  return "<h2 id=\"recurring\">Experts that recur</h2>" +
         html_figure("scores",
                     "<div class=\"broad\">" + forest_plot(forest, "score") + "</div><div class=\"narrow\">" +
                         forest_plot(forest, "score", ForestForm::narrow) + "</div>",
                     "The first " + std::to_string(rows.size()) + " of " + std::to_string(recurring.n_rows()) +
                         " experts by the lower end of their score (rise over the baseline times persistence), with "
                         "95 % intervals. Filled: the interval lies above 0.",
                     score_csv.text()) +
         html_table(headings, numeric, rows);
}

std::string lengths_section(const ReportTable& lengths) {
  std::vector<std::vector<std::string>> rows;
  for (size_t r = 0; r < lengths.n_rows(); ++r)
    rows.push_back({html_escape(lengths.text(r, "regime")), lengths.text(r, "prompts"), lengths.text(r, "trajectories"),
                    format_value(lengths.number(r, "tokens"), 1) + " " +
                        format_interval(lengths.number(r, "ci_lo"), lengths.number(r, "ci_hi"), 1),
                    lengths.text(r, "shortest"), lengths.text(r, "longest")});
  return "<h2 id=\"lengths\">Lengths</h2>" +
         html_table({"regime", "prompts", "trajectories", "generated tokens [95 % CI]", "shortest", "longest"},
                    {0, 1, 1, 1, 1, 1}, rows);
}

}  // namespace

bool is_regimes_directory(const fs::path& dir) { return fs::exists(tables_of(dir) / "recurring.csv"); }

std::string render_regimes_report(const fs::path& dir) {
  const fs::path from = tables_of(dir);
  const ReportTable regimes(from / "regimes.csv"), recurring(from / "recurring.csv"), lengths(from / "lengths.csv");
  const json::Value summary_json = json::parse_file(from / "summary.json");
  const json::Ref summary(summary_json, (from / "summary.json").string());
  const std::string baseline = summary.at("baseline").string();
  const double level = summary.at("level").number();
  std::vector<std::string> others = regimes_in(regimes);
  std::erase(others, baseline);
  std::string sentences, maps;
  for (size_t i = 0; i < others.size(); ++i) {
    sentences += "<p>" + html_escape(regime_sentence(regimes, others[i], baseline, level)) + "</p>";
    maps += html_figure(
        "map-" + std::to_string(i), map_of(regimes, others[i], baseline, level),
        html_escape("Share of generated tokens that select each expert under " + others[i] + " minus under " +
                    baseline + ", in percentage points. Blue: more; orange: less. Small squares: q of at least " +
                    short_number(level) + "."),
        regimes.csv_where("regime", others[i]));
  }
  const std::string title = others.empty() ? baseline : abridged(others) + " against " + baseline;
  const std::string body =
      "<h2 id=\"found\">What was found</h2><div class=\"finding\">" + sentences +
      "<p>Different texts were written as well: use is no cause. Misroute or ban experts to learn what they do.</p>"
      "</div><h2 id=\"maps\">Where use differs</h2>" +
      maps + recurring_section(recurring, others, regimes) + lengths_section(lengths) +
      "<h2 id=\"run\">What was run</h2><details><summary>settings, counts, tests</summary><pre>" +
      html_escape(json::dump(summary_json, 2)) + "</pre></details>";
  return html_page("Regimes: " + title, "<h1>Regimes: " + html_escape(title) +
                                            "</h1><p id=\"question\">Which experts does each way of asking use more "
                                            "and less, token for token?</p>" +
                                            section_links(body) + body);
}

}  // namespace signalbox::eval
