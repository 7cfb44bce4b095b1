#include "eval/report/detection_report.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <numeric>
#include <set>

#include "base/csv.h"
#include "base/text.h"
#include "eval/findings/format.h"
#include "eval/report/charts.h"
#include "eval/report/page.h"
#include "eval/report/routes_figures.h"

namespace signalbox::eval {

namespace {

constexpr size_t n_listed = 20;

std::string name_of(const RankedExpert& expert) {
  return "layer " + std::to_string(expert.layer) + ", expert " + std::to_string(expert.expert);
}

// The main interventions that name each expert.
using NamedBy = std::map<ExpertId, std::vector<std::string>>;

NamedBy named_by(const RunFindings* run) {
  NamedBy out;
  if (run)
    for (const Intervention& one : run->interventions)
      if (one.is_main())
        for (const ExpertId& expert : one.experts) out[expert].push_back(one.name);
  return out;
}

std::string map_of(const std::vector<RankedExpert>& ranking, const std::set<ExpertId>& audited, const NamedBy& named) {
  std::vector<HeatCell> cells;
  for (const RankedExpert& one : ranking) {
    HeatCell cell;
    cell.layer = one.layer;
    cell.expert = one.expert;
    cell.value = one.rd;
    cell.text = format_difference(100 * one.rd, 0);
    cell.significant = one.q < 0.05;
    const auto by = named.find({one.layer, one.expert});
    cell.framed = by != named.end();
    cell.dashed = !cell.framed && audited.contains({one.layer, one.expert});
    cell.title = name_of(one) + "\nrd " + format_difference(one.rd, 4) + " " +
                 format_interval(one.ci_lo, one.ci_hi, 4, true) + "\nq " + format_p(one.q) +
                 (cell.framed ? "\nnamed by " + abridged(by->second) : "");
    cells.push_back(std::move(cell));
  }
  return "<div class=\"wide\">" + heat_map(cells, "risk difference of every expert") + "</div>";
}

std::string effect_text(const AuditRow& row, int decimals) {
  return format_difference(row.effect.value, decimals) + " " +
         format_interval(row.effect.lo, row.effect.hi, decimals, true) + "<br/><span class=\"note\">q " +
         html_escape(format_p(row.q)) + "</span>";
}

std::string top_table(const std::vector<RankedExpert>& ranking, const std::vector<AuditRow>& audit,
                      const std::vector<RankedExpert>& held_out) {
  std::map<ExpertId, const RankedExpert*> held;
  for (const RankedExpert& one : held_out) held[{one.layer, one.expert}] = &one;
  std::vector<std::string> metrics;
  std::map<std::pair<std::string, ExpertId>, const AuditRow*> effects;
  std::set<ExpertId> audited;
  std::map<std::string, double> largest;
  for (const AuditRow& row : audit) {
    double& size = largest[row.metric];
    if (std::isfinite(row.effect.value)) size = std::max(size, std::abs(row.effect.value));
    if (std::find(metrics.begin(), metrics.end(), row.metric) == metrics.end()) metrics.push_back(row.metric);
    effects[{row.metric, ExpertId{row.expert.layer, row.expert.expert}}] = &row;
    audited.insert({row.expert.layer, row.expert.expert});
  }
  std::vector<std::string> headings = {"layer", "expert", "rd [95 % CI]", "q"};
  if (!held.empty()) headings.push_back("rd on test records");
  for (const std::string& metric : metrics) headings.push_back("effect on " + html_escape(metric));
  std::vector<std::vector<std::string>> rows;
  size_t listed = 0;
  for (const RankedExpert& one : by_magnitude(ranking)) {
    const bool has_effect = audited.contains({one.layer, one.expert});
    if (listed >= n_listed && !has_effect) continue;
    ++listed;
    rows.push_back({std::to_string(one.layer), std::to_string(one.expert),
                    format_difference(one.rd, 4) + " " + format_interval(one.ci_lo, one.ci_hi, 4, true),
                    html_escape(format_p(one.q))});
    if (!held.empty()) {
      const auto found = held.find({one.layer, one.expert});
      rows.back().push_back(found == held.end()
                                ? ""
                                : format_difference(found->second->rd, 4) + " " +
                                      format_interval(found->second->ci_lo, found->second->ci_hi, 4, true));
    }
    for (const std::string& metric : metrics) {
      const auto found = effects.find({metric, ExpertId{one.layer, one.expert}});
      rows.back().push_back(found == effects.end() ? "" : effect_text(*found->second, decimals_for(largest[metric])));
    }
  }
  return html_table(headings, std::vector<uint8_t>(headings.size(), 1), rows);
}

// One for each metric and condition; `audit` in the order of audit_rows_by_condition.
std::string scatters(const std::vector<AuditRow>& audit) {
  std::string out = "<div class=\"row\">";
  const bool by_condition =
      std::any_of(audit.begin(), audit.end(), [](const AuditRow& row) { return !row.condition.empty(); });
  for (size_t begin = 0, end = 0; begin < audit.size(); begin = end) {
    const std::string &metric = audit[begin].metric, &condition = audit[begin].condition;
    while (end < audit.size() && audit[end].metric == metric && audit[end].condition == condition) ++end;
    const std::vector<AuditRow> rows(audit.begin() + static_cast<int64_t>(begin),
                                     audit.begin() + static_cast<int64_t>(end));
    const AuditCorrelation correlation = audit_correlations(rows).front();
    std::vector<ScatterPoint> points;
    for (const AuditRow& row : rows)
      if (std::isfinite(row.expert.rd))
        points.push_back({row.expert.rd, row.effect.value, row.effect.lo, row.effect.hi,
                          name_of(row.expert) + "\nrd " + format_difference(row.expert.rd, 4) + ", effect " +
                              format_difference(row.effect.value, 4) + "\nq of the effect " + format_p(row.q),
                          row.q < 0.05});
    if (points.empty()) continue;
    const auto rho = [](const std::optional<double>& value) {
      return value ? format_difference(*value, 2) : std::string("undefined");
    };
    const std::string records = !by_condition ? "" : ", " + (condition.empty() ? "all records" : condition);
    out += "<div><h4>" + html_escape(metric + records) + "</h4>" + scatter_plot(points, "rd", "effect on " + metric) +
           "<p class=\"small\">Spearman of |rd| and |effect|: " + rho(correlation.spearman) +
           ", of rd and effect: " + rho(correlation.spearman_signed) + " (n = " + std::to_string(points.size()) +
           " experts)</p></div>";
  }
  return out + "</div>";
}

// Columns of an analysis file, and the one whose largest absolute values come first.
struct CsvView {
  const char* file;
  const char* title;
  std::vector<const char*> columns;
  const char* order;  // null: as they stand
  size_t n_rows;
};

std::string csv_section(const std::filesystem::path& dir, const CsvView& view) {
  if (!std::filesystem::exists(dir / view.file)) return "";
  const CsvTable table = CsvTable::read(dir / view.file);
  if (table.n_rows() == 0) return "";
  std::vector<size_t> order(table.n_rows());
  std::iota(order.begin(), order.end(), size_t{0});
  if (view.order) {
    const size_t column = table.column(view.order);
    std::vector<double> size(table.n_rows(), -1);
    for (size_t r = 0; r < size.size(); ++r)
      if (!table.text(r, column).empty()) size[r] = std::abs(table.number(r, column));
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return size[a] > size[b]; });
  }
  std::vector<std::string> headings;
  std::vector<uint8_t> numeric;
  for (const char* column : view.columns) {
    headings.push_back(html_escape(column));
    constexpr std::string_view texts[] = {"text", "condition_a", "condition_b", "label", "domain", "class"};
    numeric.push_back(std::find(std::begin(texts), std::end(texts), column) == std::end(texts));
  }
  std::vector<std::vector<std::string>> rows;
  for (size_t i = 0; i < std::min(order.size(), view.n_rows); ++i) {
    rows.emplace_back();
    for (size_t c = 0; c < view.columns.size(); ++c) {
      const std::string& text = table.text(order[i], table.column(view.columns[c]));
      const bool fraction = text.find_first_of(".eE") != std::string::npos;
      rows.back().push_back(html_escape(
          numeric[c] && fraction ? short_number(table.number(order[i], table.column(view.columns[c]))) : text));
    }
  }
  std::string out = std::string("<details><summary>") + view.title + "</summary><p class=\"note small\">" + view.file;
  if (order.size() > view.n_rows)
    out += ": " + std::to_string(view.n_rows) + " of " + std::to_string(order.size()) + " rows, largest |" +
           (view.order ? view.order : "") + "| first";
  return out + "</p>" + html_table(headings, numeric, rows) + "</details>";
}

