// A metric as a function of the number of active experts: `run` with {"op": "top_k", "k": "$k"} in a grid, against a
// forward of another hand whose router simply has that k, from 1 to all experts, in every family; and the report's
// curve.
#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <set>
#include <string>

#include "base/json.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::test;

TEST_CASE("effective top-k: perplexity and divergence under every k, of every family, and their curve") {
  const json::Value golden = json::parse(read_file(goldens_dir() / "lens/top_k.json"), "top_k.json");
  CHECK(golden.members().size() == 7);
  for (const auto& member : golden.members()) {
    const std::string family = member.first;
    const json::Value& expected = member.second;
    CAPTURE(family);
    TemporaryDirectory dir;
    std::string records;
    const auto& lists = expected.find("records")->items();
    for (size_t r = 0; r < lists.size(); ++r)
      records += "{\"id\": \"r" + std::to_string(r) + "\", \"tokens\": " + json::dump(lists[r]) + "}\n";
    write_file(dir / "data.jsonl", records);
    const int64_t n_experts = expected.find("n_experts")->integer();
    std::set<int64_t> ks;
    for (const json::Value& point : expected.find("points")->items()) ks.insert(point.find("k")->integer());
    CHECK((ks.count(1) == 1 && ks.count(n_experts) == 1 && ks.count(expected.find("n_active")->integer()) == 1));
    std::string list;
    for (const int64_t k : ks) list += (list.empty() ? "" : ", ") + std::to_string(k);
    write_file(dir / "spec.json",
               R"({"model": ")" + (goldens_dir() / family / "model").string() +
                   R"(", "data": "data.jsonl", "metrics": ["ppl", "kl"], "resamples": 50, "interventions": [
                   {"name": "baseline"},
                   {"name": "active", "grid": {"k": [)" +
                   list + R"(]}, "edits": [{"op": "top_k", "k": "$k"}]}]})");
    const Ran ran = run_command(binary() + " run " + (dir / "spec.json").string() + " --out " + (dir / "run").string() +
                                " --quiet --threads 1");
    CAPTURE(ran.err);
    REQUIRE(ran.code == 0);
    std::map<std::string, std::map<std::string, json::Value>> scores;  // intervention, record
    for (const std::string& line : lines_of(read_file(dir / "run/samples.jsonl"))) {
      const json::Value sample = json::parse(line, "samples.jsonl");
      scores[sample.find("intervention")->string()][sample.find("id")->string()] = *sample.find("scores");
    }
    for (const json::Value& point : expected.find("points")->items()) {
      const int64_t k = point.find("k")->integer();
      CAPTURE(k);
      const json::Value& found =
          scores.at("active/k=" + std::to_string(k)).at("r" + std::to_string(point.find("record")->integer()));
      const double ppl = point.find("ppl")->real(), kl = point.find("kl")->real();
      CHECK(std::abs(found.find("ppl")->real() - ppl) <= 1e-4 * ppl);
      CHECK(std::abs(found.find("kl")->real() - kl) <= 1e-5 + 1e-4 * kl);
    }
    const Ran report = run_command(binary() + " report " + (dir / "run").string());
    REQUIRE(report.code == 0);
    const std::string page = read_file(dir / "run/report.html");
    const size_t doses = page.find("id=\"doses\"");
    REQUIRE(doses != std::string::npos);
    CHECK(page.find("<h3>active: k</h3>", doses) != std::string::npos);
    CHECK(page.find("<svg", doses) != std::string::npos);
  }
}
