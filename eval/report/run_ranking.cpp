#include "eval/report/run_ranking.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "base/csv.h"
#include "base/text.h"
#include "eval/findings/format.h"
#include "eval/report/charts.h"
#include "eval/report/findings_index.h"
#include "eval/report/page.h"

namespace signalbox::eval {

namespace {

constexpr double level = 0.05;
constexpr size_t n_ranked = 20, n_labelled = 6;

std::string short_name(const ExpertId& expert) {
  return "L" + std::to_string(expert.layer) + "E" + std::to_string(expert.expert);
}
ExpertId id_of(const RankedExpert& one) { return {one.layer, one.expert}; }

std::string rd_text(const RankedExpert& one) {
  return format_difference(one.rd, 4) + " " + format_interval(one.ci_lo, one.ci_hi, 4, true);
}

std::string percent_text(double share) {
  return std::isfinite(share) ? format_value(100 * share, 2) + " %" : "undefined";
}

// "share of question tokens among the given ones that select the expert"
std::string counted(const RankedUse& use) {
  std::string out = use.span.empty() ? "share of tokens" : "share of " + use.span + " tokens";
  if (use.phase == "generated") out = use.span.empty() ? "share of generated tokens" : out + " (generated)";
  if (use.phase == "given" && use.span.empty()) out = "share of given tokens";
  return out + " that select the expert";
}

struct Marks {
  std::map<ExpertId, std::vector<std::string>> named_by;  // main interventions
  std::set<ExpertId> audited;
};

Marks marks_of(const RunFindings& run) {
  Marks out;
  for (const Intervention& one : run.interventions) {
    if (one.audited) out.audited.insert(*one.audited);
    if (one.is_main())
      for (const ExpertId& expert : one.experts) out.named_by[expert].push_back(one.name);
  }
  return out;
}

std::string hover_of(const RankingView& view, const RankedExpert& one, const Marks& marks) {
  std::string out = short_name(id_of(one)) + "\nselected by " + percent_text(one.share_a) + " of tokens under " +
                    view.use.a + ",\n" + percent_text(one.share_b) + " under " + view.use.b + "\nrd " + rd_text(one) +
                    "\nq " + format_p(one.q);
  if (const auto by = marks.named_by.find(id_of(one)); by != marks.named_by.end())
    out += "\nnamed by " + abridged(by->second);
  if (marks.audited.contains(id_of(one))) out += "\naudited";
  return out;
}

std::string ranking_csv(const std::vector<RankedExpert>& experts, const Marks& marks) {
  CsvWriter csv({"layer", "expert", "share_a", "share_b", "rd", "ci_lo", "ci_hi", "p", "q", "named_by", "audited"});
  for (const RankedExpert& one : experts) {
    const auto by = marks.named_by.find(id_of(one));
    csv.cell(int64_t{one.layer}).cell(int64_t{one.expert}).cell(one.share_a).cell(one.share_b).cell(one.rd);
    csv.cell(one.ci_lo).cell(one.ci_hi).cell(one.p).cell(one.q);
    csv.cell(by == marks.named_by.end() ? std::string() : joined(by->second, " "));
    csv.cell(int64_t{marks.audited.contains(id_of(one))});
    csv.end_row();
  }
  return csv.text();
}

// The map of one number of every expert, in `unit`s of the text in its cells.
template <class ValueOf>
std::string map_of(const RankingView& view, const Marks& marks, const std::string& label, double unit,
                   ValueOf value_of) {
  std::vector<HeatCell> cells;
  for (const RankedExpert& one : view.experts) {
    HeatCell cell;
    cell.layer = one.layer;
    cell.expert = one.expert;
    cell.value = value_of(one);
    if (unit > 0) cell.text = format_difference(unit * cell.value, 0);
    cell.small = unit > 0 && !(one.q < level);
    cell.framed = marks.named_by.contains(id_of(one));
    cell.dashed = !cell.framed && marks.audited.contains(id_of(one));
    cell.title = hover_of(view, one, marks);
    if (unit <= 0) cell.title += "\n" + label + " " + short_number(cell.value);
    cells.push_back(std::move(cell));
  }
  return heat_map(cells, label);
}

std::string map_caption(const RankingView& view, const Marks& marks) {
  size_t small = 0, named = 0, only_audited = 0;
  for (const RankedExpert& one : view.experts) {
    small += !(one.q < level);
    named += marks.named_by.contains(id_of(one));
    only_audited += marks.audited.contains(id_of(one)) && !marks.named_by.contains(id_of(one));
  }
  std::string out = "Risk difference (rd) of every expert, in percentage points: " + counted(view.use) + " under " +
                    view.use.a + " (blue: more) minus under " + view.use.b + " (orange: more).";
  if (small > 0)
    out += " Small squares: the " + std::to_string(small) + " of " + std::to_string(view.experts.size()) +
           " experts with q of at least 0.05.";
  if (named > 0) out += " A solid frame: named by an intervention (" + std::to_string(named) + ").";
  if (only_audited > 0)
    out += " A dashed frame: only ablated by itself in the audit (" + std::to_string(only_audited) + ").";
  return out;
}

std::string by_layer(const RankingView& view) {
  std::map<int32_t, double> total;
  for (const RankedExpert& one : view.experts)
    if (std::isfinite(one.rd)) total[one.layer] += std::abs(one.rd);
  if (total.size() < 2) return "";
  DoseLine line{"total |rd| of a layer's experts", {}};
  CsvWriter csv({"layer", "total_rd"});
  for (const auto& [layer, sum] : total) {
    line.points.push_back({static_cast<double>(layer), sum, no_number, no_number});
    csv.cell(int64_t{layer}).cell(sum).end_row();
  }
  return html_figure(view.id + "-layers", dose_plots({line}, "layer", "total |rd|", no_number),
                     "Where in the model use differs: |rd| summed over the experts of each layer.", csv.text());
}

// Those that stand out: the largest by `size_of`.
template <class Points, class SizeOf>
std::set<size_t> outliers(const Points& points, SizeOf size_of) {
  std::vector<size_t> order;
  for (size_t i = 0; i < points.size(); ++i)
    if (std::isfinite(size_of(points[i])) && size_of(points[i]) > 0) order.push_back(i);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return size_of(points[a]) > size_of(points[b]); });
  order.resize(std::min(order.size(), n_labelled));
  return {order.begin(), order.end()};
}

