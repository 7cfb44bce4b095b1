// The sampled map: its first-order estimates, its sample, the means that they make; and maps that are killed or shared.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <set>

#include "base/csv.h"
#include "base/files.h"
#include "engine/gradient.h"
#include "eval/causal/gradient_trace.h"
#include "eval/causal/map.h"
#include "eval/causal/mean_contribution.h"
#include "loaders/open.h"
#include "probes/trace.h"
#include "tests/kills.h"
#include "tests/support.h"

namespace {

using namespace signalbox;
using namespace signalbox::eval;
using namespace signalbox::engine;
namespace fs = std::filesystem;

struct Mapping {
  Session session;
  std::vector<Record> records;
  RecordJobs made;
  test::TemporaryDirectory dir;
  Mapping(const std::string& name, int n_records, int n_tokens)
      : session(tools::open_session((test::goldens_dir() / name / "model").string(), {})) {
    for (int r = 0; r < n_records; ++r) {
      std::string line = R"({"id":"r)" + std::to_string(r) + R"(","tokens":[)";
      for (int t = 0; t < n_tokens + r % 3; ++t)
        line += (t > 0 ? "," : "") + std::to_string(3 + (t * 7 + r * 13 + t * t * r) % 80);
      line += R"(],"answer":7,"foil":9})";
      records.push_back(parse_record(json::parse(line, "records"), "records:" + std::to_string(r + 1)));
    }
    made = make_jobs(session, records, Generate{}, nullptr);
  }
  MapRequest request(const std::string& name) const {
    MapRequest request;
    request.dir = dir / name;
    request.metric = Metric::nll;
    request.layers = session.model.moe_layers();
    return request;
  }
  MapTable map(const MapRequest& request) const {
    map_effects(session, records, made, request);
    return read_map(request.dir);
  }
};

}  // namespace

TEST_CASE("causal map: a first-order estimate is gradient times what is taken away") {
  for (const std::string name : {"olmoe", "deepseek_v2_full", "gpt_oss"}) {
    for (const Without without : {Without::hole, Without::mean}) {
      CAPTURE(name);
      const Mapping mapping(name, 2, 9);
      const MeanContributions means(mapping.session, mapping.made.jobs, mapping.session.model.moe_layers());
      MapRequest request = mapping.request("map");
      request.without = without;
      request.sample = MapSample{2, 3, 1};
      if (without == Without::mean)
        request.mean_contribution = [&](int32_t layer, int32_t expert) -> const std::vector<double>& {
          return means.of(layer, expert);
        };
      const MapTable table = mapping.map(request);
      // By the gradient on disk and the contributions of a trace.
      GradientRequest slopes;
      slopes.trace.dir = mapping.dir / "slopes";
      slopes.metric = Metric::nll;
      slopes.trace.points = gradient_points("*.expert.contribution", mapping.session.shape);
      const auto record = [&](int64_t i) { return mapping.records[static_cast<size_t>(i)].source; };
      trace_gradients(mapping.session, mapping.records, mapping.made, slopes, record);
      TraceRequest values;
      values.dir = mapping.dir / "values";
      values.points = PointSet::parse("*.expert.contribution", mapping.session.shape);
      mapping.session.trace(mapping.made.jobs, mapping.session.options, values, record, {});
      const auto slope_file = safetensors::File::open(slopes.trace.dir / "trace.safetensors"),
                 value_file = safetensors::File::open(values.dir / "trace.safetensors");
      const int64_t d = mapping.session.model.d_model, k = mapping.session.model.n_active();
      size_t compared = 0;
      for (size_t l = 0; l < table.layers.size(); ++l) {
        const std::string tensor = point_name(Point::expert_contribution, table.layers[l]);
        const auto* slope = reinterpret_cast<const float*>(slope_file->data(slope_file->at("grad." + tensor)));
        const auto* value = reinterpret_cast<const float*>(value_file->data(value_file->at(tensor)));
        for (int64_t t = 0; t < table.offsets.back(); ++t) {
          const size_t first = (static_cast<size_t>(t) * table.layers.size() + l) * static_cast<size_t>(k);
          for (int64_t slot = 0; slot < k; ++slot) {
            const int32_t expert = table.experts[first + static_cast<size_t>(slot)];
            int64_t rank = 0;  // contributions stand by ascending expert
            for (int64_t i = 0; i < k; ++i) rank += table.experts[first + static_cast<size_t>(i)] < expert;
            double expected = 0, size = 0;
            for (int64_t c = 0; c < d; ++c) {
              const double mean =
                               without == Without::mean ? means.of(table.layers[l], expert)[static_cast<size_t>(c)] : 0,
                           g = static_cast<double>(slope[(t * k + rank) * d + c]),
                           x = static_cast<double>(value[(t * k + rank) * d + c]);
              expected += (mean - x) * g;
              size += std::fabs(x * g) + std::fabs(mean * g);
            }
            CHECK(static_cast<double>(table.estimate[first + static_cast<size_t>(slot)]) ==
                  doctest::Approx(expected).scale(std::max(size, 1e-9)).epsilon(1e-5));
            ++compared;
          }
        }
      }
      CHECK(compared == table.n_cells());
    }
  }
}

