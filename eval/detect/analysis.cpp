#include "eval/detect/analysis.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <set>

#include "base/error.h"
#include "base/files.h"
#include "base/text_table.h"
#include "eval/data/prompt_hash.h"
#include "eval/detect/selection.h"
#include "eval/routing/route_tables.h"
#include "eval/store/facts.h"
#include "probes/ranking.h"

namespace signalbox::eval {

namespace fs = std::filesystem;

namespace {

json::Value row_json(const RiskDifference& row) {
  json::Value out = json::Value::object();
  out.set("layer", int64_t{row.layer}).set("expert", int64_t{row.expert}).set("rd", row.value());
  out.set("ci_lo", row.ci.lo).set("ci_hi", row.ci.hi).set("p", row.p).set("q", row.q);
  out.set("rd_example", row.rd_example).set("stable", row.stable).set("se", row.se);
  out.set("rd_shrunk", row.rd_shrunk).set("lfsr", row.lfsr);
  if (row.p_maxt >= 0) out.set("p_maxt", row.p_maxt);
  for (size_t i = 0; i < n_contributions; ++i) {
    const ContributionDifference& one = row.contributions[i];
    if (std::isnan(one.value)) continue;
    const std::string column(contribution_names[i].column), value = "rd_" + column;
    out.set(value, one.value).set(value + "_lo", one.ci.lo).set(value + "_hi", one.ci.hi);
    out.set("p_" + column, one.p).set("q_" + column, one.q);
  }
  return out;
}

// The contrast in words and its first experts by |rd|.
std::string contrast_table(const Detection& detection, const ContrastOptions& contrast, size_t top, int width) {
  const DetectionFacts& facts = detection.facts;
  char line[512];
  std::string text = contrast.a + " minus " + contrast.b;
  if (!contrast.span.empty()) text += ", span " + contrast.span;
  if (contrast.phase != Phase::all) text += std::string(", ") + phase_name(contrast.phase) + " tokens";
  if (contrast.length_match) text += ", length matched";
  std::snprintf(line, sizeof line,
                "\n%ld and %ld records (%ld complete pairs), %ld and %ld tokens; %ld resamples, seed %lu\n",
                static_cast<long>(facts.records_a), static_cast<long>(facts.records_b), static_cast<long>(facts.pairs),
                static_cast<long>(facts.tokens_a), static_cast<long>(facts.tokens_b),
                static_cast<long>(contrast.resamples), static_cast<unsigned long>(contrast.seed));
  text += line;
  const auto below =
      std::count_if(detection.rows.begin(), detection.rows.end(), [](const auto& row) { return row.q < 0.05; });
  std::snprintf(line, sizeof line, "%ld of %zu experts at q < 0.05\n", static_cast<long>(below), detection.rows.size());
  text += line;
  std::snprintf(line, sizeof line, "smallest p that these records and resamples allow: %.2g\n\n", facts.smallest_p);
  text += line;
  if (!facts.no_difference.empty()) return text + "Nothing to rank: " + facts.no_difference + ".\n";
  const auto format = [&line](const char* how, auto value) {
    std::snprintf(line, sizeof line, how, value);
    return std::string(line);
  };
  const auto share = [&](int64_t part, int64_t of) {
    return format("%.2f %%", 100 * static_cast<double>(part) / static_cast<double>(of));
  };
  std::vector<TextTable::Column> columns = {{"layer", true, true}, {"expert", true, true}};
  for (const char* heading : {"share A", "share B", "rd", "95 % interval", "p", "q", "stable", "shrunk"})
    columns.push_back({heading});
  if (contrast.family_wise) columns.push_back({"p_maxt"});
  TextTable table(std::move(columns));
  for (const RiskDifference& row : top_experts(detection.rows, top, 0)) {
    const bool defined = !std::isnan(row.ci.lo);
    std::vector<std::string> cells = {std::to_string(row.layer),
                                      std::to_string(row.expert),
                                      share(row.a1, facts.tokens_a),
                                      share(row.a2, facts.tokens_b),
                                      format("%+.4f", row.value()),
                                      "undefined",
                                      format("%.2g", row.p),
                                      format("%.2g", row.q),
                                      defined ? format("%.2f", row.stable) : "-",
                                      std::isnan(row.rd_shrunk) ? "-" : format("%+.4f", row.rd_shrunk)};
    if (defined) {
      std::snprintf(line, sizeof line, "[%+.4f, %+.4f]", row.ci.lo, row.ci.hi);
      cells[5] = line;
    }
    if (contrast.family_wise) cells.push_back(format("%.2g", row.p_maxt));
    table.add(std::move(cells));
  }
  text += table.text(width);
  return text + "\nMore often selected is not more important: ablate the candidates (docs/detection.md).\n";
}

// What experts give more under A than under B, each number by its own first experts.
std::string contribution_tables(const Detection& detection, size_t top) {
  std::string text;
  char line[160];
  for (size_t i = 0; i < n_contributions; ++i) {
    std::vector<RiskDifference> rows = detection.rows;
    std::erase_if(rows, [&](const auto& row) { return std::isnan(row.contributions[i].value); });
    if (rows.empty()) continue;
    std::sort(rows.begin(), rows.end(), [&](const auto& a, const auto& b) {
      return ranks_before({a.contributions[i].value, a.layer, a.expert}, {b.contributions[i].value, b.layer, b.expert},
                          Ranking::Sign::both);
    });
    rows.resize(std::min(top, rows.size()));
    const std::string name = "rd_" + std::string(contribution_names[i].column);
    std::snprintf(line, sizeof line, "\nlayer  expert        rd  %10s   95 %% interval               p        q\n",
                  name.c_str());
    text += line;
    for (const RiskDifference& row : rows) {
      const ContributionDifference& one = row.contributions[i];
      std::snprintf(line, sizeof line, "%5d  %6d  %+8.4f  %+10.4f  ", row.layer, row.expert, row.value(), one.value);
      text += line;
      if (std::isnan(one.ci.lo)) {
        std::snprintf(line, sizeof line, "%-22s", "undefined");
      } else {
        std::snprintf(line, sizeof line, "[%+9.4f, %+9.4f]", one.ci.lo, one.ci.hi);
      }
      text += line;
      std::snprintf(line, sizeof line, "  %7.2g  %7.2g\n", one.p, one.q);
      text += line;
    }
  }
  return text;
}

std::string marker_table(std::vector<MarkerAssociation> rows, size_t top) {
  std::erase_if(rows, [](const MarkerAssociation& row) { return std::isnan(row.value()); });
  std::stable_sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) { return a.value() > b.value(); });
  char line[160];
  std::snprintf(line, sizeof line, "%ld marker tokens of %ld\n\nlayer  expert      npmi   at markers     anywhere\n",
                static_cast<long>(rows.empty() ? 0 : rows[0].markers),
                static_cast<long>(rows.empty() ? 0 : rows[0].tokens));
  std::string text = line;
  for (size_t i = 0; i < std::min(top, rows.size()); ++i) {
    std::snprintf(line, sizeof line, "%5d  %6d  %+8.4f %12ld %12ld\n", rows[i].layer, rows[i].expert, rows[i].value(),
                  static_cast<long>(rows[i].at_markers), static_cast<long>(rows[i].selected));
    text += line;
  }
  return text;
}

