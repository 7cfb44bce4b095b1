// The elements that pictures are made of: SVG with the classes of chart_style (charts.h). Texts are escaped here.
#pragma once
#include <string>

#include "base/namespaces.h"

namespace signalbox::eval::drawing {

std::string num(double value);  // two decimals, no zeros behind them
std::string attribute(const char* name, const std::string& value);
std::string attribute(const char* name, double value);
// The opening tag of a picture; `label` is for those who do not see it.
std::string open_svg(double width, double height, const std::string& label);
std::string line(const char* style, double x1, double y1, double x2, double y2);
std::string title(const std::string& text);  // empty: none
std::string circle(const char* style, double x, double y, double r, const std::string& hover = "");
std::string rect(const std::string& style, double x, double y, double w, double h, const std::string& hover = "",
                 const std::string& more = "");
std::string words(const char* style, double x, double y, const char* anchor, const std::string& text);

}  // namespace signalbox::eval::drawing
