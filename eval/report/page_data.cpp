#include "eval/report/page_data.h"

#include <algorithm>
#include <cstdint>

#include "base/base64.h"
#include "eval/findings/format.h"

namespace signalbox::eval {

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
