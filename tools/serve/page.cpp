#include "tools/serve/page.h"

#include "base/base64.h"
#include "base/embedded_file.h"
#include "base/error.h"
#include "base/sha256.h"
#include "eval/report/page_data.h"

extern "C" const signalbox::EmbeddedFile signalbox_page_files[];

namespace signalbox::tools {
namespace {

// What stands between the first `begin` and the `end` behind it: the text that browsers hash.
std::string_view between(std::string_view html, std::string_view begin, std::string_view end) {
  const size_t from = html.find(begin);
  const size_t to = from == std::string_view::npos ? from : html.find(end, from + begin.size());
  if (to == std::string_view::npos)
    throw Error("page.html", "expected " + std::string(begin) + " and " + std::string(end) + ", found neither or one");
  return html.substr(from + begin.size(), to - from - begin.size());
}

std::string hash_source(std::string_view text) {
  const std::string hex = sha256_hex(text);
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2)
    bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  return "'sha256-" + base64(bytes) + "'";
}

Page make_page() {
  const auto file = [](size_t i) {
    const EmbeddedFile& of = signalbox_page_files[i];
    return std::string_view(reinterpret_cast<const char*>(of.begin), static_cast<size_t>(of.end - of.begin));
  };
  const std::string_view html = file(0);
  const std::string policy = "default-src 'none'; script-src 'self' " +
                             hash_source(between(html, "<script type=\"module\">", "</script>")) +
                             "; style-src 'self' " + hash_source(between(html, "<style>", "</style>")) +
                             "; connect-src 'self'; img-src data: blob:; frame-ancestors 'none'; base-uri 'none'; "
                             "form-action 'none'";
  return {html,
          file(1),
          {{"Content-Type", "text/html; charset=utf-8"},
           {"Content-Security-Policy", policy},
           {"Referrer-Policy", "no-referrer"}}};
}

}  // namespace

const Page& page() {
  static const Page made = make_page();
  return made;
}

}  // namespace signalbox::tools
