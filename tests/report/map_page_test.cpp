// The page of a causal map, of maps of a tiny model.
#include <doctest/doctest.h>

#include <filesystem>

#include "base/error.h"
#include "eval/causal/map.h"
#include "eval/data/record_jobs.h"
#include "eval/report/map_report.h"
#include "eval/report/run_report.h"
#include "loaders/open.h"
#include "tests/report/html_check.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::eval;
namespace fs = std::filesystem;

TEST_CASE("report: a causal map, whole and sampled") {
  const engine::Session session = tools::open_session((test::goldens_dir() / "olmoe" / "model").string(), {});
  std::vector<Record> records;
  for (const char* line :
       {R"({"id":"<a>","tokens":[5,9,33,17,40,12,61,8,25,30]})", R"({"id":"b","tokens":[44,3,9,71,20,31]})"})
    records.push_back(parse_record(json::parse(line, "records"), "records"));
  const RecordJobs made = make_jobs(session, records, Generate{}, nullptr);
  const test::TemporaryDirectory dir;
  for (const bool sampled : {false, true}) {
    MapRequest request;
    request.dir = dir / (sampled ? "sampled" : "whole");
    request.metric = Metric::nll;
    request.layers = session.model.moe_layers();
    if (sampled) request.sample = MapSample{2, 1, 0};
    const MapResult result = map_effects(session, records, made, request);
    const std::string html = render_report(request.dir);
    CHECK(test::mistake_in_html(html) == "");
    CHECK_FALSE(test::from_outside(html));
    CHECK(html.find(">nan") == std::string::npos);
    CHECK((html.find("were run, the others estimated") != std::string::npos) == sampled);
    CHECK((html.find("id=\"map-estimates-0\"") != std::string::npos) == sampled);
    const json::Value index = json::parse(test::data_block(html, "map"), "map");
    const json::Ref of(index, "map");
    CHECK(of.at("samples").length() == 2);
    CHECK(of.at("samples")[0].at("id").string() == "<a>");
    CHECK(of.at("samples")[1].at("row").integer() == 10);
    CHECK(of.at("samples")[0].at("texts").is_null());  // a model without a tokenizer
    CHECK(of.at("sampled").boolean() == sampled);
    CHECK(result.counts.cells > 0);
    // A page takes what fits.
    const std::string small = render_map_report(request.dir, {1, 4});
    const json::Value part = json::parse(test::data_block(small, "map"), "map");
    CHECK(json::Ref(part, "map").at("samples").length() == 1);
    CHECK(json::Ref(part, "map").at("samples")[0].at("n").integer() == 1);
    CHECK(small.find("Showing 1 of 2 records") != std::string::npos);
    fs::remove(request.dir / "experts.csv");
    CHECK_THROWS_AS(render_report(request.dir), Error);
  }
}
