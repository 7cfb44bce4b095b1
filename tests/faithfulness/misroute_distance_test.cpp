// How far a misrouting goes: by hand, and against the trace command; and the yardstick of moved routes.
#include "eval/faithfulness/misroute_distance.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "base/csv.h"
#include "probes/trace.h"
#include "tests/faithfulness/calls.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;
using test::call;
using test::find;
using test::lines_of;
using test::text_of;

TEST_CASE("distance of a misrouting, by hand") {
  probes::ModelShape shape;
  shape.layers.resize(2);
  shape.layers[1] = {.moe = true, .n_experts = 4, .n_active = 2, .d_ff = 1, .shared = false};
  MisrouteDistances distances(shape, {{1, 4}, {0, 0}, {0, 1}});
  CHECK(distances.wants(probes::Point::router_logits, 1));
  CHECK(!distances.wants(probes::Point::router_logits, 0));
  CHECK(!distances.wants(probes::Point::router_weights, 1));
  std::vector<float> logits;
  for (int row = 0; row < 6; ++row)
    for (const double p : {0.4, 0.3, 0.2, 0.1}) logits.push_back(static_cast<float>(std::log(p) + row));
  // Sample 0: row 0 is no part of the explanation, row 1 goes to the other two, row 2 keeps one expert, row 3 both.
  // Sample 1 has no explanation; sample 2 keeps its route in another order.
  const std::vector<int32_t> original = {0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1};
  const std::vector<int32_t> ids = {2, 3, 2, 3, 2, 0, 0, 1, 2, 3, 1, 0};
  const std::vector<probes::RowRange> ranges = {{0, 0, 4, 0}, {1, 0, 1, 4}, {2, 0, 1, 5}};
  distances.begin(
      {.n_rows = 6, .ranges = ranges, .tokens = nullptr, .positions = nullptr, .phase = nullptr, .spans = nullptr});
  distances.take_ids(1, ids.data(), original.data(), 2);
  distances.take(probes::Point::router_logits, 1, logits.data(), 4);
  distances.end();
  const MisrouteDistance first = distances.of(0);
  CHECK(first.tokens == 2);
  CHECK(first.replaced == doctest::Approx((1 + 0.5) / 2));
  CHECK(first.mass_lost == doctest::Approx((0.4 + 0.1) / 2));
  for (const int64_t sample : {1, 2}) {
    CHECK(distances.of(sample).tokens == 0);
    CHECK(std::isnan(distances.of(sample).replaced));
  }
}

