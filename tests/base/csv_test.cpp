// CSV: what is written reads back, whatever the fields hold.
#include "base/csv.h"

#include <doctest/doctest.h>

#include <cmath>

#include "base/error.h"

using namespace signalbox;

TEST_CASE("a table that was written reads back") {
  CsvWriter csv({"name", "n", "x"});
  const std::string texts[] = {"plain", "a,b", "say \"no\"", "two\r\nlines", "", " spaces "};
  int64_t n = 0;
  for (const std::string& text : texts) {
    csv.cell(text).cell(n).cell(0.1 * static_cast<double>(n)).end_row();
    ++n;
  }
  csv.cell("nothing").cell(n).cell(NAN).end_row();
  CHECK(csv.text().starts_with("name,n,x\r\nplain,0,0\r\n\"a,b\",1,0.1\r\n"));
  const CsvTable table = CsvTable::parse(csv.text(), "t.csv");
  REQUIRE(table.n_rows() == 7);
  CHECK(table.header() == std::vector<std::string>{"name", "n", "x"});
  for (size_t r = 0; r < 6; ++r) {
    CHECK(table.text(r, 0) == texts[r]);
    CHECK(table.integer(r, 1) == static_cast<int64_t>(r));
    CHECK(table.number(r, 2) == 0.1 * static_cast<double>(r));
  }
  CHECK(table.text(6, 2).empty());
  CHECK(table.place(5) == "t.csv: line 8");  // one field before it holds a line end
}

TEST_CASE("empty lines are no rows, quoted empty fields and blanks are") {
  const CsvTable table = CsvTable::parse("\n\r\na,b\n\nx,\"1\n\n2\"\n\r\n\r\ny,2\r\n\n\n", "t.csv");
  REQUIRE(table.n_rows() == 2);
  CHECK(table.text(0, 1) == "1\n\n2");
  CHECK(table.place(0) == "t.csv: line 5");
  CHECK(table.place(1) == "t.csv: line 10");
  const CsvTable one = CsvTable::parse("a\n\"\"\n\n \n", "t.csv");
  REQUIRE(one.n_rows() == 2);
  CHECK(one.text(0, 0).empty());
  CHECK(one.text(1, 0) == " ");
  CHECK_THROWS_WITH_AS(CsvTable::parse("a,b\n \n", "t.csv"), "t.csv: line 2: expected 2 fields, found 1", Error);
  CHECK_THROWS_WITH_AS(CsvTable::parse("\n\n", "t.csv"), "t.csv: expected a header row, found an empty file", Error);
}

TEST_CASE("a row of another length is refused when it is written and when it is read") {
  CsvWriter csv({"a", "b"});
  csv.cell("x");
  CHECK_THROWS_WITH_AS(csv.end_row(), "CSV row: expected 2 cells, found 1", Error);
  CHECK_THROWS_WITH_AS(CsvTable::parse("a,b\nx\n", "t.csv"), "t.csv: line 2: expected 2 fields, found 1", Error);
}
