// Pages of patching, attribution and circuits, of small tables.
#include <doctest/doctest.h>

#include <filesystem>

#include "base/error.h"
#include "base/json.h"
#include "eval/report/run_report.h"
#include "eval/store/manifest.h"
#include "tests/report/html_check.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::eval;

namespace {

namespace fs = std::filesystem;

bool shows(const std::string& html, const std::string& text) { return html.find(text) != std::string::npos; }

void write_manifest(const fs::path& dir, const std::string& schema) {
  test::write_file(dir / "manifest.json", R"({"schema":")" + schema + R"(","status":"complete"})");
}

size_t times_in(const std::string& html, const std::string& text) {
  size_t n = 0;
  for (size_t at = html.find(text); at != std::string::npos; at = html.find(text, at + 1)) ++n;
  return n;
}

}  // namespace

TEST_CASE("report: patching, by position, by unit and both") {
  const test::TemporaryDirectory dir;
  write_manifest(dir.path(), "signalbox.patch/1");
  const auto summary = [&](const std::string& direction, const std::string& by) {
    test::write_file(dir / "summary.json", R"({"metric":"logit_diff","direction":")" + direction + R"(","by":")" + by +
                                               R"(","pairs":{"read":3,"kept":2,"dropped":["<a>"]}})");
  };
  summary("denoising", "natural");
  test::write_file(
      dir / "patch.csv",
      "pair,point,layer,unit,effect,normalised,ci_lo,ci_hi\r\n"
      ",resid_out,0,3,2,0.5,0.25,0.75\r\n,resid_out,1,4,-1,-0.25,-0.5,0.125\r\n"
      ",attn.z,1,2,0.5,0.125,0.0625,0.25\r\n,embed,,0,0.25,0.0625,-0.1,0.1\r\np,resid_out,0,3,2,0.5,,\r\n");
  test::write_file(dir / "flips.csv",
                   "pair,point,layer,unit,routes,flipped,share\r\n,resid_out,0,3,8,2,0.25\r\n"
                   ",resid_out,1,4,0,0,\r\n,attn.z,1,2,8,0,0\r\n,embed,,0,8,8,1\r\np,resid_out,0,3,8,2,0.25\r\n");
  const std::string html = render_report(dir.path());
  CHECK(test::mistake_in_html(html) == "");
  CHECK_FALSE(test::from_outside(html));
  CHECK(shows(
      html,
      "Of 3 pairs 2 take part. The largest effect is that of layer 0 resid_out 3: with its value of the clean run "
      "the corrupt one changes logit_diff by +2.000, 0.500 [0.250, 0.750] of the difference of logit_diff between "
      "the two runs. Of 4 places 2 have an interval that excludes 0"));
  CHECK(times_in(html, "<figure") == 3);  // resid_out and embed by position, attn.z by head
  CHECK(shows(html, "id=\"map-0-position\""));
  CHECK(shows(html, "id=\"map-1-unit\""));
  CHECK(shows(html, "25.0 %"));
  CHECK(shows(html, "&lt;a&gt;"));
  CHECK_FALSE(shows(html, ">nan"));
  // One unit at one token: both maps. No ratio means anything: the effects themselves.
  summary("noising", "both");
  test::write_file(dir / "patch.csv",
                   "pair,point,layer,unit,effect,normalised,ci_lo,ci_hi\r\n,attn.z,0,1@3,-0.5,,,\r\n"
                   ",attn.z,0,1@4,0.25,,,\r\n");
  test::write_file(dir / "flips.csv",
                   "pair,point,layer,unit,routes,flipped,share\r\n,attn.z,0,1@3,0,0,\r\n,attn.z,0,1@4,0,0,\r\n");
  const std::string both = render_report(dir.path());
  CHECK(test::mistake_in_html(both) == "");
  CHECK(times_in(both, "<figure") == 2);
  CHECK(shows(both, "with its value of the corrupt run the clean one changes logit_diff by -0.500."));
  CHECK_FALSE(shows(both, "excludes 0"));
  fs::remove(dir / "flips.csv");
  CHECK_THROWS_AS(render_report(dir.path()), Error);
}