TEST_CASE("causal map: a sample runs the cells of the whole map, the largest estimates of each record among them") {
  const Mapping mapping("qwen3_moe", 3, 12);
  MapRequest request = mapping.request("whole");
  const MapTable whole = mapping.map(request);
  request = mapping.request("sample");
  request.sample = MapSample{2, 5, 7};
  const MapTable sampled = mapping.map(request);
  std::map<std::pair<size_t, int32_t>, std::pair<int64_t, int64_t>> of_expert;  // sampled, of so many
  const size_t row = sampled.row();
  for (size_t record = 0; record < 3; ++record) {
    float least = INFINITY, most = 0;  // |estimate| of the top, of the others
    int64_t top = 0;
    for (size_t i = static_cast<size_t>(sampled.offsets[record]) * row;
         i < static_cast<size_t>(sampled.offsets[record + 1]) * row; ++i) {
      const auto chosen = static_cast<Chosen>(sampled.chosen[i]);
      CHECK(sampled.experts[i] == whole.experts[i]);
      if (chosen == Chosen::no) {
        CHECK(std::isnan(sampled.effect[i]));
        CHECK(sampled.flips[i] == -1);
      } else {
        CHECK(sampled.effect[i] == whole.effect[i]);
        CHECK(sampled.flips[i] == whole.flips[i]);
      }
      float& bound = chosen == Chosen::top ? least : most;
      bound = chosen == Chosen::top ? std::min(bound, std::fabs(sampled.estimate[i]))
                                    : std::max(bound, std::fabs(sampled.estimate[i]));
      top += chosen == Chosen::top;
      if (chosen == Chosen::top) continue;
      auto& [drawn, cells] =
          of_expert[{i / static_cast<size_t>(sampled.n_active) % sampled.layers.size(), sampled.experts[i]}];
      drawn += chosen == Chosen::sampled;
      ++cells;
    }
    CHECK(top == 5);
    CHECK(least >= most);
  }
  for (const auto& [expert, counts] : of_expert) CHECK(counts.first == std::min<int64_t>(2, counts.second));
  // Tables: the means of a whole map are plain ones.
  const std::vector<ExpertEffect> effects = expert_effects(whole);
  double sum = 0;
  int64_t n = 0;
  for (size_t i = 0; i < whole.effect.size(); ++i)
    if (whole.experts[i] == effects[0].expert && i / static_cast<size_t>(whole.n_active) % whole.layers.size() == 0) {
      sum += static_cast<double>(whole.effect[i]);
      ++n;
    }
  CHECK(effects[0].cells == n);
  CHECK(effects[0].mean == doctest::Approx(sum / static_cast<double>(n)));
  const CsvTable csv = CsvTable::read(request.dir / "experts.csv");
  CHECK(csv.n_rows() == expert_effects(sampled).size());
  const json::Value summary = json::parse_file(request.dir / "summary.json");
  const json::Ref of(summary, "summary");
  CHECK(of.at("sample").at("of_expert").integer() == 2);
  const double rank = of.at("rank_correlation").at("sampled").number();
  CHECK(rank > 0.2);
  CHECK(rank <= 1);
  CHECK(of.at("flip_share").number() > 0);
}

