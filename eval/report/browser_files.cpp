#include "eval/report/browser_files.h"

#include <algorithm>
#include <string>

#include "base/embedded_file.h"
#include "base/error.h"

extern "C" const signalbox::EmbeddedFile signalbox_browser_files[];

namespace signalbox::eval {

const std::vector<BrowserFile>& browser_files() {
  static const std::vector<BrowserFile> files = [] {
    std::vector<BrowserFile> out;
    for (const EmbeddedFile* file = signalbox_browser_files; file->name; ++file)
      out.push_back({file->name, std::string_view(reinterpret_cast<const char*>(file->begin),
                                                  static_cast<size_t>(file->end - file->begin))});
    std::sort(out.begin(), out.end(), [](const BrowserFile& a, const BrowserFile& b) { return a.name < b.name; });
    return out;
  }();
  return files;
}

std::string_view browser_file(std::string_view name) {
  for (const BrowserFile& file : browser_files())
    if (file.name == name) return file.content;
  throw Error(std::string(name), "expected a file that the build embeds for reports, found none");
}

}  // namespace signalbox::eval
