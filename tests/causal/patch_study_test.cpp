// Patching in patched runs; estimates over pairs; a study that is interrupted.
#include "eval/causal/patch_study.h"

#include <doctest/doctest.h>

#include <cmath>

#include "base/csv.h"
#include "tests/causal/patch_input.h"

namespace {

using namespace signalbox;
using namespace signalbox::eval;
using namespace signalbox::probes;
using test::numbers;
using test::PatchInput;
using test::rows_of;

std::vector<std::string> many_pairs(int n) {
  std::vector<std::string> lines;
  for (int p = 0; p < n; ++p)
    for (const std::string condition : {"clean", "corrupt"})
      lines.push_back(R"({"id":")" + condition + std::to_string(p) + R"(","pair":"p)" + std::to_string(p) +
                      R"(","condition":")" + condition + R"(","tokens":[5,9,)" +
                      std::to_string(condition == "clean" ? 33 + p : 8 + p) + R"(,17],"answer":7,"foil":9})");
  return lines;
}

}  // namespace

TEST_CASE("causal patch: in a run with something exchanged already") {
  const PatchInput input("olmoe");
  EditMemory memory;
  memory.add(input.run(0, "clean", "*").store);
  const auto first = [&](const std::string& more) {
    return R"([{"op":"patch","from":"memory:clean","sample":"a","point":"attn.z","layers":"0","neurons":)" +
           numbers(0, input.session.shape.layers[0].attention.d_z) + "}" + more + "]";
  };
  const double one = input.logit_diff(input.run(1, "one", "*.router.ids", first(""), memory));
  PatchRequest request = input.request("layer.1.attn.z,layer.1.resid_mid,layer.1.expert.contribution", PatchBy::whole);
  request.with = named_exchanges("layer.0.attn.z:0", input.session.shape, "--with");
  const PatchedPair patched = input.patch(request);
  for (const std::string point : {"attn.z", "resid_mid"})
    CHECK(rows_of(patched, request, "layer.1." + point).at("").effect ==
          input.logit_diff(input.run(
              1, "two", "*.router.ids",
              first(R"(,{"op":"patch","from":"memory:clean","sample":"a","layers":"1","point":")" + point + "\"}"),
              memory)) -
              one);
  CHECK(rows_of(patched, request, "layer.1.attn.z").at("").effect != 0);
  // What is exchanged first may be a contribution, an output, logits or a route: of the whole layer each is all that
  // the block adds, or half of it.
  for (const std::string point : {"expert.contribution", "expert.out", "router.logits", "router.weights", "resid_out",
                                  "expert.hidden", "moe.out", "attn.pattern"}) {
    CAPTURE(point);
    const std::string name = "layer.0." + point;
    request = input.request("layer.1.resid_in", PatchBy::whole);
    request.with = named_exchanges(name, input.session.shape, "--with");
    const double rest = input.patch(request).rows[0].effect;
    request = input.request(name, PatchBy::whole);
    const double alone = input.patch(request).rows[0].effect;
    const double both = input.logit_diff(input.run(0, "clean", "*.router.ids")) -
                        input.logit_diff(input.run(1, "base", "*.router.ids"));
    CHECK(alone + rest == doctest::Approx(both).epsilon(1e-5));
    CHECK(alone != 0);
  }
  request = input.request("layer.0.attn.z,layer.1.attn.z", PatchBy::whole);
  request.with = named_exchanges("layer.0.attn.z:1@3", input.session.shape, "--with");
  CHECK(request.with[0].position == 3);
  CHECK_THROWS_WITH(input.patch(request),
                    "--with: expected points before all of --points, found layer.0.attn.z:1@3 beside layer.0.attn.z");
  for (const std::string wrong :
       {"layer.0.attn.z:99", "layer.0.attn.z:", "layer.0.resid_in:1", "attn.z:1", "", "layer.0.router.margin",
        "layer.0.attn.z@x", "layer.0.expert.out:99", "layer.0.expert.out:0:1", "layer.0.expert.hidden:0:9999"})
    CHECK_THROWS_WITH(named_exchanges(wrong, input.session.shape, "--with"), doctest::Contains("--with: expected "));
}