std::string volcano(const RankingView& view, const Marks& marks) {
  std::vector<ScatterPoint> points;
  std::vector<const RankedExpert*> experts;
  for (const RankedExpert& one : view.experts) {
    if (!std::isfinite(one.rd) || !(one.q > 0)) continue;
    points.push_back({one.rd, -std::log10(one.q), no_number, no_number, hover_of(view, one, marks), one.q < level});
    experts.push_back(&one);
  }
  if (points.empty()) return "";
  for (const size_t i : outliers(points, [](const ScatterPoint& point) { return std::abs(point.x); }))
    points[i].label = short_name(id_of(*experts[i]));
  const auto shown = std::count_if(points.begin(), points.end(), [](const auto& point) { return point.significant; });
  return html_figure(view.id + "-volcano", scatter_plot(points, "rd", "\xE2\x88\x92log10 q"),
                     std::to_string(shown) + " of " + std::to_string(points.size()) +
                         " experts have q below 0.05 (filled). q has a floor, that of the number of resamples.",
                     ranking_csv(view.experts, marks));
}

std::string ranked_intervals(const RankingView& view, const Marks& marks) {
  std::vector<ForestRow> rows;
  std::vector<RankedExpert> first = by_magnitude(view.experts);
  first.resize(std::min(first.size(), n_ranked));
  for (const RankedExpert& one : first) {
    ForestRow row;
    row.name = short_name(id_of(one));
    row.difference = one.rd;
    row.lo = one.ci_lo;
    row.hi = one.ci_hi;
    row.q = one.q;
    const auto by = marks.named_by.find(id_of(one));
    row.place = by != marks.named_by.end()           ? "in " + abridged(by->second, 1)
                : marks.audited.contains(id_of(one)) ? "audited"
                                                     : "";
    row.description = hover_of(view, one, marks);
    rows.push_back(std::move(row));
  }
  return html_figure(view.id + "-ranked",
                     "<div class=\"broad\">" + forest_plot(rows, "rd") + "</div><div class=\"narrow\">" +
                         forest_plot(rows, "rd", ForestForm::narrow) + "</div>",
                     "The " + std::to_string(rows.size()) +
                         " experts with the largest |rd|, with 95 % intervals. The first of a ranking are first partly "
                         "by luck.",
                     ranking_csv(first, marks));
}

