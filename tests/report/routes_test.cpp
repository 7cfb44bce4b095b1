// The report of routes: samples as they are packed, tables that are cut, sentences, and hostile texts.
#include <doctest/doctest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "base/base64.h"
#include "base/error.h"
#include "eval/report/browser_files.h"
#include "eval/report/page.h"
#include "eval/report/page_data.h"
#include "eval/report/routes_graphs.h"
#include "eval/report/routes_report.h"
#include "eval/report/routes_samples.h"
#include "eval/report/routes_sentences.h"
#include "eval/report/routes_tables.h"
#include "eval/report/run_report.h"
#include "eval/report/token_text.h"
#include "tests/detect/hand_trace.h"
#include "tests/report/html_check.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::eval;
namespace fs = std::filesystem;

namespace {

using test::HandSample;
using test::HandToken;

HandToken token_of(int32_t first, int32_t second, float weight, uint8_t phase = 0) {
  HandToken out;
  out.first = first;
  out.second = second;
  out.first_weight = weight;
  out.second_weight = 0;
  out.phase = phase;
  return out;
}

std::string record_line(const std::string& id, const std::string& more) {
  return "{\"id\":\"" + id + "\",\"prompt\":\"x\"" + more + "}";
}

}  // namespace

TEST_CASE("base64: RFC 4648's examples, and every byte") {
  CHECK(base64("") == "");
  CHECK(base64("f") == "Zg==");
  CHECK(base64("fo") == "Zm8=");
  CHECK(base64("foo") == "Zm9v");
  CHECK(base64("foobar") == "Zm9vYmFy");
  CHECK(base64("\xFF\xFE\xFD") == "//79");
  const std::string blocks = bytes_block("x", std::string(bytes_of_piece + 1, 'a'));
  CHECK(blocks.find("id=\"x-0\"") != std::string::npos);
  CHECK(test::data_block(blocks, "x-1") == "YQ==");
}

TEST_CASE("tokens read as text, whatever the vocabulary spells them like") {
  using Texts = std::vector<std::string>;
  const Texts bytes = {"<bos>", "\xC4\xA0the", "\xC4\x8A", "\xC3\xA2\xC4\xA2", "\xC4\xBE", "\xC3\xA2", "a"};
  CHECK(spelling_of({bytes}) == Spelling::byte_level);
  // E2 80 | 9C is a quotation mark; a lone E2 is no character.
  CHECK(token_texts_of(bytes, Spelling::byte_level) == Texts{"<bos>", " the", "\n",
                                                             "\xE2\x80\xB9"
                                                             "e2 80\xE2\x80\xBA",
                                                             "\xE2\x80\x9C",
                                                             "\xE2\x80\xB9"
                                                             "e2\xE2\x80\xBA",
                                                             "a"});
  const Texts pieces = {"\xE2\x96\x81of", "<0xC3>", "<0xA9>", "<0x0A>", "\xD7\xA9"};
  CHECK(spelling_of({pieces}) == Spelling::sentencepiece);
  CHECK(token_texts_of(pieces, Spelling::sentencepiece) == Texts{" of",
                                                                 "\xE2\x80\xB9"
                                                                 "c3\xE2\x80\xBA",
                                                                 "\xC3\xA9", "\n", "\xD7\xA9"});
  CHECK(spelling_of({{"a", "b"}}) == Spelling::plain);
  CHECK(token_texts_of({"<0x0A>", ""}, Spelling::plain) == Texts{"<0x0A>", ""});
}

TEST_CASE("samples are packed as the trace has them, in turn from every condition") {
  test::TemporaryDirectory scratch;
  std::vector<HandSample> samples = {
      {record_line("a", ",\"condition\":\"x\""), {token_of(3, 1, 1.0F), token_of(0, 2, 0.5F, 1)}},
      {record_line("b", ",\"condition\":\"x\""), {token_of(2, 0, 0.25F)}},
      {record_line("c", ",\"condition\":\"y\",\"domain\":\"d\""), {token_of(1, 0, 0.0F), token_of(1, 3, 1.0F)}}};
  test::write_hand_trace(scratch.path(), samples);
  const PackedSamples all = pack_samples(scratch.path());
  CHECK(all.ids == std::string("\3\1\0\2\2\0\1\0\1\3", 10));
  CHECK(all.weights == std::string("\xFF\0\x80\0\x40\0\0\0\xFF\0", 10));
  CHECK(all.changed.empty());
  const json::Ref index(all.index, "index");
  CHECK(index.at("samples").length() == 3);
  CHECK(index.at("samples")[0].at("given").integer() == 1);
  CHECK(index.at("samples")[2].at("domain").string() == "d");
  CHECK(index.at("samples")[2].at("row").integer() == 3);
  CHECK(index.at("samples")[2].at("texts").is_null());
  CHECK(index.at("weights")[1].number() == 1.0);

  // Room for two: one of each condition, in the order of the trace; room for a token: the beginning of the first.
  const PackedSamples two = pack_samples(scratch.path(), {1000, 1000, 2});
  const json::Ref chosen(two.index, "two");
  REQUIRE(chosen.at("samples").length() == 2);
  CHECK(chosen.at("samples")[1].at("id").string() == "c");
  CHECK(chosen.at("n_samples").integer() == 3);
  CHECK(chosen.at("n_tokens").integer() == 5);
  const PackedSamples one = pack_samples(scratch.path(), {14, 1000, 10});
  const json::Ref cut(one.index, "one");
  REQUIRE(cut.at("samples").length() == 1);
  CHECK(cut.at("samples")[0].at("n").integer() == 1);
  CHECK(cut.at("samples")[0].at("of").integer() == 2);
}

