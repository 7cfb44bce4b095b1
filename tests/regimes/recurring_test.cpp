// Profiles from traces, and the statistics of regimes, against hand-computed cases.
#include "eval/routing/recurring.h"

#include <doctest/doctest.h>

#include <cmath>

#include "base/csv.h"
#include "base/safetensors.h"
#include "eval/routing/equal_lengths.h"
#include "eval/routing/trace_set.h"
#include "probes/trace.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;

namespace {

// Trajectory of ten tokens of one layer with two experts; expert 0 is used by `count` tokens, expert 1 by none.
Trajectory ten(const std::string& base, const std::string& regime, uint32_t count,
               std::optional<double> difficulty = {}) {
  return {.base = base,
          .regime = regime,
          .unit = base,
          .sample = 0,
          .n_tokens = 10,
          .difficulty = difficulty,
          .count = {count, 0},
          .weight = {static_cast<float>(count) / 20, 0}};
}

RoutingProfiles profiles_of(std::vector<Trajectory> trajectories) {
  return {.layers = {3}, .n_experts = 2, .trajectories = std::move(trajectories), .empty = {}, .prompts = {}};
}

RegimeOptions options_with(const std::string& baseline) {
  RegimeOptions options;
  options.baseline = baseline;
  return options;
}

// x: A 0.2, B 0.6, C 0.5 and 0.1; y: A 0.4, B 0.6, C 0.8 and 0.8.
const RoutingProfiles small =
    profiles_of({ten("x", "A", 2, 1), ten("y", "A", 4, 3), ten("x", "B", 6, 1), ten("y", "B", 6, 3),
                 ten("x", "C", 5, 1), ten("x", "C", 1, 1), ten("y", "C", 8, 3), ten("y", "C", 8, 3)});

// A trace of one routed layer (3 experts, 2 slots), written by hand.
class TinyTrace {
 public:
  explicit TinyTrace(const std::filesystem::path& dir) {
    TraceOptions options;
    options.dir = dir;
    options.shape.d_model = 4;
    options.shape.n_vocab = 9;
    options.shape.layers.resize(1);
    options.shape.layers[0] = {.moe = true, .n_experts = 3, .n_active = 2, .d_ff = 4, .shared = false};
    options.points = PointSet::parse(default_points, options.shape);
    writer_ = std::make_unique<TraceWriter>(options);
  }
  // phase and the two experts of each token; the first slot weighs 0.75, the second 0.25.
  void add(const std::string& record, const std::vector<uint8_t>& phase, const std::vector<int32_t>& ids) {
    const auto n = static_cast<int64_t>(phase.size());
    const RowRange range{static_cast<int64_t>(records_.size()), 0, n, 0};
    const std::vector<int32_t> tokens(phase.size(), 1);
    std::vector<int32_t> positions;
    std::vector<float> weights;
    for (int32_t i = 0; i < n; ++i) {
      positions.push_back(i);
      weights.insert(weights.end(), {0.75f, 0.25f});
    }
    writer_->begin({.n_rows = n,
                    .ranges = {&range, 1},
                    .tokens = tokens.data(),
                    .positions = positions.data(),
                    .phase = phase.data(),
                    .spans = nullptr});
    writer_->take_ids(0, ids.data(), nullptr, 2);
    writer_->take(Point::router_weights, 0, weights.data(), 2);
    writer_->end();
    records_.push_back(json::parse(record, "record"));
  }
  void finish() {
    std::vector<std::string> ids;
    for (const json::Value& record : records_) ids.push_back(record.find("id")->string());
    writer_->finish(ids, [&](int64_t i) { return records_[static_cast<size_t>(i)]; });
  }

