#include "eval/findings/format.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <span>

#include "base/text.h"

namespace signalbox::eval {

int decimals_for(double scale) {
  scale = std::abs(scale);
  if (!std::isfinite(scale) || scale == 0) return 3;
  const int digits = static_cast<int>(std::floor(std::log10(scale)));  // 0 for 1 ... 9.99
  if (digits >= 0) return std::max(0, 3 - digits);
  return digits >= -5 ? std::max(3, 2 - digits) : -1;
}

std::string format_value(double value, int decimals) {
  if (!std::isfinite(value)) return "-";
  char text[64];
  if (decimals < 0 || std::abs(value) >= 1e15) {
    std::snprintf(text, sizeof text, "%.2e", value);
  } else {
    std::snprintf(text, sizeof text, "%.*f", decimals, value);
  }
  std::string out = text;
  if (out[0] == '-' && out.find_first_not_of("-0.") == std::string::npos) out.erase(0, 1);
  return out;
}

std::string format_difference(double value, int decimals) {
  const std::string text = format_value(value, decimals);
  return value > 0 && text.find_first_not_of("0.") != std::string::npos ? "+" + text : text;
}

std::string format_p(double p) {
  if (!std::isfinite(p)) return "-";
  if (p < 0.00005) return "<0.0001";
  return format_value(p, 4);
}

std::string format_interval(double lo, double hi, int decimals, bool is_signed) {
  if (!std::isfinite(lo) || !std::isfinite(hi)) return "-";
  const auto one = [&](double value) {
    return is_signed ? format_difference(value, decimals) : format_value(value, decimals);
  };
  return "[" + one(lo) + ", " + one(hi) + "]";
}

std::string plain_text(const json::Value& value) { return value.is_string() ? value.string() : json::dump(value); }

std::string abridged(const std::vector<std::string>& names, size_t most) {
  std::string out = joined(std::span(names).first(std::min(most, names.size())));
  if (names.size() > most) out += " and " + std::to_string(names.size() - most) + " more";
  return out;
}

std::string html_escape(std::string_view text) {
  std::string out;
  for (char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      case '\'': out += "&#39;"; break;
      default:
        // Control characters but tab and line ends have no place in HTML.
        if (static_cast<unsigned char>(c) >= 0x20 || c == '\n' || c == '\t')
          out += c;
        else if (c != '\r')
          out += "\xEF\xBF\xBD";
    }
  }
  return out;
}

std::string markdown_escape(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (static_cast<unsigned char>(c) < 0x20) {
      out += ' ';
      continue;
    }
    if (std::string_view("\\|*_`<>[]#~&").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

std::string latex_escape(std::string_view text) {
  std::string out;
  for (char c : text) {
    switch (c) {
      case '\\': out += "\\textbackslash{}"; break;
      case '~': out += "\\textasciitilde{}"; break;
      case '^': out += "\\textasciicircum{}"; break;
      case '<': out += "\\textless{}"; break;
      case '>': out += "\\textgreater{}"; break;
      case '|': out += "\\textbar{}"; break;
      case '"': out += "\\textquotedbl{}"; break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          out += ' ';
          continue;
        }
        if (std::string_view("&%$#_{}").find(c) != std::string_view::npos) out += '\\';
        out += c;
    }
  }
  return out;
}

}  // namespace signalbox::eval