TEST_CASE("report: a trace without tables, with hostile texts") {
  test::TemporaryDirectory scratch;
  const std::string id = "</script><b>\\u202e";
  test::write_hand_trace(scratch.path(), {{record_line(id, ""), {token_of(3, 1, 1.0F), token_of(0, 2, 0.5F, 1)}}});
  test::write_file(scratch / "texts.jsonl",
                   "{\"id\":\"" + id +
                       "\",\"sample\":0,\"text\":\"\",\"tokens\":[1,1],\"pieces\":[\"</script><"
                       "script>alert(1)\",\"<!--\\u0000\"],\"generated\":\"\"}\n");
  const std::string html = render_report(scratch.path());
  CHECK(test::mistake_in_html(html) == "");
  CHECK_FALSE(test::from_outside(html));
  CHECK(html.size() < 1024 * 1024);
  CHECK(html.find("<script>alert") == std::string::npos);
  CHECK(html.find("<!--") == std::string::npos);
  const json::Value index = json::parse(test::data_block(html, "samples"), "samples");
  CHECK(json::Ref(index, "samples").at("samples")[0].at("texts")[0].string() == "</script><script>alert(1)");
  CHECK(test::data_block(html, "sample-ids-0") == base64(std::string("\3\1\0\2", 4)));
  CHECK(html.find("All 1 sample, 2 tokens.") != std::string::npos);

  // D3 and the page's script once, and D3 only where a figure needs it.
  const std::string d3(browser_file("d3.min.js"));
  CHECK(html.find(d3) != std::string::npos);
  CHECK(html.find(d3, html.find(d3) + 1) == std::string::npos);
  const std::string plain = html_page("t", html_figure("f", "<svg></svg>", "c", "a\r\n<\r\n"));
  CHECK(plain.find(d3) == std::string::npos);
  CHECK(plain.find("\"a\\r\\n\\u003c\\r\\n\"") != std::string::npos);
  CHECK(test::mistake_in_html(plain) == "");

  test::write_file(scratch / "texts.jsonl",
                   "{\"id\":\"other\",\"sample\":0,\"text\":\"\",\"tokens\":[1,1],\"pieces\":[\"a\",\"b\"]}\n");
  CHECK_THROWS_AS(render_report(scratch.path()), Error);
}

TEST_CASE("report: traces of nothing") {
  test::TemporaryDirectory scratch;
  test::write_hand_trace(scratch / "empty", {});
  CHECK(render_report(scratch / "empty").find("The trace holds no samples.") != std::string::npos);
  test::write_hand_trace(scratch / "scores", {{record_line("a", ""), {token_of(0, 1, 1)}}}, "*.router.logits");
  CHECK(render_report(scratch / "scores").find("The trace holds no routes") != std::string::npos);
}

TEST_CASE("tables of a page keep the strongest rows within their room") {
  std::string csv = "layer,expert,rd,text\r\n";
  for (int i = 0; i < 100; ++i)
    csv += "1," + std::to_string(i) + "," + std::to_string((i % 2 ? -1 : 1) * i / 7.0) + "," + (i % 3 ? "a" : "<") +
           "\r\n";
  const CsvTable table = CsvTable::parse(csv, "t");
  const PackedTable whole = pack_table(table, {{"layer", "expert", "rd", "text", "absent"}, {"text"}, "rd", 100000});
  CHECK(whole.rows == 100);
  CHECK(whole.block.find("columns")->find("absent") == nullptr);
  CHECK(json::dump(*whole.block.find("columns")->find("text")->find("levels")) == "[\"<\",\"a\"]");
  CHECK(json::dump(whole.block.find("columns")->find("rd")->items()[1]) == "-0.14286");
  const PackedTable cut = pack_table(table, {{"layer", "expert", "rd"}, {}, "rd", 400});
  CHECK(json::dump(cut.block).size() <= 400);
  CHECK(cut.rows > 10);
  CHECK(cut.block.find("columns")->find("expert")->items().back().integer() == 99);
  CHECK(cut.block.find("columns")->find("expert")->items().front().integer() == 100 - cut.rows);
}