TEST_CASE("causal patch: means over pairs, and when no ratio means anything") {
  SelectedPairs selected;
  std::vector<PatchedPair> results(4);
  const double clean[] = {2, 4, 3, 5}, corrupt[] = {-2, -1, -3, -4}, effects[] = {1, 4, -1, 6};
  PatchRequest request;
  request.denoising = true;
  request.points = {{Point::expert_contribution, 3}, {Point::attn_z, 3}};
  for (size_t i = 0; i < 4; ++i) {
    CausalPair& pair = selected.pairs.emplace_back();
    pair.name = "p" + std::to_string(i);
    selected.values.push_back({clean[i], corrupt[i]});
    if (i != 2) results[i].rows.push_back({0, "11", effects[i], 10, 2});
    results[i].rows.push_back({0, "2", effects[i], 10, 1});
    if (i != 2) results[i].rows.push_back({1, "0", effects[i], 10, 0});
  }
  const auto find = [&](const std::vector<PatchEstimate>& rows, const std::string& pair, size_t point,
                        const std::string& unit) {
    for (const PatchEstimate& row : rows)
      if (row.pair == pair && row.point == point && row.unit == unit) return row;
    return PatchEstimate();
  };
  const auto estimates = [&] {
    return estimate_patches(selected, results, request.denoising, absent_contributions(results, request), 1, 1);
  };
  const auto rows = estimates();
  CHECK(rows[0].unit == "2");  // by number, not by text
  CHECK(find(rows, "", 0, "2").effect == doctest::Approx(10.0 / 4));
  CHECK(find(rows, "", 0, "2").normalised == doctest::Approx(10.0 / (4 + 5 + 6 + 9)));
  CHECK(find(rows, "", 0, "11").effect == doctest::Approx(11.0 / 4));  // absent: 0
  CHECK(find(rows, "", 0, "11").normalised == doctest::Approx(11.0 / 24));
  CHECK(find(rows, "", 0, "11").flipped == 6);
  CHECK(find(rows, "", 1, "0").effect == doctest::Approx(11.0 / 3));  // the pair takes no part
  CHECK(find(rows, "", 1, "0").normalised == doctest::Approx(11.0 / 18));
  CHECK(find(rows, "p3", 0, "2").normalised == doctest::Approx(6.0 / 9));
  CHECK(std::isnan(find(rows, "p3", 0, "2").ci_lo));
  // Two units' worth of pairs resampled: the interval holds the ratio, and pair 2 alone gives its lower end.
  const PatchEstimate all = find(rows, "", 0, "2");
  CHECK((all.ci_lo < all.normalised && all.ci_hi > all.normalised));
  CHECK((all.ci_lo >= -1.0 / 6 && all.ci_hi <= 4.0 / 5));
  request.denoising = false;
  CHECK(find(estimates(), "", 0, "2").normalised == doctest::Approx(-10.0 / 24));
  selected.values[0] = {-20, 2};
  const auto refused = estimates();
  CHECK(find(refused, "", 0, "2").refused);
  CHECK(std::isnan(find(refused, "", 0, "2").normalised));
  CHECK(find(refused, "", 0, "2").effect == doctest::Approx(10.0 / 4));
  const test::TemporaryDirectory dir;
  write_patch_tables(dir.path(), refused, request, json::Value::object());
  const CsvTable table = CsvTable::read(dir / "patch.csv");
  CHECK(table.text(0, table.column("normalised")).empty());
  CHECK(table.text(0, table.column("pair")).empty());
  CHECK(test::read_file(dir / "summary.json").find("\"refused\":{\"rows\":3") != std::string::npos);
}