TEST_CASE("causal map: means of samples are unbiased and their intervals cover" *
          doctest::test_suite("repeats: thousands of draws of what is drawn once elsewhere")) {
  const Mapping mapping("olmoe", 6, 14);
  const MapTable whole = mapping.map(mapping.request("whole"));
  MapRequest request = mapping.request("sample");
  request.sample = MapSample{2, 0, 0};
  MapTable table = mapping.map(request);
  const std::vector<ExpertEffect> truth = expert_effects(whole);
  const double all = all_effects(truth).mean;
  for (const int64_t top : {0, 10}) {
    const int n_seeds = 1500;
    std::vector<double> sums(truth.size(), 0), squares(truth.size(), 0);
    double sum = 0, square = 0, estimates = 0;
    int64_t covered = 0, intervals = 0, all_covered = 0;
    for (int seed = 0; seed < n_seeds; ++seed) {
      table.sample = MapSample{8, top, static_cast<uint64_t>(seed)};
      table.chosen = choose_cells(table, *table.sample);
      for (size_t i = 0; i < table.effect.size(); ++i)
        table.effect[i] = table.chosen[i] != static_cast<uint8_t>(Chosen::no) ? whole.effect[i] : NAN;
      const std::vector<ExpertEffect> found = expert_effects(table);
      REQUIRE(found.size() == truth.size());
      for (size_t e = 0; e < found.size(); ++e) {
        sums[e] += found[e].mean;
        squares[e] += found[e].mean * found[e].mean;
        CHECK(found[e].cells == truth[e].cells);
        if (found[e].variance == 0) {
          CHECK(found[e].mean == doctest::Approx(truth[e].mean).epsilon(1e-6));
          continue;
        }
        covered += found[e].ci_lo <= truth[e].mean && truth[e].mean <= found[e].ci_hi;
        ++intervals;
      }
      const ExpertEffect mean = all_effects(found);
      sum += mean.mean;
      square += mean.mean * mean.mean;
      estimates = mean.mean_estimate;
      all_covered += mean.ci_lo <= all && all <= mean.ci_hi;
    }
    const double n = n_seeds;
    for (size_t e = 0; e < truth.size(); ++e) {
      const double mean = sums[e] / n, error = std::sqrt(std::max(0.0, squares[e] / n - mean * mean) / n);
      CHECK(std::fabs(mean - truth[e].mean) <= 4.5 * error + 1e-9);
    }
    const double error = std::sqrt((square / n - std::pow(sum / n, 2)) / n);
    CHECK(std::fabs(sum / n - all) <= 4 * error);
    CHECK(std::fabs(estimates - all) > 8 * error);  // what the estimates alone would say is off
    CHECK(intervals > 1000);
    const double share = static_cast<double>(covered) / static_cast<double>(intervals);
    CAPTURE(share);
    CHECK(share > 0.82);  // 0.95 but for the skew of so few cells
    CHECK(share < 0.995);
    CHECK(static_cast<double>(all_covered) / n > 0.92);
  }
}

