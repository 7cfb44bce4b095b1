// CSV as RFC 4180 says it: reading tables and writing them. What the fields mean is the reader's:
// eval/data/csv_records.h makes records of them.
#pragma once
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace signalbox {

// A table with a header row. Lines end with LF or CRLF; fields may be quoted and then hold commas, line ends and
// doubled quotes. A byte order mark before the header and empty lines are skipped. Rows of another length than the
// header's, stray quotes and duplicate column names are Errors.
class CsvTable {
 public:
  static CsvTable read(const std::filesystem::path& file);         // at most 1 GiB
  static CsvTable parse(std::string_view text, std::string name);  // `name` starts the messages

  size_t n_rows() const { return rows_.size(); }
  const std::vector<std::string>& header() const { return header_; }
  size_t column(std::string_view name) const;  // Error when there is none
  const std::string& text(size_t row, size_t column) const { return rows_[row].fields[column]; }
  double number(size_t row, size_t column) const;  // finite, else Error
  int64_t integer(size_t row, size_t column) const;
  std::string place(size_t row) const;                        // "rd.csv: line 7"
  int64_t line(size_t row) const { return rows_[row].line; }  // on which the row begins, from 1

 private:
  struct Row {
    int64_t line = 0;
    std::vector<std::string> fields;
  };
  std::string name_;
  std::vector<std::string> header_;
  std::vector<Row> rows_;
};

// A table with a header row, written as text: lines end with CRLF, fields are quoted where they must be.
class CsvWriter {
 public:
  explicit CsvWriter(std::initializer_list<std::string_view> header)
      : CsvWriter(std::vector<std::string_view>(header)) {}
  explicit CsvWriter(const std::vector<std::string_view>& header);
  // The next cell; end_row() after the last. Doubles as the shortest text that reads back to the same number; NaN and
  // infinities, being undefined, are empty cells.
  CsvWriter& cell(int64_t value);
  CsvWriter& cell(double value);
  CsvWriter& cell(std::string_view text);
  void end_row();  // Error when the row has not as many cells as the header
  const std::string& text() const { return text_; }
  // The text so far, which text() then no longer has: for tables that are written piece by piece.
  std::string take_text() { return std::exchange(text_, {}); }

 private:
  void next();
  std::string text_;
  size_t n_columns_, filled_ = 0;
};

}  // namespace signalbox
