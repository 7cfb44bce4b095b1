// Reading tables of findings back for a report: empty cells are undefined numbers.
#pragma once
#include <filesystem>
#include <string>
#include <string_view>

#include "base/csv.h"
#include "base/namespaces.h"
#include "base/no_number.h"
#include "eval/findings/findings.h"

namespace signalbox::eval {

class ReportTable {
 public:
  explicit ReportTable(const std::filesystem::path& file) : table_(CsvTable::read(file)) {}
  size_t n_rows() const { return table_.n_rows(); }
  const std::string& text(size_t row, std::string_view column) const { return table_.text(row, table_.column(column)); }
  double number(size_t row, std::string_view column) const {
    return text(row, column).empty() ? no_number : table_.number(row, table_.column(column));
  }
  int64_t integer(size_t row, std::string_view column) const { return table_.integer(row, table_.column(column)); }
  // Its n is the reader's.
  Estimate estimate(size_t row, std::string_view value, std::string_view lo, std::string_view hi) const {
    return {number(row, value), number(row, lo), number(row, hi), 0};
  }
  // The rows with this text in this column, all of their cells as they stand.
  std::string csv_where(std::string_view column, std::string_view wanted) const {
    CsvWriter out(std::vector<std::string_view>(table_.header().begin(), table_.header().end()));
    for (size_t r = 0; r < n_rows(); ++r) {
      if (text(r, column) != wanted) continue;
      for (size_t c = 0; c < table_.header().size(); ++c) out.cell(std::string_view(table_.text(r, c)));
      out.end_row();
    }
    return out.text();
  }

 private:
  CsvTable table_;
};

}  // namespace signalbox::eval
