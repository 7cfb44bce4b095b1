#include "eval/data/csv_records.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iostream>
#include <iterator>

#include "base/csv.h"
#include "base/text.h"
#include "base/utf8.h"

namespace signalbox::eval {

namespace {

constexpr uintmax_t max_bytes = uintmax_t{1} << 30;

bool one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

json::Value typed_cell(const std::string& name, const std::string& text, const std::string& where) {
  const std::string place = where + ": " + name;
  const bool list = text.starts_with('[');
  if (one_of(name, {"choices", "messages", "tokens", "spans"}) ||
      (list && one_of(name, {"answers", "memory", "keywords"})))
    return json::parse(text, place);
  if (name == "answers") {
    json::Value one = json::Value::array();
    one.push_back(text);
    return one;
  }
  if (name == "choice") {
    int64_t value = 0;
    auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (failed != std::errc() || end != text.data() + text.size())
      throw Error(place, "expected an integer, found \"" + text + "\"");
    return value;
  }
  if (one_of(name, {"answerable", "harmful"})) {
    const std::string word = ascii_lower(text);
    if (word != "true" && word != "false") throw Error(place, "expected true or false, found \"" + text + "\"");
    return word == "true";
  }
  return text;
}

// Rows of a table; `cell` makes a value or leaves the key out by returning null.
template <class Cell>
std::vector<Row> rows_of(const std::filesystem::path& file, const OnProblem& on_problem, Cell cell) {
  const CsvTable table = CsvTable::read(file);
  for (const std::string& name : table.header()) {
    if (name.empty()) continue;  // the unnamed column of row numbers that data frames write
    expect_utf8(name, file.string() + ":1");
  }
  std::vector<Row> rows;
  for (size_t r = 0; r < table.n_rows(); ++r) {
    Row row{file.string() + ":" + std::to_string(table.line(r)), json::Value::object()};
    bool whole = true;
    for (size_t c = 0; c < table.header().size(); ++c) try {
        expect_utf8(table.text(r, c), row.where);
        json::Value value = cell(table.header()[c], table.text(r, c), row.where);
        if (!value.is_null()) row.object.set(table.header()[c], std::move(value));
      } catch (const Error& error) {
        if (!on_problem) throw;
        on_problem(error);
        whole = false;
      }
    if (whole) rows.push_back(std::move(row));
  }
  if (table.n_rows() == 0) throw Error(file.string(), "expected at least one row below the header, found none");
  return rows;
}

}  // namespace

bool is_csv_file(const std::string& file) { return ascii_lower(file).ends_with(".csv"); }

void expect_utf8(std::string_view text, const std::string& where) {
  if (const size_t at = first_invalid_utf8(text); at != std::string_view::npos)
    throw Error(where, "expected UTF-8, found other bytes at byte " + std::to_string(at) + " of a text");
}

std::vector<Row> read_csv_records(const std::filesystem::path& file, const OnProblem& on_problem) {
  return rows_of(file, on_problem, [](const std::string& name, const std::string& text, const std::string& where) {
    if (name.empty()) throw Error(where, "expected a name for every column, found an empty one");
    if (text.empty() && !one_of(name, {"prompt", "id"})) return json::Value();
    return typed_cell(name, text, where);
  });
}

void for_each_row(const std::string& file, const std::function<void(const Row&)>& use, const OnProblem& on_problem) {
  if (is_csv_file(file)) {
    for (const Row& row : read_csv_records(file, on_problem)) use(row);
    return;
  }
  std::ifstream opened;
  std::istream* in = &std::cin;
  const std::string name = file == "-" ? "standard input" : file;
  if (file != "-") {
    if (!std::filesystem::is_regular_file(file) && !std::filesystem::is_fifo(file) &&
        !std::filesystem::is_character_file(file))
      throw Error(file, std::filesystem::exists(file) ? "expected a file, found something else"
                                                      : "expected a file, found none");
    opened.open(file, std::ios::binary);
    if (!opened) throw Error(file, "cannot read the file");
    in = &opened;
  }
  std::string line;
  bool any = false;
  for (int64_t number = 1; std::getline(*in, line); ++number) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (number == 1 && line.starts_with("\xef\xbb\xbf")) line.erase(0, 3);  // as editors on Windows begin a file
    const std::string where = name + ":" + std::to_string(number);
    if (line.find_first_not_of(" \t") == std::string::npos && in->peek() == std::char_traits<char>::eof())
      break;  // an empty last line
    any = true;
    Row row{where, {}};
    try {
      if (line.find_first_not_of(" \t") == std::string::npos)
        throw Error(where, "expected a JSON object, found an empty line");
      row.object = json::parse(line, where);
      json::Ref(row.object, where).expect_object();
    } catch (const Error& error) {
      if (!on_problem) throw;
      on_problem(error);
      continue;
    }
    use(row);
  }
  if (in->bad()) throw Error(name, "cannot read the file");
  if (!any) throw Error(name, "expected at least one record, found none");
}

