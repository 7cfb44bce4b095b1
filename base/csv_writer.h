// Writing analysis files: RFC 4180 tables with numbers in full precision.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace signalbox {

// A table with a header row, as text: lines end with CRLF, fields are quoted where they must be.
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

 private:
  void next();
  std::string text_;
  size_t n_columns_, filled_ = 0;
};

}  // namespace signalbox