TEST_CASE("sentences of an analysis say what its tests say") {
  test::TemporaryDirectory scratch;
  test::write_file(
      scratch / "domains.csv",
      "layer,chi2,df,p,cramers_v,p_permutation,q\r\n1,3,2,0.2,0.25,0.001,0.04\r\n2,3,2,0.2,0.5,0.2,0.3\r\n");
  test::write_file(scratch / "persistence.csv",
                   "layer,expert,rate,p_stay,lag1,lag1_p,lag1_q,dwell_mean\r\n1,0,0.1,0.6,0.5,0.001,0.01,2\r\n"
                   "1,1,0.3,0.1,-0.2,0.001,0.01,1\r\n1,2,0.2,0.9,0.8,0.2,0.4,5\r\n1,3,0,,,,,\r\n");
  test::write_file(scratch / "across_layers.csv",
                   "layer_a,expert_a,layer_b,expert_b,jaccard,phi,p,q\r\n1,0,2,3,0.5,0.7,0.5,0.6\r\n");
  test::write_file(scratch / "consistency.csv", "layer,neighbours,consistency,expected,p,q\r\n");
  const std::vector<std::string> found = routes_sentences(scratch.path());
  REQUIRE(found.size() == 3);
  CHECK(
      found[0] ==
      "Domains use different experts in 1 of 2 layers (q < 0.05, domains permuted over whole records); most in layer 1 "
      "(Cram\xC3\xA9r's V 0.25).");
  CHECK(found[1].find("of 2 of 4 experts") != std::string::npos);
  CHECK(found[1].find("positive for 1, negative for 1.") != std::string::npos);
  CHECK(found[1].find("Expert 0 of layer 1 is selected by 10 % of tokens, and by 60 %") != std::string::npos);
  CHECK(found[2].starts_with("No pair of experts"));
}

TEST_CASE("graphs for other programs: the strongest links of each layer") {
  const CsvTable pairs =
      CsvTable::parse("layer,expert_a,expert_b,count,lift\r\n1,0,1,5,2\r\n1,0,2,9,\r\n1,1,2,7,1\r\n2,0,3,1,1\r\n", "t");
  const Graph together = coactivation_graph(pairs, 2);
  REQUIRE(together.edges.size() == 3);
  CHECK(!together.directed);
  CHECK(together.edges[0].target == "L1E2");
  CHECK(together.edges[0].weight == 9);
  CHECK(together.edges[1].weight == 7);
  CHECK(together.edges[2].source == "L2E0");
  REQUIRE(together.nodes.size() == 5);
  CHECK(together.nodes[4].id == "L2E3");
  CHECK(together.nodes[4].layer == 2);
  const CsvTable groups =
      CsvTable::parse("layer,expert,community,count,within\r\n1,0,1,14,1\r\n1,2,2,16,1\r\n2,3,,0,\r\n", "t");
  const Graph grouped = coactivation_graph(pairs, 2, communities_of(groups));
  CHECK(grouped.nodes[2].metadata.find("community")->integer() == 2);
  CHECK(grouped.nodes[4].metadata.find("community") == nullptr);
  test::TemporaryDirectory scratch;
  test::write_file(scratch / "across_layers.csv",
                   "layer_a,expert_a,layer_b,expert_b,jaccard,phi\r\n1,0,2,3,0.5,0.75\r\n1,0,2,1,0.1,-0.5\r\n");
  const std::vector<fs::path> files = write_graphs(scratch.path(), scratch.path(), {"json", "mermaid"}, 10);
  REQUIRE(files.size() == 2);
  const json::Value graph = json::parse_file(files[0]);
  const json::Ref body = json::Ref(graph, "graph").at("graph");
  CHECK(body.at("directed").boolean());
  REQUIRE(body.at("edges").length() == 1);
  CHECK(body.at("edges")[0].at("target").string() == "L2E3");
  CHECK(body.at("edges")[0].at("metadata").at("phi").number() == 0.75);
  CHECK(body.at("nodes").at("L1E0").at("metadata").at("layer").integer() == 1);
  CHECK(test::read_file(files[1]).ends_with("  L1E0 -->|\"0.75\"| L2E3\n"));
  CHECK_THROWS_AS(write_graphs(scratch / "none", scratch.path(), {"dot"}, 10), Error);
}