TEST_CASE("report: attribution, token by token and with intervals over records") {
  const test::TemporaryDirectory dir;
  write_manifest(dir.path(), "signalbox.attribution/1");
  test::write_file(dir / "summary.json", R"({"metric":"logprob","method":"atp","records":2})");
  test::write_file(
      dir / "attribution.csv",
      "id,position,layer,point,unit,score,flip_share,linear_trusted\r\n"
      "a,0,,embed,,0.5,0,1\r\na,0,1,expert.contribution,7,1.5,0.5,0\r\na,1,1,expert.contribution,7,0.5,0,1\r\n"
      "b,0,1,expert.contribution,7,1,0,1\r\nb,0,,embed,,0.25,0,1\r\n"
      "b,1,1,attn.q,2,64,,\r\n");
  test::write_file(dir / "totals.csv",
                   "layer,point,unit,records,of_records,signed,absolute,cells,flip_share\r\n"
                   "1,expert.contribution,7,2,2,1.5,1.5,1.5,0.1666\r\n,embed,,2,2,0.375,0.375,0.375,0\r\n");
  const std::string html = render_report(dir.path());
  CHECK(test::mistake_in_html(html) == "");
  CHECK(shows(html, "The largest mean is that of layer 1 expert.contribution 7, +1.5000 [1.0000, 2.0000] of logprob."));
  CHECK(shows(html, "For 20.0 % of the scores a later route would change"));
  CHECK(times_in(html, "<figure") == 3);  // two records, and the experts
  CHECK(shows(html, "id=\"record-1\""));
  CHECK(shows(html, "id=\"units-1\""));
  CHECK(shows(html, "16.7 %"));
  CHECK_FALSE(shows(html, "+64.00"));  // a query's score is not among the sums of what parts write
  CHECK_FALSE(shows(html, ">nan"));
}

TEST_CASE("report: a circuit, its graph drawn, its parts and edges with intervals") {
  const test::TemporaryDirectory dir;
  test::write_file(
      dir / "graph.json",
      R"({"graph":{"id":"circuit","directed":true,"type":"signalbox.circuit/1","label":"m","metadata":{"model":"m"},)"
      R"("nodes":{"embed":{"label":"embedding","metadata":{"effect":null,"in_circuit":true}},)"
      R"("L0.H3":{"label":"layer 0, head 3","metadata":{"effect":-1.5,"ci_lo":-2,"ci_hi":-1,"q":0.01,"n":4,)"
      R"("in_circuit":true}},"logits":{"label":"logits","metadata":{"effect":null,"in_circuit":true}}},)"
      R"("edges":[{"source":"embed","target":"L0.H3","relation":"feeds","metadata":{"effect":0.25,"ci_lo":0.125,)"
      R"("ci_hi":0.5,"q":0.2,"in_circuit":false}},{"source":"L0.H3","target":"logits","relation":"feeds",)"
      R"("metadata":{"effect":-0.125,"ci_lo":null,"ci_hi":null,"q":null,"in_circuit":true}}]}})");
  test::write_file(
      dir / "circuit.json",
      R"({"schema":"signalbox.circuit/1","model":"m<>","metric":"logit_diff","ablation":"corrupt","size":1,)"
      R"("active_parts":9,"faithful_enough":true,"scores":{"test":{"pairs":2,"faithfulness":0.75,)"
      R"("ci_lo":0.5,"ci_hi":1.0}},"completeness":{"gap":0.125,"without":[]},"sizes":[)"
      R"({"size":0,"added":null,"faithfulness":{"discover":0.0,"size":0.0,"test":0.0},"random":null},)"
      R"({"size":1,"added":"L0.H3","faithfulness":{"discover":0.5,"size":null,"test":0.75},)"
      R"("random":{"mean":0.125,"lo":0.0,"hi":0.25}}]})");
  const std::string html = render_report(dir.path());
  CHECK(test::mistake_in_html(html) == "");
  CHECK(
      shows(html,
            "The circuit has 1 of 9 parts that write anything. Alone, with all others taken out (corrupt), it brings "
            "back 0.750 [0.500, 1.000] of logit_diff on the 2 pairs that had no part in finding it. The largest gap to "
            "completeness is 0.125."));
  CHECK(test::data_block(html, "graph")
            .find("\"id\":\"L0.H3\",\"label\":\"layer 0, head 3\",\"layer\":0,\"faint\":false") != std::string::npos);
  CHECK(shows(html, "id=\"sizes-curve\""));
  // The edge of the circuit stands before a larger one that is not in it.
  CHECK(html.find("-0.1250") < html.find("+0.2500"));
  CHECK(shows(html, "[0.1250, 0.5000]"));
  CHECK(shows(html, "Circuit of m&lt;&gt;"));
  fs::remove(dir / "graph.json");
  CHECK_THROWS_AS(render_report(dir.path()), Error);
}

