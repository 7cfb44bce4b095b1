#include "eval/report/drawing.h"

#include <cstdio>

#include "eval/findings/format.h"

namespace signalbox::eval::drawing {

std::string num(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f", value);
  std::string out = text;
  out.erase(out.find_last_not_of('0') + 1);
  if (out.back() == '.') out.pop_back();
  return out == "-0" ? "0" : out;
}

std::string attribute(const char* name, const std::string& value) {
  return std::string(" ") + name + "=\"" + html_escape(value) + "\"";
}
std::string attribute(const char* name, double value) { return attribute(name, num(value)); }

std::string open_svg(double width, double height, const std::string& label) {
  return "<svg viewBox=\"0 0 " + num(width) + " " + num(height) + "\"" + attribute("width", width) +
         attribute("height", height) + " role=\"img\"" + attribute("aria-label", label) + ">";
}

std::string line(const char* style, double x1, double y1, double x2, double y2) {
  return "<line" + attribute("class", style) + attribute("x1", x1) + attribute("y1", y1) + attribute("x2", x2) +
         attribute("y2", y2) + "/>";
}

std::string title(const std::string& text) { return text.empty() ? "" : "<title>" + html_escape(text) + "</title>"; }

std::string circle(const char* style, double x, double y, double r, const std::string& hover) {
  return "<circle" + attribute("class", style) + attribute("cx", x) + attribute("cy", y) + attribute("r", r) + ">" +
         title(hover) + "</circle>";
}

std::string rect(const std::string& style, double x, double y, double w, double h, const std::string& hover,
                 const std::string& more) {
  return "<rect" + attribute("class", style) + attribute("x", x) + attribute("y", y) + attribute("width", w) +
         attribute("height", h) + more + ">" + title(hover) + "</rect>";
}

std::string words(const char* style, double x, double y, const char* anchor, const std::string& text) {
  return "<text" + attribute("class", style) + attribute("x", x) + attribute("y", y) +
         attribute("text-anchor", anchor) + ">" + html_escape(text) + "</text>";
}

}  // namespace signalbox::eval::drawing