TEST_CASE("causal map: shards are one map, and a complete one is left alone") {
  const Mapping mapping("mixtral", 5, 8);
  for (const bool sampled : {false, true}) {
    const std::string kind = sampled ? "sampled" : "whole";
    MapRequest request = mapping.request(kind);
    if (sampled) request.sample = MapSample{2, 4, 3};
    mapping.map(request);
    const json::Value summary = json::parse_file(request.dir / "summary.json");
    for (const char* key : {"metric", "ablation", "reference", "split", "seed"}) CHECK_MESSAGE(summary.find(key), key);
    const std::string bytes = test::read_file(request.dir / "map.safetensors");
    CHECK(map_effects(mapping.session, mapping.records, mapping.made, request).was_complete);
    std::vector<fs::path> parts;
    for (int64_t shard = 2; shard >= 0; --shard) {
      MapRequest part = mapping.request(kind + std::to_string(shard));
      part.sample = request.sample;
      part.manifest.shard = {shard, 3};
      std::vector<Record> records;
      for (size_t i = 0; i < mapping.records.size(); ++i)
        if (part.manifest.shard.has(static_cast<int64_t>(i))) records.push_back(mapping.records[i]);
      map_effects(mapping.session, records, make_jobs(mapping.session, records, Generate{}, nullptr), part);
      parts.push_back(part.dir);
    }
    merge_maps(mapping.dir / (kind + "merged"), parts, {});
    for (const char* file : {"map.safetensors", "experts.csv", "summary.json", "records.jsonl", "texts.jsonl"})
      CHECK_MESSAGE(test::read_file(mapping.dir / (kind + "merged") / file) == test::read_file(request.dir / file),
                    file);
    CHECK(test::read_file(request.dir / "map.safetensors") == bytes);
    parts.pop_back();
    CHECK_THROWS_WITH(merge_maps(mapping.dir / "none", parts, {}), "merge: expected all 3 shards, found none for 0/3");
    request.metric = Metric::logit_diff;
    request.manifest.identity.set("metric", "logit_diff");
    CHECK_THROWS_AS(map_effects(mapping.session, mapping.records, mapping.made, request), Error);
  }
}

TEST_CASE("causal map: killed at any moment, the same command ends with the same bytes" *
          doctest::test_suite("repeats: killed processes of commands that other tests run")) {
  const test::TemporaryDirectory scratch;
  std::string lines;
  for (int i = 0; i < 6; ++i)
    lines += R"({"id":"r)" + std::to_string(i) + R"(","prompt":"User: what is )" + std::to_string(i) +
             R"( + 3? Tell me.","target":" It is nine."})" + "\n";
  test::write_file(scratch / "in.jsonl", lines);
  int kills = 0;
  for (const bool sampled : {false, true}) {
    const auto into = [&](const std::string& dir) {
      std::vector<std::string> words = {
          "causal",  "map",     "builtin", "--input", (scratch / "in.jsonl").string(), "--metric", "logprob",
          "--quiet", "--chunk", "64",      "--out",   (scratch / dir).string()};
      if (sampled)
        words.insert(words.end(), {"--sample", "2", "--top", "3"});
      else
        words.insert(words.end(), {"--layers", "3-5"});
      return words;
    };
    const std::string whole = sampled ? "sampled" : "whole";
    const double seconds = test::seconds_of(into(whole));
    for (uint64_t round = 0; round < 2; ++round) {
      fs::remove_all(scratch / "out");
      kills += test::run_with_kills(into("out"), seconds, 3 + 2 * round + (sampled ? 1 : 0));
    }
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(scratch / "out")) names.insert(entry.path().filename().string());
    CHECK(names == std::set<std::string>{"log.txt", "manifest.json", "records.jsonl", "texts.jsonl", "map.safetensors",
                                         "experts.csv", "summary.json"});
    for (const char* file : {"map.safetensors", "experts.csv", "summary.json", "records.jsonl", "texts.jsonl"})
      CHECK_MESSAGE(test::read_file(scratch / "out" / file) == test::read_file(scratch / whole / file), file);
  }
  CHECK(kills > 0);
}