const std::vector<CsvView>& views() {
  static const std::vector<CsvView> all = {
      {"balance.csv",
       "How evenly experts are used",
       {"layer", "domain", "entropy", "entropy_normalised", "load_balance"},
       nullptr,
       200},
      {"rd.csv", "Use under two conditions", {"layer", "expert", "rd", "ci_lo", "ci_hi", "p", "q"}, "rd", 50},
      {"npmi.csv", "Experts at marker tokens", {"layer", "expert", "k_n", "K_n", "M", "T", "npmi"}, "npmi", 20},
      {"domains.csv", "Domains", {"layer", "chi2", "df", "p", "cramers_v", "p_permutation"}, nullptr, 200},
      {"persistence.csv", "Persistence", {"layer", "expert", "rate", "p_stay", "lag1", "dwell_mean"}, "lag1", 20},
      {"transitions.csv", "Transitions", {"layer", "from", "to", "count", "probability"}, "count", 20},
      {"coactivation.csv",
       "Experts used together",
       {"layer", "expert_a", "expert_b", "count", "p_b_given_a", "p_a_given_b", "lift"},
       "count",
       20},
      {"vocabulary.csv",
       "Experts and tokens",
       {"layer", "expert", "token", "text", "count", "share", "pmi"},
       "pmi",
       20},
      {"across_layers.csv",
       "Across layers",
       {"layer_a", "expert_a", "layer_b", "expert_b", "jaccard", "phi"},
       "phi",
       20},
      {"similarity.csv",
       "Similarity of routes",
       {"condition_a", "condition_b", "layer", "jaccard", "jaccard_weighted", "instability"},
       nullptr,
       200},
      {"specialists.csv",
       "Specialists and generalists",
       {"layer", "expert", "label", "domain", "rate_ratio", "ci_lo", "ci_hi", "q", "effective_domains"},
       "rate_ratio",
       20},
      {"pipelines.csv",
       "Pipelines",
       {"pipeline", "step", "layer", "expert", "domain", "phi", "q", "phi_partial", "p_partial"},
       nullptr,
       60},
      {"taxonomy.csv",
       "Experts and kinds of tokens",
       {"layer", "expert", "class", "count", "rate_ratio", "ci_lo", "ci_hi", "q", "replicated"},
       "rate_ratio",
       20},
      {"modularity.csv",
       "Groups of experts",
       {"layer", "communities", "modularity", "held_out", "p", "q"},
       nullptr,
       200},
      {"margins.csv",
       "Margins of the choice",
       {"layer", "domain", "tokens", "p5", "median", "p95", "below_0.001", "below_0.01", "below_0.1"},
       nullptr,
       200},
      {"drift.csv",
       "Change over a generation",
       {"layer", "samples", "tokens", "chi2", "cramers_v", "p", "q"},
       nullptr,
       200}};
  return all;
}

}  // namespace