TEST_CASE("faithfulness: distances of misroutings are those of a trace under the same edit") {
  test::TemporaryDirectory scratch;
  test::write_file(scratch / "in.jsonl", test::records("two_hop_steps.jsonl", 3));
  REQUIRE(call(faithfulness_command, {"builtin", "--input", (scratch / "in.jsonl").string(), "--out",
                                      (scratch / "f").string(), "--max-tokens", "48", "--quiet", "--form", "forced",
                                      "--tests", "misroute", "--fractions", "0,0.5,1", "--resamples", "50"}) == 0);
  const auto lines = lines_of(scratch / "f/samples.jsonl");
  const std::string id = "two_hop_steps-0000", explanation = text_of(find(lines, id, "full", 2), "explanation");
  const std::string question =
      "User: Document: Osfartar was born in Goltritar. Osfartar lives in Saryas. The queen of Saryas is Lanrin. The "
      "queen of Zelploqui is Trimir. The queen of Goltritar is Rostol.\nQuestion: Who is the queen of the place where "
      "Osfartar was born? Think step by step.\n\nAssistant:";
  json::Value record = json::Value::object().set("id", id).set("prompt", question + explanation + " Answer: Rostol.");
  json::Value span = json::Value::array();
  span.push_back(static_cast<int64_t>(question.size()))
      .push_back(static_cast<int64_t>(question.size() + explanation.size()));
  record.set("spans", json::Value::object().set("explanation", std::move(span)));
  test::write_file(scratch / "traced.jsonl", json::dump(record) + "\n");
  for (const std::string policy : {"next_best", "random"})
    for (const std::string fraction : {"0.5", "1"}) {
      CAPTURE(policy);
      CAPTURE(fraction);
      test::write_file(scratch / "edits.json", R"({"edits":[{"op":"misroute","policy":")" + policy +
                                                   R"(","tokens":{"span":"explanation","fraction":)" + fraction +
                                                   "}}]}");
      const std::filesystem::path dir = scratch / (policy + fraction);
      REQUIRE(call(trace_command, {"builtin", "--input", (scratch / "traced.jsonl").string(), "--edits",
                                   (scratch / "edits.json").string(), "--out", dir.string(), "--points",
                                   "*.router.ids,*.router.logits", "--quiet"}) == 0);
      const probes::TraceReader trace(dir);
      const auto rows = trace.rows(0);
      const auto ids = trace.ids(rows), original = trace.original_ids(rows);
      const auto logits = trace.floats("router.logits", rows);
      const auto k = static_cast<size_t>(trace.n_slots()), n_experts = static_cast<size_t>(trace.n_experts());
      const size_t n_layers = trace.layers().size(), n_tokens = ids.size() / k / n_layers;
      int64_t tokens = 0;
      double replaced = 0, lost = 0;
      for (size_t t = 0; t < n_tokens; ++t) {
        bool hit = false;
        for (size_t at = t * n_layers; at < (t + 1) * n_layers; ++at) {
          double sum = 0, before = 0, after = 0;
          for (size_t e = 0; e < n_experts; ++e) sum += std::exp(logits[at * n_experts + e]);
          size_t kept = 0;
          for (size_t s = at * k; s < (at + 1) * k; ++s) {
            before += std::exp(logits[at * n_experts + static_cast<size_t>(original[s])]) / sum;
            after += std::exp(logits[at * n_experts + static_cast<size_t>(ids[s])]) / sum;
            kept += std::count(&ids[at * k], &ids[at * k] + k, original[s]);
          }
          hit = hit || kept < k;
          replaced += static_cast<double>(k - kept) / static_cast<double>(k);
          lost += before - after;
        }
        tokens += hit;
      }
      const json::Value& line = find(lines, id, "misroute", 0, policy, std::stod(fraction));
      REQUIRE(tokens > 0);
      const double n = static_cast<double>(tokens) * static_cast<double>(n_layers);
      CHECK(line.find("tokens_misrouted")->integer() == tokens);
      CHECK(line.find("replaced")->real() == doctest::Approx(replaced / n));
      CHECK(line.find("mass_lost")->real() == doctest::Approx(lost / n).epsilon(1e-5));
      if (policy == "next_best") CHECK(line.find("replaced")->real() == 1);
    }
  const json::Value& none = find(lines, id, "misroute", 0, "random", 0);
  CHECK(none.find("tokens_misrouted")->integer() == 0);
  CHECK(none.find("replaced")->is_null());

  const CsvTable routing = CsvTable::read(scratch / "f/routing.csv");
  REQUIRE(routing.n_rows() == 6);
  const auto cell = [&](size_t row, const char* column) { return routing.number(row, routing.column(column)); };
  CHECK(routing.text(2, routing.column("policy")) == "next_best");
  CHECK(cell(2, "replaced_beyond_random") == doctest::Approx(cell(2, "replaced") - cell(5, "replaced")));
  CHECK(cell(2, "mass_lost_beyond_random") == doctest::Approx(cell(2, "mass_lost") - cell(5, "mass_lost")));

  // One token of each explanation is misrouted, and the quantiles are those of the three.
  std::vector<double> jaccard;
  for (const json::Value& line : lines) {
    if (text_of(line, "test") != "yardstick") continue;
    CHECK(line.find("tokens_misrouted")->integer() == 1);
    jaccard.push_back(line.find("jaccard")->real());
  }
  REQUIRE(jaccard.size() == 3);
  std::sort(jaccard.begin(), jaccard.end());
  const json::Value summary = json::parse_file(scratch / "f/summary.json");
  const json::Value& yardstick = *summary.find("yardstick");
  CHECK(yardstick.find("median")->real() == jaccard[1]);
  CHECK(yardstick.find("q05")->real() == doctest::Approx(0.9 * jaccard[0] + 0.1 * jaccard[1]));
  CHECK(yardstick.find("jaccard")->find("mean")->real() == doctest::Approx((jaccard[0] + jaccard[1] + jaccard[2]) / 3));
  CHECK(yardstick.find("moved")->real() == 0);
}

TEST_CASE("faithfulness: filler in whole units, every few tokens") {
  test::TemporaryDirectory scratch;
  test::write_file(scratch / "in.jsonl", test::records("two_hop_steps.jsonl", 1));
  REQUIRE(call(faithfulness_command,
               {"builtin", "--input", (scratch / "in.jsonl").string(), "--out", (scratch / "f").string(),
                "--max-tokens", "48", "--quiet", "--tests", "filler", "--filler", " Ok Ok", "--filler-every", "5",
                "--no-routes", "--resamples", "50", "--form", "generate"}) == 0);
  const auto lines = lines_of(scratch / "f/samples.jsonl");
  const int64_t n = find(lines, "two_hop_steps-0000", "full", 2).find("explanation_tokens")->integer();
  std::vector<double> xs;
  for (const json::Value& line : lines) {
    if (text_of(line, "test") != "filler") continue;
    xs.push_back(line.find("x")->real());
    const std::string text = text_of(line, "explanation");
    CHECK(text.size() % std::string(" Ok Ok").size() == 0);
    CHECK(text.ends_with(" Ok Ok"));
  }
  REQUIRE(xs.size() == static_cast<size_t>((n + 4) / 5));
  CHECK(xs.front() == doctest::Approx(5.0 / static_cast<double>(n)));
  CHECK(xs.back() == 1);
}
