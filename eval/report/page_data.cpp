#include "eval/report/page_data.h"

#include <algorithm>
#include <cstdint>

#include "eval/findings/format.h"

namespace signalbox::eval {

std::string base64(std::string_view bytes) {
  constexpr const char* digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t n = std::min<size_t>(3, bytes.size() - i);
    uint32_t group = 0;
    for (size_t j = 0; j < 3; ++j) group = group << 8 | (j < n ? static_cast<uint8_t>(bytes[i + j]) : 0);
    for (size_t j = 0; j < 4; ++j) out += j <= n ? digits[group >> (18 - 6 * j) & 63] : '=';
  }
  return out;
}

std::string script_json(const json::Value& value) {
  std::string out;
  for (const char c : json::dump(value)) {
    if (c == '<')
      out += "\\u003c";
    else
      out += c;
  }
  return out;
}

std::string json_block(const std::string& id, const json::Value& value) {
  return "<script type=\"application/json\" id=\"" + html_escape(id) + "\">" + script_json(value) + "</script>\n";
}

std::string bytes_block(const std::string& id, std::string_view bytes) {
  std::string out;
  for (size_t at = 0, piece = 0; at < bytes.size(); at += bytes_of_piece, ++piece)
    out += "<script type=\"application/octet-stream;base64\" id=\"" + html_escape(id) + "-" + std::to_string(piece) +
           "\">" + base64(bytes.substr(at, bytes_of_piece)) + "</script>\n";
  return out;
}

}  // namespace signalbox::eval
