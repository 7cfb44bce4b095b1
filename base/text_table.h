// A table of text that fits a terminal.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

namespace signalbox {

class TextTable {
 public:
  struct Column {
    std::string heading;
    bool right = true;  // numbers; false: text, aligned to the left
    // Names the row: it comes again where the table is split into blocks, and may be cut in the middle.
    bool key = false;
  };

  explicit TextTable(std::vector<Column> columns) : columns_(std::move(columns)) {}
  // A cell for each column. `begins_group`: an empty line stands before the row, unless it is the first.
  void add(std::vector<std::string> cells, bool begins_group = false);

  // Lines of at most `width` columns; 0: any. Where the table is wider, keys are cut down to 16 columns, as far as they
  // stay different; then columns that are no keys go into further blocks below, each behind the keys. A single column
  // that is wider than what the keys leave stays as it is.
  std::string text(int width) const;

 private:
  struct Row {
    std::vector<std::string> cells;
    bool begins_group = false;
  };
  std::vector<Column> columns_;
  std::vector<Row> rows_;
};

}  // namespace signalbox
