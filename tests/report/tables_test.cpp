// Tables of findings: layout, escaping, full precision.
#include "eval/findings/tables.h"

#include <doctest/doctest.h>

#include <cmath>

#include "base/csv.h"
#include "base/error.h"
#include "eval/findings/format.h"
#include "eval/findings/results.h"
#include "eval/report/page.h"
#include "tests/report/run_sample.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;

namespace {

ResultRow row_of(const std::string& intervention, const std::string& metric) {
  ResultRow row;
  row.intervention = intervention;
  row.metric = metric;
  row.baseline = {0.8, 0.7, 0.9, 50};
  row.mean = {0.55, 0.4, 0.7, 50};
  row.difference = {-0.25, -0.375, -0.125, 48};
  row.units = 24;
  row.p = 0.00009999;
  row.q = 0.01234;
  row.detectable = 0.18;
  row.controls = {{-0.01, -0.06, 0.04, 20}, 1};
  row.vs_controls = Versus{-0.24, -0.36, -0.12, 0.002};
  row.equivalence = Equivalence{0.05, 0.75};
  return row;
}

ResultRow undefined_row() {
  ResultRow row;
  row.intervention = "none";
  row.metric = "em";
  return row;
}

}  // namespace

TEST_CASE("format: numbers") {
  CHECK(format_value(0.12345, 3) == "0.123");
  CHECK(format_value(-0.0001, 3) == "0.000");
  CHECK(format_value(NAN, 3) == "-");
  CHECK(format_value(0.0000012, decimals_for(0.0000012)) == "1.20e-06");
  CHECK(format_difference(0.25, 2) == "+0.25");
  CHECK(format_difference(0.0001, 2) == "0.00");
  CHECK(format_difference(-0.25, 2) == "-0.25");
  CHECK(decimals_for(0.5) == 3);
  CHECK(decimals_for(5) == 3);
  CHECK(decimals_for(52) == 2);
  CHECK(decimals_for(5200) == 0);
  CHECK(decimals_for(0.0123) == 4);
  CHECK(decimals_for(0) == 3);
  CHECK(format_p(0.04999) == "0.0500");
  CHECK(format_p(0.00002) == "<0.0001");
  CHECK(format_p(NAN) == "-");
  CHECK(format_interval(-0.5, 0.25, 2, true) == "[-0.50, +0.25]");
  CHECK(format_interval(NAN, 1, 2) == "-");
}

TEST_CASE("format: escapes") {
  CHECK(html_escape("<a href='x'>&\"\x01") == "&lt;a href=&#39;x&#39;&gt;&amp;&quot;\xEF\xBF\xBD");
  CHECK(markdown_escape("a|b_c\n*<x>") == "a\\|b\\_c \\*\\<x\\>");
  CHECK(latex_escape("50% of_a & {b} \\ ~ ^ # $ <>") ==
        "50\\% of\\_a \\& \\{b\\} \\textbackslash{} \\textasciitilde{} \\textasciicircum{} \\# \\$ "
        "\\textless{}\\textgreater{}");
}

TEST_CASE("tables: Markdown, aligned") {
  CHECK(
      table_markdown(result_table({row_of("off|a", "em"), undefined_row()})) ==
      "| metric | intervention |  n | baseline |  mean |    difference [95 % CI] |      p |      q |   MDE | random "
      "controls [2.5 %, 97.5 %] | minus controls [95 % CI] | p of that | rank by size |\n"
      "|--------|--------------|---:|---------:|------:|------------------------:|-------:|-------:|------:|"
      "--------------------------------:|-------------------------:|----------:|-------------:|\n"
      "| em     | off\\|a       | 48 |    0.800 | 0.550 | -0.250 [-0.375, -0.125] | 0.0001 | 0.0123 | 0.180 |         "
      "-0.010 [-0.060, +0.040] |  -0.240 [-0.360, -0.120] |    0.0020 |      1 of 21 |\n"
      "| em     | none         |  0 |        - |     - |                       - |      - |      - |     - |         "
      "                      - |                        - |         - |            - |\n");
  // Without controls there are no columns for them.
  CHECK(table_markdown(result_table({undefined_row()}))
            .starts_with("| metric | intervention | n | baseline | mean | difference [95 % CI] | p | q | MDE |\n"));
  ResultRow few = row_of("off", "em");
  few.controls.differences.n = 18;
  CHECK(table_markdown(result_table({few})).find("| 1 of 19 (few) |") != std::string::npos);
}

