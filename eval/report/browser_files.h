// What reports run in a browser: D3 and the files of eval/report/browser, which the build embeds in the binary.
#pragma once
#include <string_view>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::eval {

struct BrowserFile {
  std::string_view name, content;
};

// All of them, by name; D3 is "d3.min.js".
const std::vector<BrowserFile>& browser_files();

// The content of the one with this name. Throws Error where there is none.
std::string_view browser_file(std::string_view name);

}  // namespace signalbox::eval
