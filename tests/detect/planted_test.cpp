// Planted truth: models whose experts are tied to a condition by construction. Detection must find them, and must find
// nothing where there is nothing.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <set>

#include "engine/runner.h"
#include "eval/detect/risk_difference.h"
#include "loaders/model/load.h"
#include "loaders/synthetic/make_model.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;
using namespace signalbox::test;

namespace {

using Place = std::pair<int32_t, int32_t>;  // layer, expert

struct Text {
  std::string id, condition, pair;
  std::vector<int32_t> tokens;
};

// Makes the model, runs the texts and counts A minus B over the span "text": all tokens but the first.
ContrastCounts traced(const std::string& spec, const std::vector<Text>& texts) {
  TemporaryDirectory dir;
  synthetic::make_model(json::parse(spec, "spec"), "spec", dir / "model");
  const LoadedModel loaded = load_model((dir / "model").string());
  auto backend = make_cpu_backend({2, "auto"});
  Forward forward(*backend, loaded.model, loaded.weights, 0);
  std::vector<Job> jobs;
  std::vector<std::string> ids;
  for (const Text& text : texts) {
    auto prompt = std::make_shared<Prompt>(text.id, text.tokens);
    prompt->spans.assign(text.tokens.size(), 1);
    prompt->spans[0] = 0;
    Job job;
    job.index = static_cast<int64_t>(jobs.size());
    job.prompt = prompt;
    jobs.push_back(job);
    ids.push_back(text.id);
  }
  TraceOptions options;
  options.dir = dir / "trace";
  options.shape = probe_shape(loaded.model);
  options.points = PointSet::parse("*.router.ids", options.shape);
  options.span_names = {"text"};
  TraceWriter writer(options);
  RunEvents events;
  events.on_done = [](Result) {};
  RunOptions run;
  run.batch = 32;
  REQUIRE(run_jobs(forward, jobs, run, events, &writer));
  writer.finish(ids, [&](int64_t s) {
    const Text& text = texts[static_cast<size_t>(s)];
    json::Value record = json::Value::object();
    record.set("id", text.id).set("condition", text.condition);
    if (!text.pair.empty()) record.set("pair", text.pair);
    return record;
  });
  ContrastOptions contrast;
  contrast.a = "A";
  contrast.b = "B";
  contrast.span = "text";
  return count_contrast(TraceSet({dir / "trace"}), contrast);
}

// Bytes from 60 on, so that the bytes below are free to be triggers.
int32_t filler(std::mt19937_64& generator) { return static_cast<int32_t>(60 + generator() % 190); }

ContrastOptions quick(int64_t resamples, uint64_t seed) {
  ContrastOptions options;
  options.resamples = resamples;
  options.seed = seed;
  options.threads = 2;
  return options;
}

// The records with these indices.
ContrastCounts part(const ContrastCounts& whole, const std::vector<size_t>& records) {
  ContrastCounts out;
  out.layers = whole.layers;
  out.n_experts = whole.n_experts;
  for (size_t r : records) {
    out.records.push_back(whole.records[r]);
    const auto first = whole.selected.begin() + static_cast<int64_t>(r * whole.n_rows());
    out.selected.insert(out.selected.end(), first, first + static_cast<int64_t>(whole.n_rows()));
  }
  return out;
}

}  // namespace

TEST_CASE("planted experts are found" * doctest::test_suite("repeats: statistics at length")) {
  std::mt19937_64 generator(21);
  int found = 0, planted = 0, tops = 0;
  for (const char* family : {"mixtral", "olmoe", "qwen2_moe", "qwen3_moe", "deepseek_v2", "gpt_oss"})
    for (const int seed : {1, 2}) {
      // Digits and letters stand under A alone, a begin token too; one plant fires where its condition does not hold.
      const std::string spec = std::string("{\"family\":\"") + family +
                               "\",\"tokenizer\":\"bytes\",\"seed\":" + std::to_string(seed) + R"(,"planted":[
        {"layer":1,"expert":3,"tokens":[48,49,50,51,52]},
        {"layer":1,"expert":6,"tokens":[40,41,42,43,44,45],"rate":0.8,"otherwise":0.1},
        {"layer":2,"expert":1,"begin":[33]},
        {"layer":2,"expert":5,"tokens":[48,49,50,51,52],"rate":0.1,"otherwise":0.7}]})";
      const std::map<Place, int> truth = {{{1, 3}, 1}, {{1, 6}, 1}, {{2, 1}, 1}, {{2, 5}, -1}};
      std::vector<Text> texts;
      const bool paired = seed == 1;
      for (int i = 0; i < 40; ++i)
        for (const bool b : {false, true}) {
          Text text{(b ? "b" : "a") + std::to_string(i), b ? "B" : "A", paired ? "p" + std::to_string(i) : "", {}};
          const int n = 15 + static_cast<int>(generator() % 20);
          for (int t = 0; t < n; ++t) {
            int32_t token = filler(generator);
            if (!b && generator() % 4 == 0) token = 48 + static_cast<int32_t>(generator() % 5);
            if (!b && generator() % 4 == 0) token = 40 + static_cast<int32_t>(generator() % 6);
            text.tokens.push_back(token);
          }
          if (!b) text.tokens[static_cast<size_t>(n / 3)] = 33;
          texts.push_back(text);
        }
      const Detection detection = detect(traced(spec, texts), quick(2000, static_cast<uint64_t>(seed)));
      for (const RiskDifference& row : detection.rows) {
        const auto at = truth.find({row.layer, row.expert});
        if (at == truth.end()) continue;
        CAPTURE(family);
        CAPTURE(row.layer);
        CAPTURE(row.expert);
        CAPTURE(row.value());
        ++planted;
        const bool hit = row.q < 0.05 && row.value() * at->second > 0;
        CHECK_MESSAGE(hit, "a planted expert was missed");
        found += hit;
        tops += row.stable == 1;  // 24 rows at most: all are among the top 50
      }
    }
  CHECK(planted == 48);
  CHECK(static_cast<double>(found) / planted >= 0.95);
  CHECK(tops == planted);
}