TEST_CASE("tables: comparisons with other interventions, conditions and margins") {
  RunFindings findings;
  findings.baseline = "baseline";
  findings.metrics = {"em"};
  for (const char* name : {"baseline", "off", "hot"}) {
    findings.interventions.emplace_back();
    findings.interventions.back().name = name;
  }
  Contrast off, hot;
  off.difference = {-0.02, -0.04, 0.01, 40};
  off.versus = {{"hot", {-0.12, -0.2, -0.04, 0.01}}};
  hot.versus = {{"off", {0.12, 0.04, 0.2, 0.01}}};
  off.by_condition = {{"with - without", {0.3, 0.1, 0.5, 0.004}}};
  off.equivalence = Equivalence{0.05, 0.02};
  findings.all.contrasts = {{{}}, {off}, {hot}};
  const FindingsTable table = comparison_table(findings, "", few_pairs);
  CHECK(table_text(table) ==
        "metric  comparison                      difference [95 % CI]       p\n"
        "em      off minus hot                -0.120 [-0.200, -0.040]  0.0100\n"
        "em      off: with - without          +0.300 [+0.100, +0.500]  0.0040\n"
        "em      off within 0.05 of baseline  -0.020 [-0.040, +0.010]  0.0200\n");
  CHECK(table_csv({table}) ==
        "condition,metric,intervention,kind,with,diff,ci_lo,ci_hi,p\r\n"
        ",em,off,intervention,hot,-0.12,-0.2,-0.04,0.01\r\n"
        ",em,off,conditions,with - without,0.3,0.1,0.5,0.004\r\n"
        ",em,off,margin,0.05,-0.02,-0.04,0.01,0.02\r\n");
  CHECK(comparison_table(findings, "", 0).rows.size() == 2);
  test::TemporaryDirectory scratch;
  findings.all.means.assign(3, std::vector<Estimate>(1));
  write_tables(scratch.path(), findings);
  CHECK(test::read_file(scratch / "comparisons.csv") == table_csv({table}));
  CHECK(test::read_file(scratch / "table.md").find("\nComparisons of effects:\n\n| metric | comparison") !=
        std::string::npos);
}

TEST_CASE("tables: text for a terminal") {
  const std::string text = table_text(result_table({row_of("off", "em"), row_of("off", "f1")}));
  CHECK(text.starts_with("metric  intervention   n  baseline   mean     difference [95 % CI]       p       q    MDE"));
  CHECK(text.find("\n\nf1      off") != std::string::npos);
  CHECK(text.find("1 of 21\n") != std::string::npos);
}

TEST_CASE("tables: LaTeX") {
  const std::string tex = table_latex(result_table({row_of("off_a & 5%", "em"), row_of("x", "f1"), undefined_row()}));
  CHECK(tex.find("\\toprule") != std::string::npos);
  CHECK(tex.find("em & off\\_a \\& 5\\% & $48$ & $0.800$ & $0.550$ & $-0.250$ $[-0.375, -0.125]$ & $0.0001$ & $0.0123$ "
                 "& $0.180$ & $-0.010$ $[-0.060, +0.040]$ & $-0.240$ $[-0.360, -0.120]$ & $0.0020$ & 1 of 21 "
                 "\\\\\n\\midrule\nf1 & x") != std::string::npos);
  CHECK(tex.find("em & none & $0$ & -- & --") != std::string::npos);
  CHECK(tex.find("difference [95 \\% CI]") != std::string::npos);
  CHECK(tex.ends_with("\\bottomrule\n\\end{tabular}\n"));
}

TEST_CASE("tables: a table of another study, in HTML and in a spreadsheet") {
  using Kind = TableColumn::Kind;
  FindingsTable table;
  table.title = "patching <em>";
  table.columns = {{"place", Kind::text, {"place"}},
                   {"", Kind::text, {"kind"}},
                   {"effect [95 % CI]", Kind::difference, {"effect", "lo", "hi"}, true},
                   {"mean [95 % CI]", Kind::estimate, {"mean", "mean_lo", "mean_hi"}},
                   {"place among", Kind::rank, {"rank"}}};
  table.rows = {{"", {"a<b", "x", Estimate{0.5, 0.25, 0.75, 9}, Estimate{0.00004, 0, 0.0001, 9}, RankCell{2, 19}}},
                {"", {"c", "y", Estimate(), Estimate(), RankCell{}}}};
  CHECK(html_table(table) ==
        "<div class=\"wide\"><table class=\"sort\"><thead><tr><th>place</th><th class=\"n\">effect [95 % CI]</th>"
        "<th class=\"n\">mean [95 % CI]</th><th class=\"n\">place among</th></tr></thead>\n"
        "<tbody><tr><td>a&lt;b</td><td class=\"n\">+0.500 [+0.250, +0.750]</td>"
        "<td class=\"n\">0.000040 [0.000000, 0.000100]</td><td class=\"n\">2 of 20</td></tr>\n"
        "<tr><td>c</td><td class=\"n\">-</td><td class=\"n\">-</td><td "
        "class=\"n\">-</td></tr>\n</tbody></table></div>\n");
  CHECK(table_csv({table}) ==
        "place,kind,effect,lo,hi,mean,mean_lo,mean_hi,rank\r\n"
        "a<b,x,0.5,0.25,0.75,4e-05,0,1e-04,2\r\nc,y,,,,,,,\r\n");
  CHECK(table_markdown(table).starts_with("\nPatching \\<em\\>:\n\n| place |"));
}