std::pair<std::string, std::string> conditions_of(const std::filesystem::path& dir) {
  std::pair<std::string, std::string> out = {"the first condition", "the second"};
  if (!std::filesystem::exists(dir / "summary.json")) return out;
  const json::Value summary = json::parse_file(dir / "summary.json");
  if (const auto contrast = json::Ref(summary, (dir / "summary.json").string()).find("contrast"))
    out = {contrast->at("a").string(), contrast->at("b").string()};
  return out;
}

std::string ranking_section(const std::string& title, const std::pair<std::string, std::string>& conditions,
                            const std::vector<RankedExpert>& ranking, const std::vector<AuditRow>& audit,
                            const std::vector<RankedExpert>& held_out, const RunFindings* run) {
  const NamedBy named = named_by(run);
  std::set<ExpertId> audited;
  std::vector<AuditRow> pooled;
  std::copy_if(audit.begin(), audit.end(), std::back_inserter(pooled),
               [](const AuditRow& row) { return row.condition.empty(); });
  for (const AuditRow& row : audit) audited.insert({row.expert.layer, row.expert.expert});
  std::string out = "<h3>" + html_escape(title) + "</h3>";
  out += "<p class=\"small\">Risk difference (rd): share of tokens that select the expert under " +
         html_escape(conditions.first) + " minus under " + html_escape(conditions.second) +
         "; in the map in percentage points. Blue: used more under " + html_escape(conditions.first) +
         "; orange: under " + html_escape(conditions.second) + ". A dot: q &lt; 0.05.";
  if (!named.empty()) out += " A frame: named by an intervention (hover says by which).";
  if (!audited.empty()) out += " A dashed frame: only ablated by itself in the audit.";
  out += "</p>" + map_of(ranking, audited, named);
  if (audit.empty()) {
    out +=
        "<div class=\"warn\"><p>This ranking says where use differs, not what the experts do. No causal audit was run "
        "(key \"audit\" of the spec: ablates each candidate by itself), so do not report these as the experts "
        "responsible.</p></div>";
  } else {
    out +=
        "<p class=\"small\">Effect: what ablating this expert alone changed, intervention minus baseline. Where rd and "
        "effect do not go together, the ranking shows use, not cause.</p>" +
        scatters(audit);
  }
  if (!held_out.empty())
    out +=
        "<p class=\"small\">The first of a ranking are first partly by luck. rd on test records: the same contrast on "
        "records that had no part in the ranking.</p>";
  return out + top_table(ranking, pooled, held_out);
}

std::string tables_section(const std::filesystem::path& dir) {
  std::string out;
  for (const CsvView& view : views()) out += csv_section(dir, view);
  return out;
}

std::string analysis_sections(const std::filesystem::path& dir, const RunFindings* run) {
  std::string out;
  if (std::filesystem::exists(dir / "rd.csv")) {
    const std::vector<RankedExpert> ranking = read_ranking(dir / "rd.csv");
    out += ranking_section("Use of experts under two conditions", conditions_of(dir), ranking,
                           run ? audit_rows_by_condition(*run, ranking) : std::vector<AuditRow>(), {}, run);
  }
  return out + routes_figures(dir, false).html;
}

}  // namespace signalbox::eval