TEST_CASE("report: direct edges, the largest first") {
  const test::TemporaryDirectory dir;
  write_manifest(dir.path(), "signalbox.edges/1");
  test::write_file(dir / "summary.json",
                   R"({"metric":"logit_diff","direction":"denoising","pairs":{"read":3,"kept":2,"dropped":["<a>"]}})");
  test::write_file(dir / "edges.csv",
                   "pair,sender,receiver,position,effect,normalised,ci_lo,ci_hi,change,tokens,flipped\r\n"
                   ",L0.H1,logits,,0.5,0.125,-0.25,0.5,1,4,\r\n,L1.E3,L2.router,5,-2,-0.5,-0.75,-0.25,2,3,1\r\n"
                   "p,L0.H1,logits,,0.5,0.125,,,1,4,\r\n");
  const std::string html = render_report(dir.path());
  CHECK(test::mistake_in_html(html) == "");
  CHECK_FALSE(test::from_outside(html));
  CHECK(shows(
      html,
      "Of 3 pairs 2 take part (denoising). The largest effect is that of L1.E3 \xE2\x86\x92 L2.router at position "
      "5: -2.000 of logit_diff, -0.500 [-0.750, -0.250] as a share of the difference"));
  CHECK(html.find("-2.0000") < html.find("+0.5000"));
  CHECK(times_in(html, "<figure") == 1);
  CHECK(shows(html, "The first 2 of 2"));
  CHECK_FALSE(shows(html, ">nan"));
}

TEST_CASE("report: directions, before and after they were validated") {
  const test::TemporaryDirectory dir;
  write_manifest(dir.path(), "signalbox.direction/1");
  test::write_file(dir / "selection.csv",
                   "layer,norm,relative,router_layer,router_share,auc\r\n0,1,0.5,1,0.25,0.75\r\n1,2,0.5,,,1\r\n");
  test::write_file(dir / "summary.json", R"({"contrast":"on:off<","layer":1})");
  const std::string before = render_report(dir.path());
  CHECK(test::mistake_in_html(before) == "");
  CHECK(shows(before, "Of all layers the vector behind layer 1 was chosen. It was not tried on held-out records yet"));
  CHECK(shows(before, "Directions: on:off&lt;"));
  CHECK(times_in(before, "<figure") == 1);
  test::write_file(dir / "summary.json", R"({"contrast":"on:off","layer":1,"validation":{"metric":"logit_diff"}})");
  test::write_file(dir / "validation.csv",
                   "layer,part,kind,dose,auc,effect,ci_lo,ci_hi,p\r\n1,whole,direction,,0.875,,0.75,1,0.125\r\n"
                   "1,whole,permuted,,0.5,,0.25,0.75,0.125\r\n1,whole,direction,1,,2,1,3,0.0625\r\n"
                   "1,whole,direction,-1,,-2,-3,-1,0.0625\r\n1,router,direction,1,,0.5,,,\r\n"
                   "1,whole,direction,ablate,,-1,,,0.5\r\n");
  test::write_file(dir / "steering.csv",
                   "layer,part,dose,condition,records,effect,routes_held,routes_alone,interaction,jaccard_next,jaccard,"
                   "kl,opposite\r\n1,whole,1,off,4,2,1.5,0.25,0.25,,1,0.125,0\r\n");
  const std::string html = render_report(dir.path());
  CHECK(test::mistake_in_html(html) == "");
  CHECK_FALSE(test::from_outside(html));
  CHECK(shows(html, "On held-out records its AUC is 0.875 [0.750, 1.000] (p over all layers 0.125)."));
  CHECK(times_in(html, "<figure") == 2);
  CHECK(shows(html, "id=\"dose-1\""));
  CHECK(shows(html, "+1.500"));
  CHECK_FALSE(shows(html, ">nan"));
}

TEST_CASE("report: a directory without a page says what it is, what is missing, and what makes it") {
  const test::TemporaryDirectory dir;
  const auto message = [&] {
    try {
      render_report(dir.path());
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK(message().find("expected a directory that has a page (a run, a trace,") != std::string::npos);
  Manifest manifest;
  manifest.schema = "signalbox.patch/1";
  manifest.info.set("argv", json::parse(R"(["causal","patch","builtin","--input","my pairs.jsonl"])", "argv"));
  manifest.shard = Shard{0, 2};
  manifest.start = "2026-01-31T09:30:00Z";
  manifest.attempts = {{manifest.start, "", RunStatus::interrupted}};
  manifest.status = RunStatus::interrupted;
  manifest.write(dir.path());
  CHECK(message() == dir.path().string() +
                         ": expected finished work, found one that is interrupted (shard 0/2) and has no tables yet; "
                         "this goes on with it: signalbox causal patch builtin --input 'my pairs.jsonl' (and signalbox "
                         "merge puts the shards together)");
  manifest.status = manifest.attempts[0].status = RunStatus::complete;
  manifest.shard = Shard();
  manifest.write(dir.path());
  CHECK(message().find("expected patch.csv, which the work here had finished, found none; this makes it again: "
                       "signalbox causal patch") != std::string::npos);
  manifest.schema = "signalbox.effects/1";
  manifest.write(dir.path());
  CHECK(message().find("found signalbox.effects/1, whose tables are to be read as they are (signalbox causal patch") !=
        std::string::npos);
}
