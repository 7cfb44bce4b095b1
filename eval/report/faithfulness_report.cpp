#include "eval/report/faithfulness_report.h"

#include <cmath>
#include <optional>

#include "base/json.h"
#include "base/text.h"
#include "eval/findings/format.h"
#include "eval/findings/table.h"
#include "eval/report/charts.h"
#include "eval/report/faithfulness_headline.h"
#include "eval/report/page.h"
#include "eval/report/report_table.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

// A line of a curve's points over all lengths.
void add_line(std::vector<DoseLine>& lines, const ReportTable& curves, std::string_view test, const char* column,
              const std::string& name, const char* measure = nullptr) {
  DoseLine line{name, {}};
  const std::string lo = std::string(column) + "_lo", hi = std::string(column) + "_hi";
  for (size_t r = 0; r < curves.n_rows(); ++r) {
    if (curves.text(r, "test") != test || !curves.text(r, "sentences").empty()) continue;
    if (measure && curves.text(r, "measure") != measure) continue;
    const Estimate found = curves.estimate(r, column, lo, hi);
    if (std::isfinite(found.value)) line.points.push_back({curves.number(r, "x"), found.value, found.lo, found.hi});
  }
  if (!line.points.empty()) lines.push_back(std::move(line));
}

std::string curves_section(const ReportTable& curves, const ReportTable& areas,
                           const std::optional<ReportTable>& forced) {
  std::string out = "<h2 id=\"curves\">Curves</h2><div class=\"row\">";
  for (const FaithfulnessTest& test : faithfulness_tests) {
    const std::optional<CurveArea> area = area_of_test(areas, test.name);
    std::vector<DoseLine> lines;
    add_line(lines, curves, test.name, "same", "same answer as with the full explanation");
    add_line(lines, curves, test.name, "correct", "correct answer");
    if (forced) add_line(lines, *forced, test.name, "p", "p of that answer, forced", "own");
    if (lines.empty()) continue;
    std::string caption = "<b>" + std::string(test.title) + "</b>: " + test.does + ".";
    if (area)
      caption += " Area over the curve of same answers: " + html_escape(value_with_interval(area->area, 3)) +
                 ", n = " + std::to_string(area->n) + " explanations.";
    out += html_figure(std::string("curve-") + test.name, dose_plots(lines, test.axis, "share of answers", no_number),
                       caption, curves.csv_where("test", test.name));
  }
  return out + "</div>\n";
}

void warn_of(const json::Ref& counts, const char* key, const std::string& what, std::string& out) {
  if (const auto n = counts.find(key); n && n->integer() > 0)
    out += "<p>" + std::to_string(n->integer()) + " " + what + "</p>";
}

std::string cautions(const json::Ref& summary) {
  const json::Ref counts = summary.at("counts");
  std::string out;
  warn_of(counts, "outputs_without_marker", "outputs lack the marker of the answer and were left out.", out);
  warn_of(counts, "outputs_without_explanation", "outputs have no explanation before it and were left out.", out);
  warn_of(counts, "outputs_cut_at_max_tokens", "outputs were cut off by max_tokens.", out);
  warn_of(counts, "sentences_without_a_mistake", "sentences have no mistake: they count under no mistake.", out);
  warn_of(counts, "sentences_without_a_paraphrase", "sentences have no paraphrase and stay as they are.", out);
  warn_of(counts, "altered_explanations_too_long", "altered explanations do not fit the model and were left out.", out);
  return out.empty() ? "" : "<div class=\"warn\"><b>What to be careful with</b>" + out + "</div>\n";
}

// Every alteration: how often the answer stays, and how far its routes move.
std::string alterations(const ReportTable& routing) {
  using Kind = TableColumn::Kind;
  FindingsTable table;
  table.columns = {{"alteration", Kind::text, {}},
                   {"n", Kind::count, {}},
                   {"same answer [95 % CI]", Kind::estimate, {}, true},
                   {"correct [95 % CI]", Kind::estimate, {}, true},
                   {"Jaccard of the answer's routes [95 % CI]", Kind::estimate, {}, true},
                   {"same, minus random misrouting", Kind::difference, {}}};
  for (size_t r = 0; r < routing.n_rows(); ++r) {
    std::string name = routing.text(r, "test");
    if (!routing.text(r, "policy").empty()) name += " " + routing.text(r, "policy") + " " + routing.text(r, "fraction");
    const Estimate same = routing.estimate(r, "same", "same_lo", "same_hi");
    table.rows.push_back(
        {"",
         {name, routing.integer(r, "n"), same, routing.estimate(r, "correct", "correct_lo", "correct_hi"),
          routing.estimate(r, "jaccard", "jaccard_lo", "jaccard_hi"),
          routing.estimate(r, "beyond_random", "beyond_random_lo", "beyond_random_hi")}});
  }
  if (table.rows.empty()) return "";
  return "<h2 id=\"alterations\">Every alteration</h2><p class=\"small\">Jaccard: how much of the experts of the "
         "answer's tokens stays the same. Misrouting changes the routes of the explanation's tokens and no "
         "text.</p>" +
         html_table(table);
}

}  // namespace

bool is_faithfulness_directory(const fs::path& dir) {
  return fs::exists(dir / "aoc.csv") && fs::exists(dir / "curves.csv") && fs::exists(dir / "routing.csv");
}

std::string render_faithfulness_report(const fs::path& dir) {
  const ReportTable curves(dir / "curves.csv"), areas(dir / "aoc.csv"), routing(dir / "routing.csv");
  std::optional<ReportTable> forced, forced_areas;
  if (fs::exists(dir / "forced_curves.csv")) forced.emplace(dir / "forced_curves.csv");
  if (fs::exists(dir / "forced_aoc.csv")) forced_areas.emplace(dir / "forced_aoc.csv");
  const json::Value summary_json = json::parse_file(dir / "summary.json");
  const json::Ref summary(summary_json, (dir / "summary.json").string());
  const std::string body = faithfulness_found(summary, {areas, routing, forced_areas}) + cautions(summary) +
                           curves_section(curves, areas, forced) + alterations(routing) +
                           "<h2 id=\"run\">What was run</h2><details><summary>settings, counts, areas</summary><pre>" +
                           html_escape(json::dump(summary_json, 2)) + "</pre></details>";
  return html_page("Does the answer follow from the explanation?",
                   "<h1>Does the answer follow from the explanation?</h1>" + section_links(body) + body);
}

}  // namespace signalbox::eval
