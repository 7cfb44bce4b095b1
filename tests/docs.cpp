#include "tests/docs.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "base/text.h"

namespace signalbox::test {

namespace {

void replace_all(std::string& text, const std::string& from, const std::string& to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
}

std::vector<std::string> cells_of(const std::string& line) {
  std::vector<std::string> cells;
  std::string cell;
  for (size_t i = 1; i < line.size(); ++i) {
    if (line[i] == '\\' && i + 1 < line.size()) {
      cell += line[++i];
    } else if (line[i] == '|') {
      cells.emplace_back(trimmed(cell));
      cell.clear();
    } else if (line[i] != '*') {
      cell += line[i];
    }
  }
  return cells;
}

// Of each heading of a page the column of the written table that begins so; empty where one is missing.
std::vector<size_t> columns_of(const MarkdownTable& page, const MarkdownTable& written) {
  std::vector<size_t> columns;
  for (const std::string& heading : page.headings) {
    const auto found = std::find_if(written.headings.begin(), written.headings.end(),
                                    [&](const std::string& one) { return one.starts_with(heading); });
    if (found == written.headings.end()) return {};
    columns.push_back(static_cast<size_t>(found - written.headings.begin()));
  }
  return columns;
}

}  // namespace

std::vector<MarkdownTable> markdown_tables(const std::string& text) {
  std::vector<MarkdownTable> tables;
  bool inside = false;
  for (const std::string& line : lines_of(text)) {
    if (!line.starts_with("|")) {
      inside = false;
    } else if (!inside) {
      tables.push_back({cells_of(line), {}});
      inside = true;
    } else if (!line.starts_with("|-") && !line.starts_with("|:")) {
      tables.back().rows.push_back(cells_of(line));
    }
  }
  return tables;
}

std::string row_not_written(const std::string& page, const std::string& first, const std::string& written) {
  const std::vector<MarkdownTable> there = markdown_tables(written);
  bool compared = false;
  for (const MarkdownTable& shown : markdown_tables(page)) {
    if (shown.headings.empty() || shown.headings[0] != first) continue;
    for (const std::vector<std::string>& row : shown.rows) {
      bool known = false, found = false;
      for (const MarkdownTable& table : there) {
        const std::vector<size_t> columns = columns_of(shown, table);
        known |= !columns.empty();
        for (const std::vector<std::string>& other : table.rows) {
          bool same = !columns.empty();
          for (size_t c = 0; c < columns.size() && same; ++c) same = row.at(c) == other.at(columns[c]);
          found |= same;
        }
      }
      if (!known) break;
      compared = true;
      if (!found) return joined(row, " | ");
    }
  }
  return compared ? "" : "no table whose first heading is " + first + " and whose headings are written";
}

std::string line_not_printed(const std::string& page, const std::string& word, const std::string& printed) {
  const std::vector<std::string> there = lines_of(printed);
  bool compared = false;
  for (const std::string& block : indented_blocks(page)) {
    if (block.find(word) == std::string::npos) continue;
    compared = true;
    for (const std::string& line : lines_of(block))
      if (std::find(there.begin(), there.end(), line) == there.end()) return line;
  }
  return compared ? "" : "no block with " + word;
}

std::string page_of(const std::string& file) { return read_file(source_dir() / file); }

std::vector<std::string> fenced_blocks(const std::string& page, const std::string& tag) {
  std::vector<std::string> blocks;
  const std::string open = "```" + tag + "\n";
  for (size_t at = page.find(open); at != std::string::npos;) {
    const size_t begin = at + open.size(), end = page.find("```", begin);
    REQUIRE(end != std::string::npos);
    blocks.push_back(page.substr(begin, end - begin));
    at = page.find(open, end + 3);
  }
  return blocks;
}

std::vector<std::string> indented_blocks(const std::string& page) {
  std::vector<std::string> blocks;
  bool inside = false;
  for (size_t at = 0; at < page.size();) {
    const size_t end = std::min(page.find('\n', at), page.size());
    const std::string line = page.substr(at, end - at);
    if (line.starts_with("    ")) {
      if (!inside) blocks.emplace_back();
      blocks.back() += line.substr(4) + "\n";
      inside = true;
    } else {
      inside = false;
    }
    at = end + 1;
  }
  return blocks;
}

Ran paste(std::string script, const std::filesystem::path& scratch) {
  const std::string out = (scratch / "out").string(), tmp = (scratch / "tmp").string();
  replace_all(script, "build/signalbox", "signalbox");
  replace_all(script, " /tmp/", " " + tmp + "/");
  replace_all(script, " out/", " " + out + "/");
  return run_command("(set -e; cd " + source_dir().string() + "; mkdir -p " + out + " " + tmp + "; signalbox() { " +
                     binary() + " \"$@\"; }\n" + script + ")");
}

}  // namespace signalbox::test
