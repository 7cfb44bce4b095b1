#include "eval/report/demo_report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>

namespace signalbox {

namespace {

std::string escape(const std::string& text) {
  std::string out;
  for (char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\n':
        out += "<br>";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string number(double value, const char* format) {
  char text[32];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

// White at 0, blue for positive, orange for negative values, full at +-scale: told apart without red and green.
std::string colour(double value, double scale) {
  const double share = std::min(1.0, std::abs(value) / scale);
  const int fade = static_cast<int>(255 - share * 175);
  char text[16];
  if (value >= 0) {
    std::snprintf(text, sizeof text, "#%02x%02xff", fade, static_cast<int>(255 - share * 120));
  } else {
    std::snprintf(text, sizeof text, "#ff%02x%02x", static_cast<int>(255 - share * 100), fade);
  }
  return text;
}

std::string heat_map(const DemoReport& report) {
  std::map<int32_t, std::vector<const RiskDifference*>> layers;
  double scale = 0.05;
  for (const RiskDifference& row : report.differences) {
    layers[row.layer].push_back(&row);
    scale = std::max(scale, std::abs(row.value()));
  }
  const auto is_banned = [&](const RiskDifference& row) {
    return std::any_of(report.banned.begin(), report.banned.end(), [&](const RiskDifference& banned) {
      return banned.layer == row.layer && banned.expert == row.expert;
    });
  };
  constexpr int cell = 34, left = 70, top = 30;
  size_t widest = 0;
  for (const auto& [layer, rows] : layers) widest = std::max(widest, rows.size());
  const int width = left + static_cast<int>(widest) * cell + 10,
            height = top + static_cast<int>(layers.size()) * cell + 10;
  std::string svg = "<svg viewBox=\"0 0 " + std::to_string(width) + " " + std::to_string(height) + "\" width=\"" +
                    std::to_string(width) + "\" role=\"img\" aria-label=\"risk difference of every expert\">";
  for (size_t e = 0; e < widest; ++e)
    svg += "<text x=\"" + std::to_string(left + static_cast<int>(e) * cell + cell / 2) +
           "\" y=\"20\" text-anchor=\"middle\">" + std::to_string(e) + "</text>";
  int y = top;
  for (const auto& [layer, rows] : layers) {
    svg += "<text x=\"" + std::to_string(left - 8) + "\" y=\"" + std::to_string(y + cell / 2 + 5) +
           "\" text-anchor=\"end\">layer " + std::to_string(layer) + "</text>";
    for (const RiskDifference* row : rows) {
      const int x = left + row->expert * cell;
      svg += "<rect x=\"" + std::to_string(x + 1) + "\" y=\"" + std::to_string(y + 1) + "\" width=\"" +
             std::to_string(cell - 2) + "\" height=\"" + std::to_string(cell - 2) + "\" fill=\"" +
             colour(row->value(), scale) + "\" stroke=\"" + (is_banned(*row) ? "#000" : "#ccc") + "\" stroke-width=\"" +
             (is_banned(*row) ? "3" : "1") + "\"><title>layer " + std::to_string(layer) + ", expert " +
             std::to_string(row->expert) + ": " + number(row->value(), "%+.3f") + "</title></rect>";
      svg += "<text class=\"small\" x=\"" + std::to_string(x + cell / 2) + "\" y=\"" +
             std::to_string(y + cell / 2 + 4) + "\" text-anchor=\"middle\">" + number(100 * row->value(), "%+.0f") +
             "</text>";
    }
    y += cell;
  }
  return svg + "</svg>";
}

}  // namespace

std::string render_demo_report(const DemoReport& report) {
  std::string html =
      "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Signalbox demo</title><style>"
      "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
      "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.3rem .7rem;border-bottom:1px solid "
      "#ddd;text-align:left;"
      "vertical-align:top}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}tr.base{font-weight:600}"
      ".bar{display:inline-block;height:.6rem;background:#5a8fd6;vertical-align:middle;margin-left:.4rem}"
      "svg text{font:13px system-ui,sans-serif;fill:#333}svg text.small{font-size:11px}.note{color:#666}"
      "</style></head><body><h1>Which experts does memory use?</h1>";
  html +=
      "<p>Model: " + escape(report.model) +
      ". Questions were asked with and without a document that answers them; the experts used most without one were "
      "switched off, and so were as many others drawn at random in the same layers.</p>";
  html += "<h2>What the interventions did</h2><table><tr><th>intervention</th>";
  for (size_t i = 0; i < report.columns.size(); ++i)
    html += "<th class=\"n\">" + escape(report.columns[i]) +
            "<br><span class=\"note\">n = " + std::to_string(report.counts[i]) + "</span></th>";
  html += "</tr>";
  for (size_t r = 0; r < report.rows.size(); ++r) {
    const ReportRow& row = report.rows[r];
    html += std::string("<tr") + (r == 0 ? " class=\"base\"" : "") + "><td>" + escape(row.name) +
            "<br><span class=\"note\">" + escape(row.description) + "</span></td>";
    for (double rate : row.rates)
      html += rate < 0
                  ? "<td class=\"n\"></td>"
                  : "<td class=\"n\">" + number(rate, "%.1f") +
                        " %<br><span class=\"bar\" style=\"width:" + number(rate * 0.6, "%.0f") + "px\"></span></td>";
    html += "</tr>";
  }
  html +=
      "</table><p class=\"note\">One run, no intervals: a first look, not a finding. The random rows show how much of "
      "an effect any experts would have had.</p>";
  html +=
      "<h2>Risk difference of every expert</h2><p>Share of question tokens that selected the expert without a document "
      "minus with one, in percentage points. Blue: used more without a document. A black frame: switched off.</p>";
  html += heat_map(report);
  if (!report.examples.empty()) {
    html +=
        "<h2>The same questions, before and after</h2><table><tr><th>question</th><th>baseline</th><th>experts "
        "switched off</th></tr>";
    for (const ReportExample& example : report.examples)
      html += "<tr><td>" + escape(example.question) + "</td><td>" + escape(example.baseline) + "</td><td>" +
              escape(example.edited) + "</td></tr>";
    html += "</table>";
  }
  return html + "</body></html>\n";
}

}  // namespace signalbox
