#include "tools/serve/sse.h"

#include "base/text.h"

namespace signalbox::tools {

std::string event_frame(std::string_view json) {
  std::string out = "data: ";
  out.reserve(json.size() + 8);
  for (size_t i = 0; i < json.size(); ++i) {
    const std::string_view rest = json.substr(i);
    if (rest.starts_with("\xC2\x85")) {
      out += "\\u0085";
      i += 1;
    } else if (rest.starts_with("\xE2\x80\xA8") || rest.starts_with("\xE2\x80\xA9")) {
      out += rest[2] == '\xA8' ? "\\u2028" : "\\u2029";
      i += 2;
    } else if (json[i] == '\n' || json[i] == '\r') {
      out += ' ';  // between tokens of JSON: inside strings they are escaped
    } else {
      out += json[i];
    }
  }
  out += "\n\n";
  return out;
}

}  // namespace signalbox::tools
