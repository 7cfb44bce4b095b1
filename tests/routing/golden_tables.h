// Tables that the program wrote beside those that numpy and scipy did.
#pragma once
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>

#include "base/csv.h"

namespace signalbox::test {

// What differs first; empty: nothing. allowed(table, column, value of the golden): how far a number may be off; texts
// and absent numbers are equal, numbers to 1e-9 of themselves.
template <class Allowed>
std::string table_difference(const std::filesystem::path& made, const std::filesystem::path& golden,
                             const std::string& name, Allowed allowed) {
  const CsvTable mine = CsvTable::read(made / (name + ".csv")), theirs = CsvTable::read(golden / (name + ".csv"));
  if (mine.header() != theirs.header()) return "header";
  if (mine.n_rows() != theirs.n_rows())
    return std::to_string(mine.n_rows()) + " rows, expected " + std::to_string(theirs.n_rows());
  for (size_t r = 0; r < mine.n_rows(); ++r)
    for (size_t c = 0; c < mine.header().size(); ++c) {
      const std::string &a = mine.text(r, c), &b = theirs.text(r, c), &column = mine.header()[c];
      if (a == b) continue;
      const std::string at = column + " of row " + std::to_string(r) + ": " + a + ", expected " + b;
      if (a.empty() || b.empty() || std::isalpha(static_cast<unsigned char>(b[0]))) return at;
      const double x = mine.number(r, c), y = theirs.number(r, c);
      if (!(std::abs(x - y) <= std::max(allowed(name, column, y), 1e-9 * std::max(1.0, std::abs(y))))) return at;
    }
  return "";
}

}  // namespace signalbox::test
