// The shell of every report: one self-contained HTML page, light and dark, with nothing from outside.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/namespaces.h"
#include "eval/findings/table.h"

namespace signalbox::eval {

// A whole document. `title` is plain text, `body` is HTML. Tables of class "sort" sort on a click on their headings.
std::string html_page(std::string_view title, const std::string& body);

// A table, all cells HTML already. `numeric[c]`: right-aligned, and sorted as numbers.
std::string html_table(const std::vector<std::string>& headings, const std::vector<uint8_t>& numeric,
                       const std::vector<std::vector<std::string>>& rows);

// The columns with a heading, texts left-aligned and all else right-aligned; without the title.
std::string html_table(const FindingsTable& table);

}  // namespace signalbox::eval
