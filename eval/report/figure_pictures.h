// The figures of a page as pictures of their own: SVG files that other programs open, made without a browser.
#pragma once
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::eval {

struct PagePicture {
  std::string name;  // of the figure; of one that shows one layer at a time "NAME-layer-3"
  std::string svg;   // a document, in light colours on white, whose styles need nothing else
};
// Of every figure of a page of html_page(): those that stand in it as SVG (the broad form of those that have a narrow
// one), and those that a browser draws of the page's data, as they are when it is opened; for maps and graphs that show
// one layer at a time one of each layer. Figures that are texts or tables are not pictures: tokens, vocabulary.
std::vector<PagePicture> pictures_of_page(const std::string& html);

// DIR/NAME.svg of each; the directory is made. Throws Error, also where the page has no picture. Returns the files.
std::vector<std::filesystem::path> write_pictures(const std::string& html, const std::filesystem::path& dir);

}  // namespace signalbox::eval