TEST_CASE("tables: CSV keeps every digit") {
  ResultRow row = row_of("a,\"b\"", "em");
  row.difference.value = 1.0 / 3;
  const CsvTable table = CsvTable::parse(table_csv({result_table({row, undefined_row()})}), "table.csv");
  REQUIRE(table.n_rows() == 2);
  CHECK(table.text(0, table.column("intervention")) == "a,\"b\"");
  CHECK(table.number(0, table.column("diff")) == 1.0 / 3);
  CHECK(table.integer(0, table.column("control_rank")) == 1);
  CHECK(table.integer(0, table.column("n_controls")) == 20);
  CHECK(table.integer(0, table.column("n_units")) == 24);
  CHECK(table.number(0, table.column("mde")) == 0.18);
  CHECK(table.number(0, table.column("vs_controls")) == -0.24);
  CHECK(table.number(0, table.column("vs_controls_p")) == 0.002);
  CHECK(table.number(0, table.column("equivalence_p")) == 0.75);
  CHECK(table.text(1, table.column("mde")).empty());
  CHECK(table.text(1, table.column("diff")).empty());
  CHECK(table.text(1, table.column("control_rank")).empty());
}

TEST_CASE("tables: rows of findings") {
  const RunFindings findings = run_findings(test::sample_values(), 1);
  const std::vector<ResultRow> rows = result_rows(findings, RowChoice::main),
                               all = result_rows(findings, RowChoice::all);
  REQUIRE(rows.size() == 3 * 7);
  CHECK(rows[0].intervention == test::odd_name);
  CHECK(rows[0].metric == "em");
  CHECK(rows[7].metric == "repetition");
  CHECK(rows[0].controls.differences.n == 20);
  CHECK(rows[0].controls.rank == 1);
  CHECK_FALSE(rows[1].controls.rank);
  CHECK(rows[0].difference.value == doctest::Approx(rows[0].mean.value - rows[0].baseline.value));
  REQUIRE(all.size() == 3 * 34);
  CHECK(all[1].control_of == test::odd_name);
  CHECK(result_rows(findings, RowChoice::main, "with_document")[0].difference.n == 30);
  CHECK_THROWS_WITH_AS(result_rows(findings, RowChoice::main, "other"),
                       doctest::Contains("expected a condition of the run's records (without_document, with_document)"),
                       Error);
  CHECK_THROWS_AS(result_rows(RunFindings(), RowChoice::main), Error);
}

TEST_CASE("tables: the three files") {
  test::TemporaryDirectory scratch;
  const RunFindings findings = run_findings(test::sample_values(), 1);
  write_tables(scratch.path(), findings);
  const std::string markdown = test::read_file(scratch / "table.md");
  CHECK(markdown.find("off\\_a \\& \\<b\\>\\|100%") != std::string::npos);
  // Conditions apart, all records last.
  CHECK(markdown.starts_with("| records"));
  const size_t without = markdown.find("| without\\_document "), with = markdown.find("| with\\_document "),
               all = markdown.find("| all ");
  CHECK(without < with);
  CHECK(with < all);
  CHECK(all < markdown.find("| without\\_document ", with));
  CHECK(test::read_file(scratch / "table.tex").find("off\\_a \\& \\textless{}b\\textgreater{}\\textbar{}100\\%") !=
        std::string::npos);
  const CsvTable table = CsvTable::read(scratch / "table.csv");
  CHECK(table.n_rows() == 3 * 3 * 7);
  CHECK(table.text(0, table.column("condition")) == "without_document");
  CHECK(table.text(1, table.column("condition")) == "with_document");
  CHECK(table.text(2, table.column("condition")).empty());
  CHECK(table.text(2, table.column("intervention")) == table.text(0, table.column("intervention")));
  CHECK(table.text(3, table.column("intervention")) != table.text(0, table.column("intervention")));
}

TEST_CASE("tables: which experts an intervention names, in words and in files") {
  Intervention one;
  one.description = "ban 3 experts in layers 1-3";
  one.experts = {{1, 0}, {1, 6}, {3, 2}};
  CHECK(experts_text(one.experts) == "layer 1: 0, 6; layer 3: 2");
  CHECK(intervention_text(one) == "ban 3 experts in layers 1-3 (layer 1: 0, 6; layer 3: 2)");
  const json::Value listed = experts_json(one.experts);
  CHECK(json::dump(listed) == R"({"1":[0,6],"3":[2]})");
  CHECK(parse_experts(json::Ref(listed, "plan.json")) == one.experts);
  const json::Value wrong = json::parse(R"({"1x":[0]})", "plan.json");
  CHECK_THROWS_WITH_AS(parse_experts(json::Ref(wrong, "plan.json")),
                       doctest::Contains("expected layers as keys, found \"1x\""), Error);
  for (int32_t i = 0; i < 40; ++i) one.experts.push_back({4, i});
  CHECK(intervention_text(one) == "ban 3 experts in layers 1-3");
}
