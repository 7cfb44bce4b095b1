// A table of findings, typed: what those who find things hand to terminals, papers, spreadsheets and reports. A new
// kind of study fills one of these and gets all the renderings.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/namespaces.h"
#include "eval/findings/findings.h"

namespace signalbox::eval {

struct TableColumn {
  enum class Kind : uint8_t {
    text,        // a name: left-aligned and escaped
    count,       // int64_t
    value,       // Estimate, shown without its interval
    estimate,    // Estimate with its interval
    difference,  // the same with a sign
    number,      // double, with the group's decimals
    p,           // double: a p- or q-value
    rank,        // RankCell
  };
  std::string heading;  // for people, with the unit where there is one; empty: in spreadsheets alone
  Kind kind = Kind::text;
  std::vector<std::string> csv;  // its names in a spreadsheet: of an Estimate three, for value, lower and upper end;
                                 // none: it is not in spreadsheets
  bool sets_decimals = false;    // its values decide how many decimals the rows of a group have
  std::string if_empty = {};     // what people see of an empty text: "all"
};

// "1 of 21": a place among n others and oneself; "1 of 8 (few)" where they are not enough_controls.
struct RankCell {
  std::optional<int64_t> rank;
  int64_t n = 0;
};

using TableCell = std::variant<std::string, int64_t, double, Estimate, RankCell>;

struct TableRow {
  std::string group;  // rows of one group stand together and share their decimals
  std::vector<TableCell> cells;
};

struct FindingsTable {
  std::string title;  // "condition with_document"; empty: none
  std::vector<TableColumn> columns;
  std::vector<TableRow> rows;
  std::vector<std::string> notes;  // lines on how to read it, for LaTeX
  bool shows_small = true;         // a number that the group's decimals would show as zero gets more of them
};

// The texts of the columns that have a heading, row by row. Undefined numbers are "-".
std::vector<std::vector<std::string>> table_cells(const FindingsTable& table);

// Aligned, for terminals; without the title. Lines of at most `width` columns, as base/text_table.h fits them to that;
// 0: any.
std::string table_text(const FindingsTable& table, int width = 0);
std::string table_markdown(const FindingsTable& table);  // aligned, below the title
std::string table_latex(const FindingsTable& table);     // booktabs, below title and notes as comments
// Every number in its own column and in full precision, RFC 4180: the rows of tables that have the same columns.
std::string table_csv(const std::vector<FindingsTable>& tables);

}  // namespace signalbox::eval