// Blocks add nothing to the stream here, so a token's route follows from the token, and in planted layers from whether
// a begin token stood before it. Texts under A begin with it: experts of the planted layer differ, by construction or
// because they are displaced; those of other layers see the same distribution under A and B.
TEST_CASE("false discoveries keep to their rate, and p is uniform under permuted labels" *
          doctest::test_suite("repeats: statistics at length")) {
  std::mt19937_64 generator(22);
  double false_share = 0;
  int sets = 0, recalled = 0;
  int64_t null_rows = 0, null_below = 0;
  double largest_distance = 0;
  for (const char* family : {"mixtral", "olmoe", "qwen3_moe"}) {
    const std::string spec = std::string("{\"family\":\"") + family +
                             R"(","tokenizer":"bytes","seed":3,"init":{"output":0},"planted":[
      {"layer":1,"expert":3,"begin":[33]},{"layer":1,"expert":5,"begin":[33],"rate":0.6,"otherwise":0.1}]})";
    std::vector<Text> texts;
    for (int i = 0; i < 400; ++i)
      for (const bool b : {false, true}) {
        Text text{(b ? "b" : "a") + std::to_string(i), b ? "B" : "A", "", {b ? 34 : 33}};
        // Tokens of a text are alike, as they are in language: half of them are of eight that it draws at first.
        std::vector<int32_t> favourites;
        for (int k = 0; k < 8; ++k) favourites.push_back(filler(generator));
        for (int t = 0, n = 12 + static_cast<int>(generator() % 12); t < n; ++t)
          text.tokens.push_back(generator() % 2 ? favourites[generator() % 8] : filler(generator));
        texts.push_back(text);
      }
    const ContrastCounts whole = traced(spec, texts);
    const size_t n_experts = static_cast<size_t>(whole.n_experts);
    const auto is_null = [&](const RiskDifference& row) { return row.layer != 1; };

    // Data sets of 25 records a side; half of the sets with pairs.
    for (size_t first = 0; first + 50 <= whole.records.size(); first += 50, ++sets) {
      std::vector<size_t> records(50);
      std::iota(records.begin(), records.end(), first);
      ContrastCounts counts = part(whole, records);
      if (sets % 2)
        for (size_t r = 0; r < 50; ++r) counts.records[r].pair = "p" + std::to_string(r / 2);
      const Detection found = detect(counts, quick(999, first));
      int64_t right = 0, wrong = 0;
      for (const RiskDifference& row : found.rows) {
        (is_null(row) ? wrong : right) += row.q < 0.05;
        if (row.layer == 1 && (row.expert == 3 || row.expert == 5)) recalled += row.q < 0.05;
        if (!is_null(row)) continue;
        ++null_rows;
        null_below += row.p <= 0.05;
      }
      false_share += right + wrong == 0 ? 0 : static_cast<double>(wrong) / static_cast<double>(right + wrong);
    }

    // Labels permuted: p of every expert, the planted ones too, is uniform.
    std::vector<size_t> records(100);
    std::iota(records.begin(), records.end(), size_t{0});
    ContrastCounts counts = part(whole, records);
    std::vector<uint8_t> labels;
    for (const ContrastRecord& record : counts.records) labels.push_back(record.under_b);
    constexpr size_t n_permutations = 150;
    std::vector<std::vector<double>> ps(counts.n_rows());
    for (size_t permutation = 0; permutation < n_permutations; ++permutation) {
      std::shuffle(labels.begin(), labels.end(), generator);
      for (size_t r = 0; r < labels.size(); ++r) counts.records[r].under_b = labels[r];
      const Detection found = detect(counts, quick(199, permutation));
      for (size_t i = 0; i < ps.size(); ++i) ps[i].push_back(found.rows[i].p);
    }
    for (size_t i = 0; i < ps.size(); ++i) {
      std::sort(ps[i].begin(), ps[i].end());
      double distance = 0;
      for (size_t k = 0; k < n_permutations; ++k)
        distance = std::max({distance, static_cast<double>(k + 1) / n_permutations - ps[i][k],
                             ps[i][k] - static_cast<double>(k) / n_permutations});
      CAPTURE(family);
      CAPTURE(i / n_experts);
      CAPTURE(i % n_experts);
      CAPTURE(distance);
      // The 0.1 % point of Kolmogorov and Smirnov, for some 24 experts.
      CHECK(distance < 1.95 / std::sqrt(static_cast<double>(n_permutations)));
      largest_distance = std::max(largest_distance, distance);
    }
  }
  false_share /= sets;
  CAPTURE(sets);
  CAPTURE(false_share);
  CAPTURE(largest_distance);
  CHECK(sets == 48);
  CHECK(static_cast<double>(recalled) / (2 * sets) >= 0.95);
  CHECK(false_share < 0.05);
  const double rate = static_cast<double>(null_below) / static_cast<double>(null_rows);
  CAPTURE(rate);
  CHECK(null_rows >= 48 * 16);
  CHECK(std::abs(rate - 0.05) < 0.025);
}
