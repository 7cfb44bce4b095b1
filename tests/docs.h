// Documents whose examples are tests: blocks of a page, and commands run as pasted.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "tests/support.h"

namespace signalbox::test {

// A page by its path from the root of the repository.
std::string page_of(const std::string& file);

// The text of the fenced blocks that begin with ```TAG, in order. Fails the running test case where one has no end.
std::vector<std::string> fenced_blocks(const std::string& page, const std::string& tag);

// Lines indented by four spaces, paragraph by paragraph.
std::vector<std::string> indented_blocks(const std::string& page);

// A Markdown table, its cells without emphasis and escapes.
struct MarkdownTable {
  std::vector<std::string> headings;
  std::vector<std::vector<std::string>> rows;
};
std::vector<MarkdownTable> markdown_tables(const std::string& text);

// The first row of a page's tables that a program did not write: a row is found where some row of `written` has all its
// cells, column by column. A page may leave out columns and rows, and shorten a heading to its beginning. Of the page's
// tables those count whose first heading is `first` and whose headings `written` has. Empty: all were found, and there
// was one.
std::string row_not_written(const std::string& page, const std::string& first, const std::string& written);

// The first line of an indented block of the page, of those that hold `word`, that `printed` does not have; empty: all
// blocks with that word were found, and there was one.
std::string line_not_printed(const std::string& page, const std::string& word, const std::string& printed);

// Runs shell text from the root of the repository until a command fails. "signalbox" is the binary under test; "out/"
// and "/tmp/" are folders in `scratch`.
Ran paste(std::string script, const std::filesystem::path& scratch);

}  // namespace signalbox::test