// One for each metric and condition; `audit` in the order of audit_rows_by_condition.
std::string effect_scatters(const RankingView& view) {
  const std::vector<AuditRow>& audit = view.audit;
  std::string out = "<div class=\"row\">";
  const bool apart =
      std::any_of(audit.begin(), audit.end(), [](const AuditRow& row) { return !row.condition.empty(); });
  size_t number = 0;
  std::vector<std::string> unmoved;
  for (size_t begin = 0, end = 0; begin < audit.size(); begin = end) {
    const std::string &metric = audit[begin].metric, &condition = audit[begin].condition;
    while (end < audit.size() && audit[end].metric == metric && audit[end].condition == condition) ++end;
    const std::vector<AuditRow> rows(audit.begin() + static_cast<int64_t>(begin),
                                     audit.begin() + static_cast<int64_t>(end));
    const AuditCorrelation correlation = audit_correlations(rows).front();
    std::vector<ScatterPoint> points;
    std::vector<std::string> names;
    CsvWriter csv({"layer", "expert", "rd", "effect", "ci_lo", "ci_hi", "q"});
    for (const AuditRow& row : rows) {
      if (!std::isfinite(row.expert.rd)) continue;
      const std::string name = short_name(id_of(row.expert));
      points.push_back({row.expert.rd, row.effect.value, row.effect.lo, row.effect.hi,
                        name + "\nrd " + format_difference(row.expert.rd, 4) + ", effect " +
                            format_difference(row.effect.value, 4) + "\nq of the effect " + format_p(row.q),
                        row.q < level});
      names.push_back(name);
      csv.cell(int64_t{row.expert.layer}).cell(int64_t{row.expert.expert}).cell(row.expert.rd).cell(row.effect.value);
      csv.cell(row.effect.lo).cell(row.effect.hi).cell(row.q).end_row();
    }
    if (points.empty()) continue;
    const std::string records = apart ? ", " + records_name(condition) : "";
    if (std::all_of(points.begin(), points.end(), [](const ScatterPoint& point) { return point.y == 0; })) {
      unmoved.push_back(metric + records);
      continue;
    }
    for (const size_t i : outliers(points, [](const ScatterPoint& point) { return std::abs(point.y); }))
      points[i].label = names[i];
    const auto rho = [](const std::optional<double>& value) {
      return value ? format_difference(*value, 2) : std::string("undefined");
    };
    out += html_figure(view.id + "-effect-" + std::to_string(number++),
                       scatter_plot(points, "rd", "effect on " + metric + records),
                       html_escape(metric + records) + ": what ablating each of " + std::to_string(points.size()) +
                           " experts alone changes. Spearman of |rd| and |effect|: " + rho(correlation.spearman) +
                           ", of rd and effect: " + rho(correlation.spearman_signed) + ".",
                       csv.text());
  }
  out += "</div>";
  if (!unmoved.empty())
    out += "<p class=\"small\">Ablating any audited expert alone changes nothing in " +
           html_escape(joined(unmoved, "; ")) + ".</p>";
  return out;
}

std::string effect_cell(const AuditRow& row, int decimals) {
  return html_escape(format_difference(row.effect.value, decimals) + " " +
                     format_interval(row.effect.lo, row.effect.hi, decimals, true)) +
         "<br/><span class=\"note\">q " + html_escape(format_p(row.q)) + "</span>";
}

