// The page of `GET /`: one file that the build put together (cmake/page.cmake) and embedded, and what goes with it.
#pragma once
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::tools {

struct Page {
  std::string_view html;  // UTF-8
  std::string_view gzip;  // the same, compressed when it was built
  // Every header that belongs to it but Content-Length. The policy names the script and the style by their SHA-256, and
  // lets the page ask nobody but the server that it came from.
  std::vector<std::pair<std::string, std::string>> headers;
};

const Page& page();

}  // namespace signalbox::tools
