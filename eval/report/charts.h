// Pictures as inline SVG. Colours come from the page's style sheet (run_report.cpp), so that light and dark both work;
// hovering shows numbers through <title>. Texts are escaped here.
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "base/no_number.h"

namespace signalbox::eval {

// Round numbers that span [lo, hi], about `wanted` of them.
std::vector<double> nice_ticks(double lo, double hi, int wanted);

// One line of a forest plot: a difference to the baseline with its interval, and what stands behind it.
struct ForestRow {
  std::string name, description;
  double difference = 0, lo = 0, hi = 0;            // not drawn where NaN
  double q = 1;                                     // filled below 0.05, hollow else; not shown where NaN
  bool filled = false;                              // whatever q is
  std::string place;                                // right margin: "1 of 21"
  std::vector<double> random, matched, bottom;      // differences of controls
  double band_lo = no_number, band_hi = no_number;  // of the random ones
  bool heading = false;                             // a name above the rows that belong to it, nothing else
};
// Narrow: for telephones, with the names above and the numbers below their lines.
enum class ForestForm : uint8_t { broad, narrow };
std::string forest_plot(const std::vector<ForestRow>& rows, const std::string& axis,
                        ForestForm form = ForestForm::broad);

// A metric against a numeric key of a grid.
struct DosePoint {
  double x = 0, mean = 0, lo = 0, hi = 0;
};
struct DoseLine {
  std::string name;               // of the other keys' values
  std::vector<DosePoint> points;  // ascending x
};
// Lines of one style a colour, dash and mark each, dashes wider from line to line: where two coincide both are seen.
// Narrow: for telephones, names on as many lines as they need.
enum class DoseForm : uint8_t { broad, narrow };
std::string dose_plot(const std::vector<DoseLine>& lines, const std::string& x_axis, const std::string& y_axis,
                      double baseline, DoseForm form = DoseForm::broad);
// Both forms, of which the page shows the one that fits (HTML).
std::string dose_plots(const std::vector<DoseLine>& lines, const std::string& x_axis, const std::string& y_axis,
                       double baseline);

// A cell of the map of all experts: layers downwards, experts across. Blue for positive, orange for negative values.
struct HeatCell {
  int32_t layer = 0, expert = 0;
  double value = 0;
  std::string text;  // in the cell where there is room
  std::string title;
  bool significant = false;  // a dot
  bool framed = false;       // in a solid frame
  bool dashed = false;       // in a dashed one
  bool small = false;        // drawn as a smaller square
};
struct HeatNames {
  std::vector<std::string> rows = {};  // of layers 0, 1, ...; empty: "layer N"
  std::string across = "expert";       // what the columns are
};
std::string heat_map(const std::vector<HeatCell>& cells, const std::string& label, const HeatNames& names = {});

struct ScatterPoint {
  double x = 0, y = 0, lo = 0, hi = 0;
  std::string title;
  bool significant = false;
  std::string label = {};  // beside it
};
std::string scatter_plot(const std::vector<ScatterPoint>& points, const std::string& x_axis, const std::string& y_axis);

// A specification curve: above, effects in ascending order with their intervals; below, a row for each value of each
// choice with a mark where the effect above it has it.
struct SpecificationPoint {
  std::string title;  // shown on hovering
  double difference = 0, lo = 0, hi = 0;
  bool significant = false;   // filled, hollow else
  std::vector<size_t> marks;  // rows
};
struct SpecificationRow {
  std::string key, value;
};
std::string specification_plot(const std::vector<SpecificationPoint>& points, const std::vector<SpecificationRow>& rows,
                               const std::string& axis);

// The style sheet's part that the pictures need.
extern const char* const chart_style;

}  // namespace signalbox::eval
