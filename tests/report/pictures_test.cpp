// Pictures of a page's figures as files of their own, and graphs as pages.
#include <doctest/doctest.h>

#include "base/error.h"
#include "eval/report/figure_pictures.h"
#include "eval/report/graph_picture.h"
#include "eval/report/page.h"
#include "eval/report/page_data.h"
#include "eval/report/routes_graphs.h"
#include "eval/report/routes_report.h"
#include "tests/report/html_check.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::eval;

namespace {

size_t times(const std::string& text, const std::string& word) {
  size_t n = 0;
  for (size_t at = 0; (at = text.find(word, at)) != std::string::npos; at += word.size()) ++n;
  return n;
}

const PagePicture& named(const std::vector<PagePicture>& pictures, const std::string& name) {
  for (const PagePicture& picture : pictures)
    if (picture.name == name) return picture;
  FAIL("no picture " << name);
  return pictures.front();
}

void write_tables(const std::filesystem::path& dir) {
  test::write_file(dir / "usage.csv",
                   "layer,expert,domain,count,tokens,share,mean_weight\r\n1,0,,5,10,0.5,1\r\n1,1,,2,10,0.2,1\r\n"
                   "3,0,,4,10,0.4,1\r\n3,1,,8,10,0.8,1\r\n1,0,a<b,5,5,1,1\r\n1,1,a<b,0,5,0,\r\n3,0,a<b,1,5,0.2,1\r\n"
                   "3,1,a<b,4,5,0.8,1\r\n");
  test::write_file(dir / "balance.csv",
                   "layer,domain,entropy,entropy_normalised,load_balance,effective_experts\r\n1,,0.6,0.9,0.8,1.8\r\n"
                   "3,,0.5,0.7,0.8,1.6\r\n");
  test::write_file(
      dir / "transitions.csv",
      "layer,from,to,count,probability,expected,p,q\r\n1,0,1,3,0.75,2,0.1,0.2\r\n1,0,0,1,0.25,2,0.1,0.2\r\n");
  test::write_file(dir / "coactivation.csv",
                   "layer,expert_a,expert_b,count,p_b_given_a,p_a_given_b,lift\r\n1,0,1,4,0.8,0.5,1.2\r\n"
                   "3,0,1,2,0.8,0.5,1.2\r\n");
  test::write_file(dir / "communities.csv",
                   "layer,expert,community,count,within\r\n1,0,1,4,1\r\n1,1,1,4,1\r\n3,0,2,2,0\r\n3,1,,0,\r\n");
  test::write_file(dir / "across_layers.csv",
                   "layer_a,expert_a,layer_b,expert_b,jaccard,phi,p,q\r\n1,0,3,1,0.5,0.75,0.1,0.2\r\n");
  test::write_file(dir / "pipelines.csv",
                   "pipeline,step,layer,expert,domain,phi,p,q,phi_partial,p_partial,p_link,domain_ratio,domain_p,"
                   "domain_q\r\n1,1,1,0,,,0.01,0.02,,,,,,\r\n1,2,3,1,,0.5,0.01,0.02,,,,,,\r\n"
                   "2,1,1,1,,,0.01,0.02,,,,,,\r\n2,2,3,0,,0.25,0.01,0.02,,,,,,\r\n");
}

}  // namespace

