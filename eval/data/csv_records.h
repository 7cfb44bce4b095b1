// Rows of a file as JSON objects: CSV with typed record columns, JSON lines, JSON arrays.
#pragma once
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"

namespace signalbox::eval {

// An object of a file and its place, "file:line" (of an array: "file: item 3").
struct Row {
  std::string where;
  json::Value object;
};

// True for a name that ends in ".csv", in any case.
bool is_csv_file(const std::string& file);

// Input records from CSV (RFC 4180, UTF-8, a header row). A cell is text, but for these columns:
//   answers, memory, keywords          a JSON list when the cell begins with '[', else one string (answers: a list of
//   it) choices, messages, tokens, spans   JSON choice                 an integer answerable, harmful    true or false,
//   in any case
// An empty cell is an absent key, but for "prompt" and "id". Throws Error at file:line.
// With `on_problem` what is wrong with a row goes there, and the row is left out.
using OnProblem = std::function<void(const Error&)>;
std::vector<Row> read_csv_records(const std::filesystem::path& file, const OnProblem& on_problem = {});

// Each line of a file of records, one at a time: JSON lines, or CSV when the name ends in .csv; "-" is JSON lines from
// standard input. Throws Error at file:line for what is no JSON object a line (with `on_problem` that goes there, and
// the line is left out), and for a file that cannot be read or holds no line.
void for_each_row(const std::string& file, const std::function<void(const Row&)>& use,
                  const OnProblem& on_problem = {});

// Rows as a file of another's format has them: *.csv (every cell a string, empty ones included), JSON lines, or one
// JSON array of objects. At most 1 GiB. Throws Error at the place; no row at all is an error.
std::vector<Row> read_rows(const std::filesystem::path& file);

// The bytes of a regular file, or of standard input for "-", of at most 1 GiB, without a byte order mark. Throws Error.
std::string read_text(const std::filesystem::path& file);

// Throws Error at `where` when the text is not UTF-8.
void expect_utf8(std::string_view text, const std::string& where);

}  // namespace signalbox::eval