json::Value marker_json(const Marker& marker, const MarkerAssociation& any) {
  json::Value out = json::Value::object();
  if (marker.token) {
    out.set("token", int64_t{*marker.token});
  } else {
    out.set("span", marker.span);
  }
  return out.set("markers", any.markers).set("tokens", any.tokens);
}

}  // namespace

ChosenContrast choose_contrast(const TraceSet& set, const std::string& given) {
  const std::vector<std::string> conditions = set.conditions();
  ChosenContrast out;
  if (!given.empty()) {
    const size_t colon = given.find(':');
    if (colon == std::string::npos || colon == 0 || colon + 1 == given.size())
      throw UsageError("--contrast", "expected A:B, found \"" + given + "\"");
    const auto is_known = [&](const std::string& name) {
      return std::find(conditions.begin(), conditions.end(), name) != conditions.end();
    };
    out = {true, given.substr(0, colon), given.substr(colon + 1), ""};
    for (size_t at = colon; at != std::string::npos; at = given.find(':', at + 1)) {
      const std::string a = given.substr(0, at), b = given.substr(at + 1);
      if (is_known(a) && is_known(b)) out = {true, a, b, ""};
    }
    return out;
  }
  if (conditions.size() == 2) {
    out = {true, conditions[0], conditions[1],
           "contrast: " + conditions[0] + " minus " + conditions[1] +
               ", the two conditions of the records (--contrast A:B to choose)"};
    return out;
  }
  out.note = "no rd.csv: the records have " + std::to_string(conditions.size()) +
             (conditions.size() == 1 ? " condition" : " conditions") + " (--contrast A:B compares two)";
  return out;
}

