#include "base/csv.h"

#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <fstream>

#include "base/error.h"

namespace signalbox {

namespace {

constexpr uintmax_t max_bytes = uintmax_t{1} << 30;

std::string shown(const std::string& text) {
  std::string out;
  for (char c : text.substr(0, 60)) out += static_cast<unsigned char>(c) < 0x20 ? '?' : c;
  return "\"" + out + (text.size() > 60 ? "...\"" : "\"");
}

template <class T>
bool read_whole(const std::string& text, T& value) {
  auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  return failed == std::errc() && end == text.data() + text.size();
}

// Splits the text into fields and rows; `take` gets each row with the line on which it begins.
template <class Take>
void split(std::string_view text, const std::string& name, Take take) {
  size_t i = 0;
  int64_t line = 1;
  while (i < text.size()) {
    // A line of nothing at all is no row (as Python's csv and pandas have it); a quoted empty field is one.
    if (text[i] == '\n' || text.substr(i, 2) == "\r\n") {
      i += text[i] == '\n' ? 1 : 2;
      ++line;
      continue;
    }
    const int64_t first_line = line;
    auto fail = [&](const char* expected) { throw Error(name, "line " + std::to_string(line) + ": " + expected); };
    std::vector<std::string> fields;
    for (bool more = true; more;) {
      std::string field;
      if (i < text.size() && text[i] == '"') {
        for (++i;; ++i) {
          if (i >= text.size()) fail("expected a closing quote, found the end of the file");
          if (text[i] == '\n') ++line;
          if (text[i] != '"') {
            field += text[i];
          } else if (i + 1 < text.size() && text[i + 1] == '"') {
            field += text[i++];
          } else {
            ++i;
            break;
          }
        }
      } else {
        while (i < text.size() && text[i] != ',' && text[i] != '\n' && text[i] != '\r') {
          if (text[i] == '"') fail("expected a quote only at the beginning of a field, found one inside");
          field += text[i++];
        }
      }
      fields.push_back(std::move(field));
      more = i < text.size() && text[i] == ',';
      if (more) ++i;
    }
    if (i < text.size() && text[i] == '\r') ++i;
    if (i < text.size()) {
      if (text[i] != '\n') fail("expected a comma or the end of the line after a field, found more text");
      ++i;
      ++line;
    }
    take(first_line, std::move(fields));
  }
}

}  // namespace

CsvTable CsvTable::read(const std::filesystem::path& file) {
  std::error_code failed;
  if (!std::filesystem::is_regular_file(file, failed))
    throw Error(file.string(), "expected a CSV file, found " +
                                   std::string(std::filesystem::exists(file, failed) ? "no regular file" : "no file"));
  const uintmax_t bytes = std::filesystem::file_size(file, failed);
  if (failed || bytes > max_bytes) throw Error(file.string(), "expected a CSV file of at most 1 GiB, found more");
  std::string text(static_cast<size_t>(bytes), '\0');
  std::ifstream in(file, std::ios::binary);
  if (!in.read(text.data(), static_cast<std::streamsize>(text.size())))
    throw Error(file.string(), std::string("cannot read: ") + std::strerror(errno));
  return parse(text, file.string());
}

CsvTable CsvTable::parse(std::string_view text, std::string name) {
  CsvTable table;
  table.name_ = std::move(name);
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  split(text, table.name_, [&](int64_t line, std::vector<std::string> fields) {
    if (table.header_.empty()) {
      table.header_ = std::move(fields);
      for (size_t i = 0; i < table.header_.size(); ++i)
        for (size_t j = 0; j < i; ++j)
          if (table.header_[i] == table.header_[j])
            throw Error(table.name_, "expected column names to differ, found " + shown(table.header_[i]) + " twice");
      return;
    }
    if (fields.size() != table.header_.size())
      throw Error(table.name_, "line " + std::to_string(line) + ": expected " + std::to_string(table.header_.size()) +
                                   " fields, found " + std::to_string(fields.size()));
    table.rows_.push_back({line, std::move(fields)});
  });
  if (table.header_.empty()) throw Error(table.name_, "expected a header row, found an empty file");
  return table;
}

size_t CsvTable::column(std::string_view name) const {
  for (size_t i = 0; i < header_.size(); ++i)
    if (header_[i] == name) return i;
  throw Error(name_, "expected a column \"" + std::string(name) + "\", found none");
}

double CsvTable::number(size_t row, size_t column) const {
  double value = 0;
  if (!read_whole(text(row, column), value) || !std::isfinite(value))
    throw Error(place(row), header_[column] + ": expected a number, found " + shown(text(row, column)));
  return value;
}

int64_t CsvTable::integer(size_t row, size_t column) const {
  int64_t value = 0;
  if (!read_whole(text(row, column), value))
    throw Error(place(row), header_[column] + ": expected an integer, found " + shown(text(row, column)));
  return value;
}

std::string CsvTable::place(size_t row) const { return name_ + ": line " + std::to_string(rows_[row].line); }

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