TEST_CASE("causal patch: a study that is interrupted goes on, to the same bytes") {
  const PatchInput input("olmoe", many_pairs(3));
  const test::TemporaryDirectory dir;
  std::string bytes[2];
  for (const bool stops : {false, true}) {
    PatchStudy study;
    study.dir = dir / (stops ? "stopped" : "whole");
    study.manifest.schema = "signalbox.patch/1";
    study.request = input.request("*.attn.z,*.expert.contribution", PatchBy::natural);
    study.keep_all = true;
    std::atomic<bool> stop = false;
    study.request.interrupted = &stop;
    study.request.on_progress = [&](int64_t points) {
      stop = stops && points == static_cast<int64_t>(study.request.points.size()) + 2;  // within the second pair
    };
    PatchOutcome outcome = conduct_patch(input.session, input.made, input.pairs(Metric::logit_diff), study);
    CHECK(outcome.interrupted == stops);
    if (stops) {
      CHECK(!std::filesystem::exists(study.dir / "patch.csv"));
      stop = false;
      study.request.on_progress = {};
      int64_t kept = 0;
      study.on_kept = [&](int64_t points) { kept = points; };
      outcome = conduct_patch(input.session, input.made, input.pairs(Metric::logit_diff), study);
      CHECK(!outcome.interrupted);
      CHECK(kept == static_cast<int64_t>(study.request.points.size()));
    }
    bytes[stops] = test::read_file(study.dir / "patch.csv") + test::read_file(study.dir / "flips.csv") +
                   test::read_file(study.dir / "summary.json");
    CHECK(conduct_patch(input.session, input.made, input.pairs(Metric::logit_diff), study).was_complete);
    study.manifest.identity.set("metric", "another");
    CHECK_THROWS_AS(conduct_patch(input.session, input.made, input.pairs(Metric::logit_diff), study), Error);
  }
  CHECK(bytes[0] == bytes[1]);
  CHECK(bytes[0].size() > 500);
}

TEST_CASE(
    "causal patch: shards put together are what one process writes, pairs that are dropped and empty shards too") {
  const PatchInput input("olmoe", many_pairs(10));
  const test::TemporaryDirectory dir;
  PatchStudy study;
  study.request = input.request("*.attn.z,layer.1.expert.contribution,layer.1.resid_in", PatchBy::natural);
  study.seed = 3;
  const auto conduct = [&](const std::string& name, Shard shard) {
    study.dir = dir / name;
    study.manifest.shard = shard;
    return conduct_patch(input.session, input.made, input.pairs(Metric::logit_diff), study);
  };
  const PatchOutcome whole = conduct("whole", {});
  CHECK(whole.selected.pairs.size() > 1);
  CHECK(whole.selected.dropped.size() > 1);
  for (const int64_t n : {int64_t{3}, int64_t{12}}) {
    std::vector<std::filesystem::path> parts;
    size_t kept = 0, empty = 0;
    for (int64_t i = n - 1; i >= 0; --i) {
      const PatchOutcome part = conduct(std::to_string(n) + "-" + std::to_string(i), {i, n});
      kept += part.selected.pairs.size();
      empty += part.selected.pairs.empty();
      parts.push_back(study.dir);
    }
    CHECK(kept == whole.selected.pairs.size());
    if (n == 12) CHECK(empty >= 2 + whole.selected.dropped.size());
    const auto merged = dir / ("merged" + std::to_string(n));
    merge_patches(merged, parts);
    for (const char* file : {"patch.csv", "flips.csv", "summary.json", "pairs.jsonl"})
      CHECK_MESSAGE(test::read_file(merged / file) == test::read_file(dir / "whole" / file), file);
    // The command finds its work done.
    study.dir = merged;
    study.manifest.shard = {};
    CHECK(conduct_patch(input.session, input.made, input.pairs(Metric::logit_diff), study).was_complete);
    parts.pop_back();
    CHECK_THROWS_WITH(
        merge_patches(dir / "none", parts),
        ("merge: expected all " + std::to_string(n) + " shards, found none for 0/" + std::to_string(n)).c_str());
  }
}