std::string read_text(const std::filesystem::path& file) {
  std::error_code failed;
  if (file == "-") {
    std::string text;
    char part[1 << 16];
    while (std::cin.read(part, sizeof part), std::cin.gcount() > 0) {
      text.append(part, static_cast<size_t>(std::cin.gcount()));
      if (text.size() > max_bytes) throw Error("standard input", "expected at most 1 GiB, found more");
    }
    if (std::cin.bad()) throw Error("standard input", "cannot read it");
    if (text.starts_with("\xef\xbb\xbf")) text.erase(0, 3);
    return text;
  }
  if (!std::filesystem::is_regular_file(file, failed))
    throw Error(file.string(), std::string("expected a file, found ") +
                                   (std::filesystem::exists(file, failed) ? "something else" : "none"));
  const uintmax_t bytes = std::filesystem::file_size(file, failed);
  if (failed || bytes > max_bytes) throw Error(file.string(), "expected a file of at most 1 GiB, found more");
  std::string text(static_cast<size_t>(bytes), '\0');
  std::ifstream in(file, std::ios::binary);
  if (!in.read(text.data(), static_cast<std::streamsize>(text.size())))
    throw Error(file.string(), "cannot read the file");
  if (text.starts_with("\xef\xbb\xbf")) text.erase(0, 3);
  return text;
}

std::vector<Row> read_rows(const std::filesystem::path& file) {
  if (is_csv_file(file.string()))
    return rows_of(file, {}, [](const std::string& name, const std::string& text, const std::string&) {
      return name.empty() ? json::Value() : json::Value(text);
    });
  const std::string text = read_text(file), name = file == "-" ? "standard input" : file.string();
  std::vector<Row> rows;
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first != std::string::npos && text[first] == '[') {
    const json::Value list = json::parse(text, name);
    for (size_t i = 0; i < list.items().size(); ++i)
      rows.push_back({name + ": item " + std::to_string(i), list.items()[i]});
  } else {
    int64_t number = 0;
    for (size_t at = 0; at < text.size();) {
      size_t end = text.find('\n', at);
      if (end == std::string::npos) end = text.size();
      std::string_view line(text.data() + at, end - at);
      if (line.ends_with('\r')) line.remove_suffix(1);
      at = end + 1;
      const std::string where = name + ":" + std::to_string(++number);
      if (line.find_first_not_of(" \t") == std::string_view::npos) {
        if (at >= text.size()) break;  // an empty last line
        throw Error(where, "expected a JSON object, found an empty line");
      }
      rows.push_back({where, json::parse(line, where)});
    }
  }
  for (const Row& row : rows) json::Ref(row.object, row.where).expect_object();
  if (rows.empty()) throw Error(name, "expected at least one object, found none");
  return rows;
}

}  // namespace signalbox::eval
