#include "eval/report/charts.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <map>

#include "base/display_width.h"
#include "base/text.h"
#include "eval/findings/format.h"
#include "eval/report/drawing.h"

namespace signalbox::eval {

using namespace drawing;

const char* const chart_style = R"(
svg{max-width:100%;height:auto}.wide svg{max-width:none}.wide{overflow-x:auto}
svg text{font:13px system-ui,sans-serif;fill:var(--text)}svg text.s{font-size:11px;fill:var(--soft)}svg text.b{font-weight:600}
svg .axis{stroke:var(--line)}svg .zero{stroke:var(--soft);stroke-dasharray:3 3}svg .band{fill:var(--band)}
svg .ctl{fill:var(--soft);fill-opacity:.55}svg .ctl2{fill:none;stroke:var(--soft)}svg .bot{fill:none;stroke:var(--neg)}
svg .ci{stroke:var(--pos);stroke-width:2}svg .dot{fill:var(--pos);stroke:var(--pos);stroke-width:2}
svg .hollow{fill:var(--back);stroke:var(--pos);stroke-width:2}svg .hit{fill:transparent}svg .hit:hover{fill:var(--hover)}
svg .cell{stroke:var(--line)}svg .up{fill:var(--pos)}svg .down{fill:var(--neg)}svg .frame{stroke:var(--text);stroke-width:2.5}svg .dashed{stroke-dasharray:4 3}
svg .mark{fill:var(--text)}svg .cell:hover{stroke:var(--text);stroke-width:2}svg text.in{font-size:11px;fill:var(--text);pointer-events:none}svg .mark{pointer-events:none}
svg .l0{stroke:#1f78b4;fill:#1f78b4}svg .l1{stroke:#e6760d;fill:#e6760d}svg .l2{stroke:#1b9e77;fill:#1b9e77}
svg .l3{stroke:#b0449f;fill:#b0449f}svg .l4{stroke:#8c7300;fill:#8c7300}svg .l5{stroke:#5b6ee1;fill:#5b6ee1}
svg polyline[points]{fill:none}svg .open{fill:var(--back);stroke-width:2}svg polygon{stroke-width:0;fill-opacity:.15}
)";

namespace {

// Values to places on an axis.
struct Scale {
  double lo, hi, from, to;
  double at(double value) const { return from + (value - lo) / (hi - lo) * (to - from); }
  double within(double value) const { return std::clamp(at(value), std::min(from, to), std::max(from, to)); }
};

// The span of values with some room; never of no width.
Scale scale_over(const std::vector<double>& values, double from, double to) {
  double lo = INFINITY, hi = -INFINITY;
  for (double value : values)
    if (std::isfinite(value)) {
      lo = std::min(lo, value);
      hi = std::max(hi, value);
    }
  if (!(lo <= hi)) lo = -1, hi = 1;
  if (hi - lo < 1e-12 * std::max(1.0, std::abs(hi))) {
    const double room = std::max(std::abs(hi) * 0.1, 0.05);
    lo -= room;
    hi += room;
  }
  const double room = (hi - lo) * 0.05;
  return {lo - room, hi + room, from, to};
}

std::string clipped(const std::string& text, size_t most) {
  if (display_width(text) <= most) return text;
  return std::string(beginning_of(text, most - 1)) + "\xE2\x80\xA6";
}

std::string forest_numbers(const ForestRow& row, int decimals) {
  return format_difference(row.difference, decimals) + " " + format_interval(row.lo, row.hi, decimals, true);
}

std::string forest_hover(const ForestRow& row, int decimals) {
  std::string out = row.name + (row.description.empty() ? "" : ": " + row.description) + "\n" +
                    forest_numbers(row, decimals) + (std::isfinite(row.q) ? ", q = " + format_p(row.q) : "");
  if (!row.random.empty())
    out += "\nrandom controls " + format_interval(row.band_lo, row.band_hi, decimals, true) + ", place " + row.place;
  return out;
}

}  // namespace

std::vector<double> nice_ticks(double lo, double hi, int wanted) {
  if (!(hi > lo) || !std::isfinite(lo) || !std::isfinite(hi)) return {lo};
  const double rough = (hi - lo) / std::max(wanted, 1), power = std::pow(10, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (double factor : {1.0, 2.0, 5.0})
    if (rough <= factor * power) {
      step = factor * power;
      break;
    }
  std::vector<double> out;
  for (double k = std::ceil(lo / step - 1e-9); k * step <= hi + 1e-9 * step; ++k) out.push_back(k == 0 ? 0 : k * step);
  return out;
}

std::string forest_plot(const std::vector<ForestRow>& rows, const std::string& axis, ForestForm form) {
  const bool narrow = form == ForestForm::narrow;
  constexpr double top = 12, bottom = 44;
  const double row_height = narrow ? 58 : 26, right = narrow ? 10 : 330, plot_width = narrow ? 330 : 420;
  size_t widest = 0;
  for (const ForestRow& row : rows)
    if (!row.heading) widest = std::max(widest, display_width(row.name));
  const double left = narrow ? 10 : 24 + 7.2 * static_cast<double>(std::clamp<size_t>(widest, 8, 44));
  const double width = left + plot_width + right, plot_right = width - right;
  double height = top + bottom;
  for (const ForestRow& row : rows) height += row.heading ? 26 : row_height;
  const double base = height - bottom;
  std::vector<double> values = {0};
  for (const ForestRow& row : rows) {
    if (row.heading) continue;
    for (double value : {row.difference, row.lo, row.hi, row.band_lo, row.band_hi}) values.push_back(value);
    for (const auto* controls : {&row.random, &row.matched, &row.bottom})
      values.insert(values.end(), controls->begin(), controls->end());
  }
  const Scale x = scale_over(values, left, plot_right);
  const int decimals = decimals_for(std::max(std::abs(x.lo), std::abs(x.hi)));
  std::string svg = open_svg(width, height, axis + ", with 95 % intervals");
  for (double tick : nice_ticks(x.lo, x.hi, narrow ? 4 : 6)) {
    svg += line("axis", x.at(tick), top, x.at(tick), base + 4);
    svg += words("s", x.at(tick), base + 18, "middle", short_number(tick));
  }
  svg += line("zero", x.at(0), top, x.at(0), base) + line("axis", left, base, plot_right, base);
  svg += words("s", (left + plot_right) / 2, height - 8, "middle", axis);
  double above = top;
  for (const ForestRow& row : rows) {
    if (row.heading) {
      svg += words("b", 2, above + 17, "start", narrow ? clipped(row.name, 46) : row.name);
      above += 26;
      continue;
    }
    const double y = above + (narrow ? 29 : row_height / 2);
    above += row_height;
    svg += narrow ? words("", left, y - 14, "start", clipped(row.name, 46))
                  : words("", left - 10, y + 4, "end", clipped(row.name, 44));
    if (std::isfinite(row.band_lo))
      svg += rect("band", x.at(row.band_lo), y - 9, std::max(1.0, x.at(row.band_hi) - x.at(row.band_lo)), 18);
    for (double value : row.random) svg += circle("ctl", x.at(value), y, 2.6);
    for (double value : row.matched) svg += circle("ctl2", x.at(value), y, 2.6);
    for (double value : row.bottom) svg += rect("bot", x.at(value) - 3, y - 3, 6, 6);
    const double numbers_y = narrow ? y + 22 : y + 4;
    if (std::isfinite(row.difference)) {
      if (std::isfinite(row.lo)) svg += line("ci", x.at(row.lo), y, x.at(row.hi), y);
      svg += circle(row.filled || row.q < 0.05 ? "dot" : "hollow", x.at(row.difference), y, 4.5);
      svg += words("s", narrow ? left : plot_right + 12, numbers_y, "start", forest_numbers(row, decimals));
      if (std::isfinite(row.q))
        svg += words("s", narrow ? left + 180 : plot_right + 190, numbers_y, "start", "q " + format_p(row.q));
      svg += words("s", narrow ? left + 250 : plot_right + 262, numbers_y, "start", row.place);
    } else {
      svg += words("s", narrow ? left : plot_right + 12, numbers_y, "start", "undefined");
    }
    svg += rect("hit", left, y - row_height / 2, plot_right - left, row_height, forest_hover(row, decimals));
  }
  return svg + "</svg>";
}

namespace {

// Lines of at most `most` columns, broken at spaces; a word that is longer is cut.
std::vector<std::string> folded(const std::string& text, size_t most) {
  std::vector<std::string> out(1);
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(' ', at), text.size());
    const std::string word = clipped(text.substr(at, end - at), most);
    if (!out.back().empty() && display_width(out.back()) + 1 + display_width(word) > most) out.emplace_back();
    out.back() += (out.back().empty() ? "" : " ") + word;
    at = end + 1;
  }
  return out;
}

// What tells the lines of a plot apart besides their colours. Later lines are drawn above the earlier ones, narrower,
// with gaps and with smaller marks, so that one that coincides with another leaves it to be seen.
constexpr size_t n_line_styles = 6;
constexpr std::array<const char*, n_line_styles> dashes = {"", "8 5", "2 4", "12 4 2 4", "5 8", "2 2"};

std::string line_mark(size_t i, double x, double y, const std::string& hover) {
  const std::string style = "l" + std::to_string(i % n_line_styles);
  const double r = i == 0 ? 4.5 : 3.5;
  std::string path;
  switch (i % n_line_styles) {
    case 0:
      return "<circle" + attribute("class", style + " open") + attribute("cx", x) + attribute("cy", y) +
             attribute("r", 5.0) + ">" + title(hover) + "</circle>";
    case 1: path = "M" + num(x - r) + "," + num(y - r) + "h7v7h-7z"; break;
    case 2: path = "M" + num(x) + "," + num(y - 4) + "l4,7h-8z"; break;
    case 3: path = "M" + num(x) + "," + num(y - 5) + "l4,5l-4,5l-4,-5z"; break;
    case 4: path = "M" + num(x) + "," + num(y + 4) + "l4,-7h-8z"; break;
    default: return circle(style.c_str(), x, y, 2.5, hover);
  }
  return "<path" + attribute("class", style) + attribute("d", path) + ">" + title(hover) + "</path>";
}

std::string line_stroke(size_t i) {
  const char* dash = dashes[i % n_line_styles];
  return attribute("stroke-width", i % n_line_styles == 0 ? 4.0 : 2.0) +
         (*dash ? attribute("stroke-dasharray", std::string(dash)) : "");
}

}  // namespace

std::string dose_plot(const std::vector<DoseLine>& lines, const std::string& x_axis, const std::string& y_axis,
                      double baseline, DoseForm form) {
  const bool narrow = form == DoseForm::narrow;
  constexpr double top = 26, plot = 228, row = 18;
  const double width = narrow ? 340 : 560, left = narrow ? 44 : 70, right = narrow ? 14 : 20;
  const double base = top + plot;
  std::vector<std::vector<std::string>> names;
  size_t n_rows = std::isfinite(baseline) ? 1 : 0;
  for (const DoseLine& one : lines) {
    names.push_back(narrow ? folded(one.name, 42) : std::vector<std::string>{clipped(one.name, 70)});
    n_rows += names.back().size();
  }
  const double height = base + 52 + row * static_cast<double>(n_rows);
  std::vector<double> xs, ys = {baseline};
  for (const DoseLine& one : lines)
    for (const DosePoint& point : one.points) {
      xs.push_back(point.x);
      for (double value : {point.mean, point.lo, point.hi}) ys.push_back(value);
    }
  const Scale x = scale_over(xs, left, width - right), y = scale_over(ys, base, top);
  std::string svg = open_svg(width, height, y_axis + " against " + x_axis);
  for (double tick : nice_ticks(y.lo, y.hi, 5)) {
    svg += line("axis", left, y.at(tick), width - right, y.at(tick));
    svg += words("s", left - 8, y.at(tick) + 4, "end", short_number(tick));
  }
  std::sort(xs.begin(), xs.end());
  xs.erase(std::unique(xs.begin(), xs.end()), xs.end());
  double last = -INFINITY;
  for (double tick : xs.size() <= 8 ? xs : nice_ticks(x.lo, x.hi, narrow ? 4 : 6)) {
    svg += line("axis", x.at(tick), base, x.at(tick), base + 4);
    const std::string text = short_number(tick);
    const double half = 3.4 * static_cast<double>(display_width(text)) + 2;
    if (x.at(tick) - half < last) continue;  // no room for its number
    svg += words("s", x.at(tick), base + 18, "middle", text);
    last = x.at(tick) + half;
  }
  if (std::isfinite(baseline)) svg += line("zero", left, y.at(baseline), width - right, y.at(baseline));
  std::string marks;
  double legend = base + 52;
  for (size_t i = 0; i < lines.size(); ++i) {
    const std::string style = "l" + std::to_string(i % n_line_styles);
    std::string there, back, dots;
    for (const DosePoint& point : lines[i].points) {
      if (!std::isfinite(point.mean)) continue;
      const auto corner = [&](double value) { return num(x.at(point.x)) + "," + num(y.at(value)) + " "; };
      there += corner(std::isfinite(point.hi) ? point.hi : point.mean);
      back = corner(std::isfinite(point.lo) ? point.lo : point.mean) + back;
      dots += corner(point.mean);
    }
    svg += "<polygon" + attribute("class", style) + attribute("points", there + back) + "/>";
    svg += "<polyline" + attribute("class", style) + line_stroke(i) + attribute("points", dots) + "/>";
    for (const DosePoint& point : lines[i].points) {
      if (!std::isfinite(point.mean)) continue;
      const int decimals = decimals_for(point.mean);
      marks += line_mark(i, x.at(point.x), y.at(point.mean),
                         lines[i].name + "\n" + x_axis + " " + short_number(point.x) + ": " +
                             format_value(point.mean, decimals) + " " + format_interval(point.lo, point.hi, decimals));
    }
    svg += "<line" + attribute("class", style) + line_stroke(i) + attribute("x1", left) + attribute("y1", legend - 4) +
           attribute("x2", left + 34) + attribute("y2", legend - 4) + "/>" + line_mark(i, left + 17, legend - 4, "");
    for (const std::string& part : names[i]) {
      svg += words("s", left + 42, legend, "start", part);
      legend += row;
    }
  }
  svg += marks;
  if (std::isfinite(baseline))
    svg += line("zero", left, legend - 4, left + 34, legend - 4) + words("s", left + 42, legend, "start", "baseline");
  svg += words("s", (left + width - right) / 2, base + 32, "middle", x_axis);
  svg += words("s", narrow ? 2 : left, 12, "start", narrow ? clipped(y_axis, 54) : y_axis);
  return svg + "</svg>";
}

std::string dose_plots(const std::vector<DoseLine>& lines, const std::string& x_axis, const std::string& y_axis,
                       double baseline) {
  return "<div class=\"broad\">" + dose_plot(lines, x_axis, y_axis, baseline) + "</div><div class=\"narrow\">" +
         dose_plot(lines, x_axis, y_axis, baseline, DoseForm::narrow) + "</div>";
}

std::string heat_map(const std::vector<HeatCell>& cells, const std::string& label, const HeatNames& names) {
  std::map<int32_t, std::vector<const HeatCell*>> layers;
  double scale = 0.05;
  int32_t n_experts = 0;
  for (const HeatCell& one : cells) {
    layers[one.layer].push_back(&one);
    if (std::isfinite(one.value)) scale = std::max(scale, std::abs(one.value));
    n_experts = std::max(n_experts, one.expert + 1);
  }
  const int side = std::clamp(1000 / std::max(n_experts, 1), 7, 36), step = side >= 20 ? 1 : side >= 12 ? 4 : 8;
  size_t longest = 8;
  for (const std::string& name : names.rows) longest = std::max(longest, std::min<size_t>(24, display_width(name)));
  const double left = 18 + 7 * static_cast<double>(longest);
  constexpr double top = 40;
  const double width = left + n_experts * side + 12, height = top + static_cast<double>(layers.size()) * side + 12;
  std::string svg = open_svg(width, height, label);
  svg += words("s", left + n_experts * side / 2.0, 14, "middle", names.across);
  for (int32_t e = 0; e < n_experts; e += step)
    svg += words("s", left + (e + 0.5) * side, 32, "middle", std::to_string(e));
  double y = top;
  size_t row = 0;
  std::string above;  // frames and marks, over the neighbouring cells
  for (const auto& [layer, of_layer] : layers) {
    if (side >= 12 || row % 2 == 0)
      svg += words(
          "s", left - 8, y + side / 2.0 + 4, "end",
          names.rows.empty() ? "layer " + std::to_string(layer) : clipped(names.rows[static_cast<size_t>(layer)], 24));
    for (const HeatCell* one : of_layer) {
      const double x = left + one->expert * side, inset = one->small ? 0.26 * side : 0.5;
      const double share = std::isfinite(one->value) ? std::min(1.0, std::abs(one->value) / scale) : 0;
      (one->framed || one->dashed ? above : svg) += rect(std::string("cell ") + (one->value < 0 ? "down" : "up") +
                                                             (one->framed   ? " frame"
                                                              : one->dashed ? " frame dashed"
                                                                            : ""),
                                                         x + inset, y + inset, side - 2 * inset, side - 2 * inset,
                                                         one->title, attribute("fill-opacity", 0.9 * share));
      if (side >= 28 && !one->text.empty())
        above += words("in", x + side / 2.0, y + side / 2.0 + 4, "middle", one->text);
      if (one->significant)
        above += circle("mark", x + side - (side >= 20 ? 5 : side / 2.0), y + (side >= 20 ? 5 : side / 2.0),
                        side >= 20 ? 2.2 : 1.5);
    }
    y += side;
    ++row;
  }
  return svg + above + "</svg>";
}

std::string scatter_plot(const std::vector<ScatterPoint>& points, const std::string& x_axis,
                         const std::string& y_axis) {
  constexpr double width = 460, height = 320, left = 70, right = 16, top = 22, bottom = 44;
  std::vector<double> xs = {0}, ys = {0};
  for (const ScatterPoint& point : points) {
    xs.push_back(point.x);
    for (double value : {point.y, point.lo, point.hi}) ys.push_back(value);
  }
  const Scale x = scale_over(xs, left, width - right), y = scale_over(ys, height - bottom, top);
  std::string svg = open_svg(width, height, y_axis + " against " + x_axis);
  for (double tick : nice_ticks(y.lo, y.hi, 5))
    svg += line("axis", left, y.at(tick), width - right, y.at(tick)) +
           words("s", left - 8, y.at(tick) + 4, "end", short_number(tick));
  for (double tick : nice_ticks(x.lo, x.hi, 6))
    svg += line("axis", x.at(tick), height - bottom, x.at(tick), height - bottom + 4) +
           words("s", x.at(tick), height - bottom + 18, "middle", short_number(tick));
  svg += line("zero", left, y.at(0), width - right, y.at(0)) + line("zero", x.at(0), top, x.at(0), height - bottom);
  std::vector<std::pair<double, double>> labels;  // where they begin; the axis's own, every so many pixels
  for (double taken = 0; taken < 6.5 * static_cast<double>(display_width(y_axis)); taken += 20)
    labels.emplace_back(left + taken, 12);
  for (const ScatterPoint& point : points) {
    if (!std::isfinite(point.x) || !std::isfinite(point.y)) continue;
    if (std::isfinite(point.lo)) svg += line("ci", x.at(point.x), y.at(point.lo), x.at(point.x), y.at(point.hi));
    svg += circle(point.significant ? "dot" : "hollow", x.at(point.x), y.at(point.y), 4, point.title);
    if (point.label.empty()) continue;
    // In the first of some places around it that no other label has; none where all are taken.
    const double wide = 6.5 * static_cast<double>(display_width(point.label));
    for (const double dy : {-6.0, 14.0, -18.0, 26.0}) {
      const bool on_left = x.at(point.x) + 7 + wide > width - right;
      const double from = x.at(point.x) + (on_left ? -7 - wide : 7), at = y.at(point.y) + dy;
      if (at < 10 || at > height - bottom || std::any_of(labels.begin(), labels.end(), [&](const auto& other) {
            return std::abs(other.second - at) < 11 && std::abs(other.first - from) < wide + 4;
          }))
        continue;
      labels.emplace_back(from, at);
      svg += words("s", from, at, "start", point.label);
      break;
    }
  }
  svg += words("s", (left + width - right) / 2, height - 8, "middle", x_axis) + words("s", left, 12, "start", y_axis);
  return svg + "</svg>";
}

std::string specification_plot(const std::vector<SpecificationPoint>& points, const std::vector<SpecificationRow>& rows,
                               const std::string& axis) {
  constexpr double left = 220, top = 14, upper = 190, row_height = 17, right = 20, gap = 8;
  const double n = static_cast<double>(points.size()), step = std::clamp(620 / std::max(n, 1.0), 5.0, 26.0);
  const double radius = std::min(4.0, step / 2 - 0.5);
  std::vector<double> ends = {0};
  for (const SpecificationPoint& point : points) ends.insert(ends.end(), {point.difference, point.lo, point.hi});
  const Scale y = scale_over(ends, top + upper, top);
  double below = top + upper + 24;
  std::vector<double> places;  // of rows
  for (size_t r = 0; r < rows.size(); ++r) {
    if (r > 0 && rows[r].key != rows[r - 1].key) below += gap;
    places.push_back(below);
    below += row_height;
  }
  const double width = left + n * step + right, height = below + 4;
  std::string out = open_svg(width, height, axis);
  for (const double tick : nice_ticks(y.lo, y.hi, 5)) {
    out += line(tick == 0 ? "zero" : "axis", left, y.at(tick), width - right, y.at(tick));
    out += words("s", left - 6, y.at(tick) + 4, "end", short_number(tick));
  }
  out += words("s", 4, top + 4, "start", axis);
  for (size_t r = 0; r < rows.size(); ++r) {
    out += line("axis", left, places[r], width - right, places[r]);
    if (r == 0 || rows[r].key != rows[r - 1].key)
      out += words("s", 4, places[r] + 4, "start", clipped(rows[r].key, 16));
    out += words("s", left - 6, places[r] + 4, "end", clipped(rows[r].value, 16));
  }
  for (size_t i = 0; i < points.size(); ++i) {
    const SpecificationPoint& point = points[i];
    const double x = left + (static_cast<double>(i) + 0.5) * step;
    if (std::isfinite(point.lo) && std::isfinite(point.hi)) out += line("ci", x, y.at(point.lo), x, y.at(point.hi));
    out += circle(point.significant ? "dot" : "hollow", x, y.at(point.difference), radius);
    for (const size_t row : point.marks) out += circle("mark", x, places.at(row), radius);
    out += rect("hit", x - step / 2, top, step, height - top, point.title);
  }
  return out + "</svg>";
}

}  // namespace signalbox::eval