TEST_CASE("pictures: every figure of a page, without a browser") {
  const test::TemporaryDirectory scratch;
  write_tables(scratch.path());
  const std::vector<PagePicture> pictures = pictures_of_page(render_routes(routes_of_directory(scratch.path())));
  for (const PagePicture& picture : pictures) {
    CAPTURE(picture.name);
    CHECK(picture.svg.starts_with(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" "));
    CHECK(picture.svg.find("var(") == std::string::npos);
    CHECK(picture.svg.find("fill=\"#ffffff\"") != std::string::npos);
    CHECK(picture.svg.ends_with("</svg>\n"));
    CHECK(picture.svg.find("nan") == std::string::npos);
  }
  // A cell each; the map of domains once a layer, with the domain's name and not its mark-up.
  CHECK(times(named(pictures, "usage-map").svg, "class=\"cell up\"") == 4);
  const std::string& domains = named(pictures, "domain-map-layer-1").svg;
  CHECK(times(domains, "class=\"cell ") == 2);
  CHECK(domains.find("a&lt;b") != std::string::npos);
  CHECK(domains.find("class=\"cell down\"") != std::string::npos);  // 0 of its tokens, 0.2 of all
  CHECK(named(pictures, "domain-map-layer-3").svg.find("expert of layer 3") != std::string::npos);
  CHECK(times(named(pictures, "transition-map-layer-1").svg, "class=\"cell ") == 2);
  CHECK(times(named(pictures, "coactivation-graph-layer-3").svg, "class=\"edge\"") == 1);
  CHECK(times(named(pictures, "coactivation-graph-layer-1").svg, ">c1</text>") == 2);
  CHECK(times(named(pictures, "coactivation-graph-layer-3").svg, ">c2</text>") == 1);
  CHECK(times(named(pictures, "flow").svg, "class=\"edge\"") == 1);
  CHECK(times(named(pictures, "balance").svg, "<polyline") == 1);
  CHECK(pictures.size() == 8);

  // Those that stand in a page: the broad form.
  const std::string page =
      html_page("t", html_figure("two",
                                 "<div class=\"broad\"><svg width=\"5\" height=\"6\"><g/></svg></div>"
                                 "<div class=\"narrow\"><svg width=\"3\" height=\"4\"></svg></div>",
                                 "c") +
                         html_figure("one", "<svg width=\"7\" height=\"8\"></svg>", "c"));
  const std::vector<PagePicture> standing = pictures_of_page(page);
  REQUIRE(standing.size() == 2);
  CHECK(standing[0].name == "two");
  CHECK(standing[0].svg.find("width=\"5\" height=\"6\"") != std::string::npos);
  CHECK(standing[1].name == "one");
  CHECK(write_pictures(page, scratch / "p").size() == 2);
  CHECK(test::read_file(scratch / "p/one.svg") == standing[1].svg);
  CHECK_THROWS_WITH_AS(write_pictures(html_page("t", ""), scratch / "q"),
                       "--pictures: expected a report with figures, found one without", Error);
}

TEST_CASE("graphs: chains of experts, and pages of their own") {
  const test::TemporaryDirectory scratch;
  write_tables(scratch.path());
  const std::vector<std::filesystem::path> files =
      write_graphs(scratch.path(), scratch.path(), {"mermaid", "html"}, 10);
  REQUIRE(files.size() == 6);
  CHECK(files[4] == scratch / "pipelines.mmd");
  const std::string chains = test::read_file(files[4]);
  CHECK(chains.find("  L1E0 -->|\"0.5\"| L3E1\n") != std::string::npos);
  CHECK(chains.find("  L1E1 -->|\"0.25\"| L3E0\n") != std::string::npos);
  CHECK(times(chains, "-->") == 2);  // none between the two chains
  for (const size_t i : {1, 3, 5}) {
    const std::string html = test::read_file(files[i]);
    CHECK(test::mistake_in_html(html) == "");
    CHECK(!test::from_outside(html));
  }
  // A script draws it, of these edges.
  const json::Value drawn = json::parse(test::data_block(test::read_file(files[5]), "graph"), "graph");
  const json::Ref edges = json::Ref(drawn, "graph").at("edges");
  REQUIRE(edges.length() == 2);
  CHECK(edges[0].at("source").string() == "L1E0");
  CHECK(edges[0].at("target").string() == "L3E1");
  CHECK(edges[0].at("metadata").at("phi").number() == 0.5);
}

TEST_CASE("pages: links to their sections") {
  CHECK(section_links("<h2 id=\"a\">One &amp; all</h2>x<h2 id=\"b\">Two</h2>") ==
        "<nav class=\"small\" aria-label=\"sections\"><a href=\"#a\">One &amp; all</a><a href=\"#b\">Two</a></nav>\n");
  CHECK(section_links("<h2 id=\"a\">One</h2>").empty());
}