TraceAnalysis analyze_traces(const TraceSet& set, const AnalysisOptions& options) {
  const TokenFilter filter{options.detection.span, options.detection.phase};
  TraceAnalysis out;
  out.usage = usage_table(set, filter, options.detection.threads);
  out.contributions = contribution_table(set, filter);
  if (options.contrasted) out.detection = detect(set, options.detection);
  if (options.marked()) out.markers = marker_associations(set, options.marker, filter);

  if (out.detection) {
    out.summary = detection_summary(set, *out.detection, options.detection);
  } else {
    out.summary = json::Value::object();
    out.summary.set("schema", "signalbox.analysis/1").set("traces", traces_summary(set));
    out.summary.set("warnings", json::Value::array());
    PromptList prompts;
    for (const TraceRecord& record : set.records()) prompts.add(record.prompts);
    prompts.put(out.summary);
  }
  out.summary.set("span", filter.span.empty() ? json::Value() : json::Value(filter.span));
  out.summary.set("phase", phase_name(filter.phase)).set("tokens", out.usage[0].tokens);
  if (options.marked()) out.summary.set("marker", marker_json(options.marker, out.markers[0]));
  return out;
}

std::vector<std::string> analysis_files() {
  std::vector<std::string> files = {"usage.csv", "contribution.csv", "rd.csv", "npmi.csv", "summary.json"};
  for (const RouteTable& table : route_tables()) files.push_back(std::string(table.name) + ".csv");
  // Graphs that a report drew of older tables.
  for (const char* table : {"coactivation", "across_layers"})
    for (const char* format : {".dot", ".json", ".mmd"}) files.push_back(std::string(table) + format);
  return files;
}

void write_analysis(const TraceAnalysis& analysis, const fs::path& dir, const std::vector<std::string>& further) {
  write_usage_csv(dir / "usage.csv", analysis.usage);
  if (!analysis.contributions.empty()) write_contribution_csv(dir / "contribution.csv", analysis.contributions);
  if (analysis.detection) write_rd_csv(dir / "rd.csv", analysis.detection->rows);
  if (!analysis.markers.empty()) write_npmi_csv(dir / "npmi.csv", analysis.markers);
  std::set<fs::path> tables = {dir / "usage.csv"};
  if (!analysis.contributions.empty()) tables.insert(dir / "contribution.csv");
  if (analysis.detection) tables.insert(dir / "rd.csv");
  if (!analysis.markers.empty()) tables.insert(dir / "npmi.csv");
  for (const std::string& table : further) tables.insert(dir / (table + ".csv"));
  json::Value summary = analysis.summary;
  summary.set("tables", file_hashes(tables, dir));
  write_file_atomically(dir / "summary.json", json::dump(summary, 2) + "\n");
}

json::Value analysis_json(const TraceAnalysis& analysis, const fs::path& dir, size_t top) {
  json::Value out = analysis.summary;
  out.set("out", dir.string());
  if (!analysis.detection) return out;
  json::Value rows = json::Value::array();
  for (const RiskDifference& row : top_experts(analysis.detection->rows, top, 0)) rows.push_back(row_json(row));
  out.set("top", std::move(rows));
  return out;
}

std::string analysis_text(const TraceAnalysis& analysis, const AnalysisOptions& options, const fs::path& dir,
                          size_t top, int width) {
  std::string text;
  if (analysis.detection) {
    text += contrast_table(*analysis.detection, options.detection, top, width) + "\n";
    const std::string given = contribution_tables(*analysis.detection, top);
    if (!given.empty()) text += given.substr(1) + "\n";
  }
  if (!analysis.markers.empty()) text += marker_table(analysis.markers, top) + "\n";
  return text + "Tables: " + dir.string() + "\n";
}

}  // namespace signalbox::eval
