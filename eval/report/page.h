// The shell of every report: one self-contained HTML page, light and dark, with nothing from outside.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "eval/findings/table.h"

namespace signalbox::eval {

// A whole document. `title` is plain text, `body` is HTML. Its scripts (eval/report/browser) let tables of class "sort"
// sort by a heading and give every <figure> its tools; where one has data-draw, D3 is there too, once. A content
// security policy with the hashes of styles and scripts keeps all else from running or loading, style attributes
// included.
std::string html_page(std::string_view title, const std::string& body);

// Links to the sections of a page: its <h2 id="ID">NAME</h2>, in their order. Empty for fewer than two.
std::string section_links(const std::string& body);

// A picture with its caption (both HTML), under an anchor, and with buttons that save it as SVG and PNG. `csv`: the
// numbers behind it as CsvWriter and table_csv write them, shown as a table on demand and saved; empty: none.
std::string html_figure(const std::string& id, const std::string& picture, const std::string& caption,
                        const std::string& csv = "");

// A figure that box.draw[`draw`] (eval/report/browser) makes of the page's data blocks. `label`: one sentence for those
// who do not see it. `attributes` go to the figure as data-NAME.
std::string drawn_figure(const std::string& id, const std::string& draw, const std::string& label,
                         const std::string& caption,
                         const std::vector<std::pair<std::string, std::string>>& attributes = {});

// A table, all cells HTML already. `numeric[c]`: right-aligned, and sorted as numbers.
std::string html_table(const std::vector<std::string>& headings, const std::vector<uint8_t>& numeric,
                       const std::vector<std::vector<std::string>>& rows);

// The columns with a heading, texts left-aligned and all else right-aligned; without the title.
std::string html_table(const FindingsTable& table);

}  // namespace signalbox::eval
