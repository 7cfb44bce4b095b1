// Patching finds of a planted OR what is planted: either of two experts is enough, neither is needed alone.
#include <doctest/doctest.h>

#include <cmath>

#include "eval/causal/patch.h"
#include "eval/data/record_jobs.h"
#include "loaders/open.h"
#include "loaders/synthetic/make_model.h"
#include "tests/support.h"

namespace {

using namespace signalbox;
using namespace signalbox::eval;

}  // namespace

TEST_CASE("causal patch: a planted OR shows under denoising, and under noising only with the other one taken") {
  for (const std::string family : {"olmoe", "deepseek_v2"}) {
    CAPTURE(family);
    const int first = family == "deepseek_v2" ? 1 : 0;  // its first layer is dense
    const auto site = [&](int layer, int expert) {
      return R"({"layer":)" + std::to_string(first + layer) + R"(,"expert":)" + std::to_string(expert) + "}";
    };
    const test::TemporaryDirectory dir;
    const std::string spec = R"({"family":")" + family + R"(","dtype":"f32","seed":3,"config":{"num_hidden_layers":)" +
                             std::to_string(first + 4) + R"(},"circuits":[{"kind":"or","experts":[)" + site(0, 2) +
                             "," + site(1, 2) + R"(],"reader":)" + site(2, 6) +
                             R"(,"tokens":[[41,42]],"answer":43,"foil":44,"records":2,"length":5}]})";
    tools::synthetic::make_model(json::parse(spec, "spec"), "spec", dir / "m");
    const Session session = tools::open_session((dir / "m").string(), {});
    const std::vector<Record> records = read_records((dir / "m/circuit-0.jsonl").string());
    const RecordJobs made = make_jobs(session, records, Generate{}, nullptr);
    SelectedPairs selected =
        select_pairs(session, made, causal_pairs(Metric::logit_diff, records, made, session.encode), false, "records");
    REQUIRE(selected.pairs.size() == 2);
    const std::string a = "layer." + std::to_string(first) + ".", b = "layer." + std::to_string(first + 1) + ".";
    for (const bool denoising : {false, true}) {
      CAPTURE(denoising);
      // A share of the difference between the two runs; a source is its expert and the one selected in its place.
      const auto effect = [&](const std::string& point, const std::string& with) {
        PatchRequest request;
        request.denoising = denoising;
        request.by = PatchBy::whole;
        request.points = patch_points(point, session.shape).points;
        if (!with.empty()) request.with = named_exchanges(with, session.shape, "--with");
        check_patch(request, records, selected.pairs, made, session.shape);
        return patch_pair(session, made, selected.pairs[0], request, 0).rows.at(0).effect /
               (selected.values[0].clean - selected.values[0].corrupt);
      };
      const double one = effect(a + "expert.contribution", ""), other = effect(b + "expert.contribution", ""),
                   other_then = effect(b + "expert.contribution", a + "expert.contribution");
      CHECK(std::fabs(one - (denoising ? 1 : 0)) < 0.03);
      CHECK(std::fabs(other - (denoising ? 1 : 0)) < 0.03);
      // Both together are the flip of the answer.
      CHECK(std::fabs(one + other_then - (denoising ? 1 : -1)) < 0.03);
    }
  }
}