// The first experts and all that were audited: rd, what they give, rd on other records, effects by metric and
// condition.
std::string top_table(const RankingView& view) {
  std::map<ExpertId, const RankedExpert*> held;
  for (const RankedExpert& one : view.held_out) held[id_of(one)] = &one;
  std::vector<std::pair<std::string, std::string>> effects;  // metric, condition
  std::map<std::string, double> largest;
  std::map<std::pair<ExpertId, std::pair<std::string, std::string>>, const AuditRow*> found;
  std::set<ExpertId> audited;
  for (const AuditRow& row : view.audit) {
    const std::pair key(row.metric, row.condition);
    if (std::find(effects.begin(), effects.end(), key) == effects.end()) effects.push_back(key);
    if (std::isfinite(row.effect.value))
      largest[row.metric] = std::max(largest[row.metric], std::abs(row.effect.value));
    found[{id_of(row.expert), key}] = &row;
    audited.insert(id_of(row.expert));
  }
  const bool apart =
      std::any_of(effects.begin(), effects.end(), [](const auto& effect) { return !effect.second.empty(); });
  std::vector<std::string> headings = {"expert", html_escape("share under " + view.use.a),
                                       html_escape("under " + view.use.b), "rd [95 % CI]", "q"};
  std::vector<size_t> given;
  for (size_t i = 0; i < n_contributions; ++i)
    if (std::any_of(view.experts.begin(), view.experts.end(),
                    [&](const RankedExpert& one) { return std::isfinite(one.given[i]); })) {
      given.push_back(i);
      headings.push_back("rd of " + std::string(contribution_names[i].name));
    }
  if (!held.empty()) headings.push_back("rd on test records");
  for (const auto& [metric, condition] : effects)
    headings.push_back(html_escape("effect on " + metric + (apart ? ", " + records_name(condition) : "")));
  std::vector<std::vector<std::string>> rows;
  for (const RankedExpert& one : by_magnitude(view.experts)) {
    if (rows.size() >= n_ranked && !audited.contains(id_of(one))) continue;
    rows.push_back({short_name(id_of(one)), percent_text(one.share_a), percent_text(one.share_b),
                    html_escape(rd_text(one)), html_escape(format_p(one.q))});
    for (const size_t i : given)
      rows.back().push_back(std::isfinite(one.given[i]) ? html_escape(short_number(one.given[i])) : "-");
    if (!held.empty()) {
      const auto other = held.find(id_of(one));
      rows.back().push_back(other == held.end() ? "" : html_escape(rd_text(*other->second)));
    }
    for (const auto& effect : effects) {
      const auto row = found.find({id_of(one), effect});
      rows.back().push_back(row == found.end() ? "" : effect_cell(*row->second, decimals_for(largest[effect.first])));
    }
  }
  std::vector<uint8_t> numeric(headings.size(), 1);
  numeric[0] = 0;
  return "<details><summary>the first experts as a table</summary>" + html_table(headings, numeric, rows) +
         "</details>\n";
}

std::string given_maps(const RankingView& view, const Marks& marks) {
  std::string out;
  for (size_t i = 0; i < n_contributions; ++i) {
    if (std::none_of(view.experts.begin(), view.experts.end(),
                     [&](const RankedExpert& one) { return std::isfinite(one.given[i]); }))
      continue;
    const std::string name(contribution_names[i].name);
    out += "<details><summary>the same map by what experts give: " + name + "</summary>" +
           html_figure(view.id + "-" + name,
                       map_of(view, marks, name, 0, [i](const RankedExpert& one) { return one.given[i]; }),
                       "Mean of " + name + " a token under " + html_escape(view.use.a) + " (blue: more) minus under " +
                           html_escape(view.use.b) + " (orange: more); hover for the numbers.") +
           "</details>\n";
  }
  return out;
}

}  // namespace

RankedUse ranked_use(const std::filesystem::path& dir) {
  RankedUse out = {"the first condition", "the second", "", ""};
  if (!std::filesystem::exists(dir / "summary.json")) return out;
  const json::Value summary = json::parse_file(dir / "summary.json");
  const auto contrast = json::Ref(summary, (dir / "summary.json").string()).find("contrast");
  if (!contrast) return out;
  out.a = contrast->at("a").string();
  out.b = contrast->at("b").string();
  if (const auto span = contrast->find("span")) out.span = span->string();
  if (const auto phase = contrast->find("phase")) out.phase = phase->string();
  return out;
}

std::string ranking_figures(const RankingView& view, const RunFindings& run) {
  const Marks marks = marks_of(run);
  std::string out = "<h3>" + html_escape(view.title) + "</h3>";
  out += html_figure(
      view.id + "-map",
      map_of(view, marks, "risk difference of every expert", 100, [](const RankedExpert& one) { return one.rd; }),
      html_escape(map_caption(view, marks)), ranking_csv(view.experts, marks));
  out += given_maps(view, marks);
  out += "<div class=\"row\">" + by_layer(view) + volcano(view, marks) + "</div>" + ranked_intervals(view, marks);
  if (view.audit.empty())
    out +=
        "<div class=\"warn\"><p>This ranking says where use differs, not what the experts do. No causal audit was run "
        "(key \"audit\" of the spec: ablates each candidate by itself), so do not report these as the experts "
        "responsible.</p></div>";
  else
    out += "<p class=\"small\">Where rd and effect do not go together, the ranking shows use, not cause.</p>" +
           effect_scatters(view);
  if (!view.held_out.empty())
    out += "<p class=\"small\">rd on test records: the same contrast on records that had no part in the ranking.</p>";
  return out + top_table(view);
}

}  // namespace signalbox::eval