 private:
  std::unique_ptr<TraceWriter> writer_;
  std::vector<json::Value> records_;
};

template <class F>
std::string failure(F run) {
  try {
    run();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("profiles: shares and weights over generated tokens only") {
  test::TemporaryDirectory scratch;
  TinyTrace tiny(scratch / "t");
  const std::string r1 = R"({"id":"q@R1","prompt":"p","condition":"R1","base":"q","pair":"pp","difficulty":2})";
  tiny.add(R"({"id":"q@R0","prompt":"p","condition":"R0","base":"q","pair":"pp","difficulty":2})", {0, 0, 1, 1},
           {2, 1, 2, 1, 0, 1, 0, 2});
  tiny.add(r1, {0, 1, 1, 1, 1}, {0, 1, 1, 0, 1, 2, 1, 0, 2, 1});
  tiny.add(r1, {0, 1}, {0, 1, 1, 0});
  tiny.add(R"({"id":"z@R1","prompt":"p","condition":"R1","pair":"z"})", {0}, {0, 1});
  tiny.finish();
  const TraceSet set({scratch / "t"});
  const RoutingProfiles profiles = read_profiles(set);
  REQUIRE(profiles.trajectories.size() == 3);
  CHECK(profiles.empty == std::vector<std::string>{"z@R1"});
  const Trajectory& first = profiles.trajectories[0];
  CHECK(first.base == "q");
  CHECK(first.regime == "R0");
  CHECK(first.unit == "pp");
  CHECK(first.difficulty == 2);
  CHECK(first.n_tokens == 2);
  CHECK(first.count == std::vector<uint32_t>{2, 1, 1});
  CHECK(first.weight == std::vector<float>{0.75f, 0.125f, 0.125f});
  const Trajectory& second = profiles.trajectories[1];
  CHECK(second.n_tokens == 4);
  CHECK(second.count == std::vector<uint32_t>{2, 4, 2});
  CHECK(second.weight == std::vector<float>{0.125f, 0.625f, 0.25f});
  CHECK(second.sample == 0);
  CHECK(profiles.trajectories[2].sample == 1);

  write_profiles(profiles, scratch / "p.safetensors");
  const auto file = safetensors::File::open(scratch / "p.safetensors");
  CHECK(file->at("share").shape == std::vector<int64_t>{3, 1, 3});
  CHECK(reinterpret_cast<const float*>(file->data(file->at("share")))[4] == 1.0f);
  CHECK(reinterpret_cast<const float*>(file->data(file->at("weight")))[5] == 0.25f);
  CHECK(file->metadata().at("regimes") == R"(["R0","R1","R1"])");
  write_profiles_csv(profiles, scratch / "p.csv");
  const CsvTable csv = CsvTable::read(scratch / "p.csv");
  CHECK(csv.n_rows() == 8);  // the last trajectory does not use expert 2
  CHECK(csv.integer(4, csv.column("tokens")) == 4);
  CHECK(csv.number(5, csv.column("share")) == 0.5);
}

TEST_CASE("profiles: what is refused") {
  test::TemporaryDirectory scratch;
  auto message = [&](const std::string& name, const std::vector<std::string>& records, uint8_t phase) {
    TinyTrace tiny(scratch / name);
    for (const std::string& record : records) tiny.add(record, {0, phase}, {0, 1, 1, 0});
    tiny.finish();
    return failure([&] { read_profiles(TraceSet({scratch / name})); });
  };
  CHECK(message("a", {R"({"id":"q","prompt":"p","base":"q"})"}, 1).find("records.jsonl:1: expected a condition") !=
        std::string::npos);
  CHECK(message("b", {R"({"id":"q","prompt":"p","condition":"R0"})"}, 1).find("\"base\" or \"pair\"") !=
        std::string::npos);
  CHECK(message("c", {R"({"id":"q","prompt":"p","condition":"R0","base":"q"})"}, 0).find("expected generated tokens") !=
        std::string::npos);
  CHECK(message("d",
                {R"({"id":"q","prompt":"p","condition":"R0","base":"q","difficulty":1})",
                 R"({"id":"r","prompt":"p","condition":"R1","base":"q","difficulty":2})"},
                1)
            .find("records.jsonl:2: difficulty: expected the one of base \"q\"") != std::string::npos);
}

TEST_CASE("regimes: trajectories of unequal lengths are compared at equal ones, as scipy has it") {
  const CsvTable table = CsvTable::read(test::source_dir() / "tests/regimes/used_more.csv");
  REQUIRE(table.n_rows() == 40);
  for (size_t r = 0; r < table.n_rows(); ++r) {
    const Uses a{table.integer(r, 0), table.integer(r, 1)}, b{table.integer(r, 2), table.integer(r, 3)};
    CAPTURE(table.place(r));
    CHECK(used_more(a, b) == doctest::Approx(table.number(r, 4)).epsilon(1e-12));
    CHECK(used_more(a, b) + used_more(b, a) == doctest::Approx(1).epsilon(1e-12));
  }
  CHECK(used_more({4000, 100000}, {3, 100}) > 0.5);  // long ones neither overflow nor vanish

  // The expectation under one probability for all tokens, written out over both binomial counts.
  const auto binomial = [](int64_t n, double p) {
    std::vector<double> out(static_cast<size_t>(n) + 1, 0);
    out[0] = 1;
    for (int64_t i = 0; i < n; ++i)
      for (auto k = static_cast<size_t>(i) + 1; k > 0; --k)
        out[k] = out[k] * (1 - p) + out[k - 1] * p, k == 1 ? out[0] *= 1 - p : 0;
    return out;
  };
  for (const double p : {0.02, 0.08, 0.2, 0.7})
    for (const auto& lengths : {std::pair<int64_t, int64_t>{25, 25}, {25, 5}, {100, 5}, {5, 100}, {1, 7}}) {
      const int64_t n = lengths.first, m = lengths.second;
      const std::vector<double> mine = binomial(n, p), theirs = binomial(m, p);
      double expected = 0, by_share = 0;
      for (int64_t i = 0; i <= n; ++i)
        for (int64_t j = 0; j <= m; ++j) {
          const double both = mine[static_cast<size_t>(i)] * theirs[static_cast<size_t>(j)];
          expected += both * used_more({i, n}, {j, m});
          by_share += both * (i * m > j * n ? 1 : 0);
        }
      CAPTURE(p);
      CAPTURE(n);
      CAPTURE(m);
      CHECK(expected == doctest::Approx(0.5).epsilon(1e-12));
      if (p == 0.02 && n == 100 && m == 5) CHECK(by_share == doctest::Approx(0.79).epsilon(0.01));
    }
}

TEST_CASE("regimes: without any difference persistence is one half, for short and long answers") {
  // 30 experts, each used by a token with probability 0.02; answers of 5 tokens, trajectories of 100.
  uint64_t state = 7;
  const auto count = [&](int64_t tokens) {
    uint32_t uses = 0;
    for (int64_t i = 0; i < tokens; ++i) {
      state = state * 6364136223846793005ULL + 1442695040888963407ULL;
      uses += (state >> 33) % 50 == 0;
    }
    return uses;
  };
  std::vector<Trajectory> trajectories;
  for (int b = 0; b < 40; ++b)
    for (const auto& [regime, tokens, n] :
         {std::tuple<const char*, int64_t, int>{"R0", 5, 1}, {"R1", 100, 1}, {"R3", 100, 10}, {"R0s", 5, 10}})
      for (int i = 0; i < n; ++i) {
        Trajectory t = ten("b" + std::to_string(b), regime, 0);
        t.n_tokens = tokens;
        t.count.clear();
        for (int e = 0; e < 30; ++e) t.count.push_back(count(tokens));
        t.weight.assign(30, 0.1f);
        t.wording = regime[1] == '0' ? 5 : 6;
        trajectories.push_back(std::move(t));
      }
  RoutingProfiles profiles = profiles_of(std::move(trajectories));
  profiles.n_experts = 30;
  RegimeOptions options;
  options.resamples = 100;
  const RegimeAnalysis analysis = analyze_regimes(profiles, options);
  CHECK(analysis.sampled == "R3");
  CHECK(analysis.sampled_baseline == "R0s");
  double kept = 0, kept_baseline = 0;
  for (const RecurringExpert& expert : analysis.recurring) {
    kept += expert.constancy.mean / 30;
    kept_baseline += expert.sampled_baseline.mean / 30;
    CHECK(expert.over_baseline.mean == doctest::Approx(expert.constancy.mean - expert.sampled_baseline.mean));
  }
  CHECK(kept == doctest::Approx(0.5).epsilon(0.03));
  CHECK(kept_baseline == doctest::Approx(0.5).epsilon(0.03));
}

TEST_CASE("regimes: who repeats another's words counts once, who repeats the baseline's not at all") {
  // Expert 0: R1 and its samples R3 rise, R2 does not; the baseline's samples rise most of all.
  std::vector<Trajectory> trajectories;
  for (int b = 0; b < 12; ++b) {
    const auto add = [&](const char* regime, uint32_t uses, uint64_t wording) {
      trajectories.push_back(ten("b" + std::to_string(b), regime, uses));
      trajectories.back().wording = wording + static_cast<uint64_t>(b);
    };
    add("R0", 2, 100);
    for (int i = 0; i < 3; ++i) add("R0s", 9, 100);
    add("R1", 6, 200);
    add("R2", 1, 300);
    for (int i = 0; i < 2; ++i) add("R3", 5, 200);
  }
  RegimeOptions options;
  options.resamples = 500;
  const RegimeAnalysis analysis = analyze_regimes(profiles_of(trajectories), options);
  CHECK(analysis.sampled == "R3");  // not R0s, which has more trajectories
  CHECK(analysis.sampled_baseline == "R0s");
  CHECK(analysis.wordings == std::vector<std::string>{"R1", "R2"});
  const RecurringExpert& expert = analysis.recurring[0];
  REQUIRE(expert.row == 0);
  CHECK(expert.n_up == 2);
  CHECK(expert.rise == doctest::Approx(0.3));
  CHECK(expert.n_up_wordings == 1);
  CHECK(expert.rise_wordings == doctest::Approx(-0.1));
  CHECK(expert.over_baseline.mean == doctest::Approx(0));  // all of both are above
  const std::string text = regimes_text(analysis, options, 1);
  CHECK(text.find("over R0s") != std::string::npos);
  CHECK(text.find("regimes with words of their own: R1, R2;") != std::string::npos);

  options.sampled_baseline = "R1";
  CHECK(failure([&] { analyze_regimes(profiles_of(trajectories), options); })
            .find("--persistence-baseline: expected a "
                  "regime that asks in the words of \"R0\"") == 0);
  options.sampled_baseline = "R9";
  CHECK(failure([&] { analyze_regimes(profiles_of(trajectories), options); }).find("--persistence-baseline") == 0);
  options.sampled_baseline = "";
  options.sampled = "R0s";
  CHECK(analyze_regimes(profiles_of(trajectories), options).sampled_baseline.empty());
}

TEST_CASE("regimes: a case by hand") {
  const RegimeAnalysis analysis = analyze_regimes(small, options_with("A"));
  REQUIRE(analysis.regimes.size() == 3);
  CHECK(analysis.regimes[0].name == "A");
  CHECK(analysis.sampled == "C");
  const RegimeProfile &a = analysis.regimes[0], &b = analysis.regimes[1], &c = analysis.regimes[2];
  CHECK(a.experts[0].share.mean == doctest::Approx(0.3));
  CHECK(a.experts[0].share.ci.lo == doctest::Approx(0.2));
  CHECK(a.experts[0].share.ci.hi == doctest::Approx(0.4));
  CHECK(a.experts[0].weight == doctest::Approx(0.15));
  CHECK(c.experts[0].share.mean == doctest::Approx(0.55));  // (0.3 + 0.8) / 2
  CHECK(c.n_trajectories == 4);
  CHECK(c.n_prompts == 2);
  CHECK(c.n_paired == 2);
  CHECK(b.experts[0].difference.mean == doctest::Approx(0.3));   // 0.4 and 0.2
  CHECK(c.experts[0].difference.mean == doctest::Approx(0.25));  // 0.1 and 0.4
  CHECK(b.experts[0].difference.ci.lo == doctest::Approx(0.2));
  CHECK(b.experts[0].difference.ci.hi == doctest::Approx(0.4));
  CHECK(b.experts[0].p == doctest::Approx(0.5).epsilon(0.05));  // two of the four sign patterns
  CHECK(b.experts[1].p == 1);
  CHECK(b.experts[1].q == 1);
  CHECK(b.length.mean == 10);

  REQUIRE(analysis.recurring.size() == 2);
  const RecurringExpert& best = analysis.recurring[0];
  CHECK(best.row == 0);
  CHECK(best.n_up == 0);
  CHECK(best.rise == doctest::Approx(0.25));
  CHECK(best.constancy.mean == doctest::Approx(0.75));  // one of two trajectories of x, both of y
  CHECK(best.score == doctest::Approx(0.1875));
  // Only x drawn: rise 0.1, constancy 0.5; only y: 0.2 and 1. Each has a quarter of the replicates.
  CHECK(best.score_ci.lo == doctest::Approx(0.05));
  CHECK(best.score_ci.hi == doctest::Approx(0.2));
  CHECK(analysis.recurring[1].score == 0);
  CHECK(analysis.recurring[1].constancy.mean == 0.5);  // used by none

  // Level means of A: 0.2 at 1 and 0.4 at 3; of C: 0.3 and 0.8.
  REQUIRE(analysis.difficulty.size() == 3);
  CHECK(analysis.difficulty[0].slope[0] == doctest::Approx(0.1));
  CHECK(analysis.difficulty[0].ci[0].lo == doctest::Approx(0.1));
  CHECK(analysis.difficulty[2].slope[0] == doctest::Approx(0.25));
}

TEST_CASE("regimes: consistent experts are found, in the order of their support") {
  // Expert 0 rises by 0.5 in both regimes and all trajectories; expert 1 rises in one regime only.
  std::vector<Trajectory> trajectories;
  for (int i = 0; i < 12; ++i) {
    const std::string base = "b" + std::to_string(i);
    auto add = [&](const std::string& regime, uint32_t first, uint32_t second) {
      Trajectory t = ten(base, regime, first);
      t.count[1] = second;
      trajectories.push_back(t);
    };
    add("R0", 1, 2);
    add("R1", 6, 9);
    for (int s = 0; s < 3; ++s) add("R3", 6, 2);
  }
  RegimeOptions options;
  options.resamples = 2000;
  const RegimeAnalysis analysis = analyze_regimes(profiles_of(trajectories), options);
  CHECK(analysis.recurring[0].row == 0);
  CHECK(analysis.recurring[0].n_up == 2);
  CHECK(analysis.recurring[0].score == doctest::Approx(0.5));
  CHECK(analysis.recurring[0].constancy.mean == 1);
  CHECK(analysis.recurring[1].n_up == 1);
  CHECK(analysis.recurring[1].rise == doctest::Approx(0));
  CHECK(analysis.recurring[1].score == 0);
  CHECK(analysis.difficulty.empty());

  // Threads change nothing; another seed changes p only within its noise.
  options.threads = 2;
  const RegimeAnalysis again = analyze_regimes(profiles_of(trajectories), options);
  CHECK(again.regimes[1].experts[0].p == analysis.regimes[1].experts[0].p);
  CHECK(again.recurring[0].score_ci.lo == analysis.recurring[0].score_ci.lo);
}

TEST_CASE("regimes: intervals cover, and noise is not called recurring" *
          doctest::test_suite("repeats: statistics at length")) {
  // Every share is drawn anew under the same distribution, so that all differences are 0 in truth.
  int covered = 0, sets = 60, up = 0, recurring = 0;
  uint64_t state = 12345;
  auto draw = [&] {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return static_cast<uint32_t>((state >> 33) % 11);
  };
  for (int set = 0; set < sets; ++set) {
    std::vector<Trajectory> trajectories;
    for (int i = 0; i < 30; ++i)
      for (const char* regime : {"R0", "R1", "R2", "R3", "R3"}) {
        Trajectory t = ten("b" + std::to_string(i), regime, draw());
        t.count[1] = draw();
        trajectories.push_back(t);
      }
    RegimeOptions options;
    options.resamples = 1000;
    options.seed = static_cast<uint64_t>(set);
    const RegimeAnalysis analysis = analyze_regimes(profiles_of(trajectories), options);
    for (size_t r = 1; r < 4; ++r)
      for (const RegimeExpert& expert : analysis.regimes[r].experts)
        covered += expert.difference.ci.lo <= 0 && 0 <= expert.difference.ci.hi;
    for (const RecurringExpert& expert : analysis.recurring) {
      up += expert.n_up > 0;
      recurring += expert.n_up >= 2 && expert.score_ci.lo > 0;
    }
  }
  CHECK(covered >= sets * 6 * 90 / 100);
  CHECK(up <= sets * 2 / 10);
  CHECK(recurring <= 4);
}

TEST_CASE("regimes: what is missing is refused or left out") {
  CHECK(failure([] { analyze_regimes(small, options_with("R0")); }) ==
        "--baseline: expected a condition of the records (A, B, C), found \"R0\"");
  CHECK(failure([] { analyze_regimes(profiles_of({ten("x", "A", 1)}), options_with("A")); }).find("another regime") !=
        std::string::npos);
  CHECK(failure([] {
          analyze_regimes(profiles_of({ten("x", "A", 1), ten("y", "B", 1)}), options_with("A"));
        }).find("regime \"B\": expected a base prompt that \"A\" has too") != std::string::npos);
  RegimeOptions absent = options_with("A");
  absent.sampled = "D";
  CHECK(failure([&] { analyze_regimes(small, absent); }).find("--persistence") != std::string::npos);

  // y is missing under B: its difference is x's alone. No regime is sampled: the score is the rise.
  const RegimeAnalysis analysis =
      analyze_regimes(profiles_of({ten("x", "A", 2), ten("y", "A", 4), ten("x", "B", 6)}), options_with("A"));
  CHECK(analysis.regimes[1].n_paired == 1);
  CHECK(analysis.regimes[1].experts[0].difference.mean == doctest::Approx(0.4));
  CHECK(analysis.sampled.empty());
  CHECK(std::isnan(analysis.recurring[0].constancy.mean));
  CHECK(analysis.recurring[0].score == doctest::Approx(0.4));
}
