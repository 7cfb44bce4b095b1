#include "base/csv_writer.h"

#include <charconv>
#include <cmath>

#include "base/error.h"

namespace signalbox {

CsvWriter::CsvWriter(const std::vector<std::string_view>& header) : n_columns_(header.size()) {
  for (std::string_view name : header) cell(name);
  end_row();
}

void CsvWriter::next() {
  if (filled_++ > 0) text_ += ',';
}

CsvWriter& CsvWriter::cell(int64_t value) {
  next();
  text_ += std::to_string(value);
  return *this;
}

CsvWriter& CsvWriter::cell(double value) {
  next();
  if (!std::isfinite(value)) return *this;
  char number[32];
  const auto end = std::to_chars(number, number + sizeof number, value == 0 ? 0.0 : value).ptr;
  text_.append(number, end);
  return *this;
}

CsvWriter& CsvWriter::cell(std::string_view text) {
  next();
  if (text.find_first_of(",\"\r\n") == std::string_view::npos) {
    text_ += text;
    return *this;
  }
  text_ += '"';
  for (char c : text) {
    if (c == '"') text_ += '"';
    text_ += c;
  }
  text_ += '"';
  return *this;
}

void CsvWriter::end_row() {
  if (filled_ != n_columns_)
    throw Error("CSV row", "expected " + std::to_string(n_columns_) + " cells, found " + std::to_string(filled_));
  filled_ = 0;
  text_ += "\r\n";
}

}  // namespace signalbox
