// Queries and keys through the softmax: against patterns of patched runs, and against patching where it is saturated.
#include "eval/causal/query_keys.h"

#include <doctest/doctest.h>

#include <cmath>

#include "eval/causal/sequence_run.h"
#include "tests/causal/attribution_tables.h"
#include "tests/causal/patch_input.h"
#include "tests/causal/planted.h"

using namespace signalbox;
using namespace signalbox::eval;
using namespace signalbox::probes;
using test::PatchInput;

namespace {

SequenceRun with_slopes(const Session& session, const Job& job, const MetricRows& rows, const std::string& slopes) {
  SequenceRequest request;
  request.job = &job;
  request.rows = &rows;
  request.values = "*.attn.pattern," + query_key_points();
  request.slopes = slopes;
  request.back = true;
  return run_sequence(session, request);
}

// sum over positions of (pattern of one head of the patched run - that of the unpatched) slope, over tokens from..n.
double moved(const ActivationStore& base, const ActivationStore& patched, const ActivationStore& slopes, int32_t layer,
             int64_t head, int64_t n_heads, int64_t from, int64_t end) {
  double sum = 0;
  for (int64_t t = from; t < end; ++t) {
    const auto was = base.row(Point::attn_pattern, layer, 0, t), is = patched.row(Point::attn_pattern, layer, 0, t),
               slope = slopes.row(Point::attn_pattern, layer, 0, t);
    const size_t keys = was.size() / static_cast<size_t>(n_heads);
    for (size_t j = 0; j < keys; ++j) {
      const size_t at = static_cast<size_t>(head) * keys + j;
      sum += (static_cast<double>(is[at]) - static_cast<double>(was[at])) * static_cast<double>(slope[at]);
    }
  }
  return sum;
}

}  // namespace

TEST_CASE("query keys: the softmax of a score is that of a run with the query or the key patched, in all families") {
  for (const char* family : test::tiny_families) {
    CAPTURE(family);
    const PatchInput input(family);
    const CausalPair pair = input.pairs(Metric::logit_diff).front();
    const SequenceRun here = with_slopes(input.session, input.made.jobs[0], pair.clean_rows, query_key_slopes()),
                      there = with_slopes(input.session, input.made.jobs[1], pair.corrupt_rows, query_key_slopes());
    EditMemory memory;
    memory.add(input.run(1, "other", "*").store);
    const int64_t n = input.made.jobs[0].n_given();
    std::vector<int32_t> source_of;
    for (int32_t t = 0; t < n; ++t) source_of.push_back(t);
    source_of[1] = -1;  // stays
    double largest = 0;
    for (int32_t l = 0; l < std::min(2, input.session.shape.n_layers()); ++l) {
      const AttentionShape& a = input.session.shape.layers[static_cast<size_t>(l)].attention;
      int64_t seen = 0;
      for (const QueryKeyScore& one :
           query_key_scores(input.session, l, *here.values, there.values.get(), source_of, {here.slopes.get()})) {
        CHECK(one.position != 1);
        ++seen;
        if (one.position != 2 && one.position != 5) continue;  // runs are dear
        const std::string point = one.key ? "attn.k" : "attn.q";
        const RecordedRun patched =
            input.run(0, "patched", "*.attn.pattern",
                      R"([{"op":"patch","from":"memory:other","sample":"b","point":")" + point + R"(","layers":")" +
                          std::to_string(l) + R"(","neurons":)" + test::numbers(one.head * a.d_key, a.d_key) +
                          test::positions(one.position) + "}]",
                      memory);
        double expected = 0;
        const int64_t group = a.n_heads / a.n_kv_heads;
        if (one.key)
          for (int64_t h = one.head * group; h < (one.head + 1) * group; ++h)
            expected += moved(*here.values, *patched.store, *here.slopes, l, h, a.n_heads, one.position, n);
        else
          expected =
              moved(*here.values, *patched.store, *here.slopes, l, one.head, a.n_heads, one.position, one.position + 1);
        CAPTURE(point);
        CHECK(one.scores.at(0) == doctest::Approx(expected).epsilon(2e-4).scale(0.01));
        largest = std::max(largest, std::fabs(expected));
      }
      CHECK(seen == (n - 1) * (a.n_heads + a.n_kv_heads));
    }
    CHECK(largest > 1e-4);
  }
}

TEST_CASE("query keys: in a saturated attention the fix is near to patching where the gradient sees nothing") {
  std::string tokens = "[10";
  for (int token = 11; token < 30; ++token) tokens += "," + std::to_string(token);
  const test::Planted planted(R"({"family":"olmoe","dtype":"f32","seed":3,"circuits":[{"kind":"induction",)"
                              R"("previous":{"layer":0,"head":1},"match":{"layer":1,"head":2},"tokens":)" +
                              tokens + R"(],"records":1,"length":12}]})");
  const Session& session = *planted.session;
  const std::vector<Record> records = read_records((planted.dir / "m/circuit-0.jsonl").string());
  const RecordJobs made = make_jobs(session, records, Generate{}, nullptr);
  const CausalPair pair = causal_pairs(Metric::logit_diff, records, made, session.encode).front();
  // Brute force: each key alone from the corrupt run.
  PatchRequest patching;
  patching.by = PatchBy::both;
  patching.points = patch_points("layer.1.attn.k", session.shape).points;
  patching.units = {2};
  const PatchedPair patched = patch_pair(session, made, pair, patching, 0);
  const Job &clean = made.jobs[pair.clean], &corrupt = made.jobs[pair.corrupt];
  const SequenceRun here = with_slopes(session, clean, pair.clean_rows, query_key_slopes() + ",*.attn.k"),
                    there = with_slopes(session, corrupt, pair.corrupt_rows, query_key_slopes());
  std::vector<int32_t> source_of;
  for (int32_t t = 0; t < clean.n_given(); ++t) source_of.push_back(t);
  double brute = 0, fix = 0, linear = 0;
  std::string largest;
  for (const PatchRow& row : patched.rows)
    if (std::fabs(row.effect) > std::fabs(brute)) {
      brute = row.effect;
      largest = row.unit;
    }
  for (const QueryKeyScore& one :
       query_key_scores(session, 1, *here.values, there.values.get(), source_of, {here.slopes.get()})) {
    if (!one.key || std::to_string(one.head) + "@" + std::to_string(one.position) != largest) continue;
    fix = one.scores.at(0);
    const auto was = here.values->row(Point::attn_k, 1, 0, one.position),
               is = there.values->row(Point::attn_k, 1, 0, one.position),
               slope = here.slopes->row(Point::attn_k, 1, 0, one.position);
    const auto d = static_cast<size_t>(session.shape.layers[1].attention.d_key);
    for (size_t c = static_cast<size_t>(one.head) * d; c < static_cast<size_t>(one.head + 1) * d; ++c)
      linear += (static_cast<double>(is[c]) - static_cast<double>(was[c])) * static_cast<double>(slope[c]);
  }
  MESSAGE("exchanging " << largest << ": " << brute << " by a run, " << fix << " by the fix, " << linear
                        << " by the gradient");
  CHECK(brute < -1);
  CHECK(std::fabs(linear) < 0.001 * std::fabs(brute));
  CHECK(fix == doctest::Approx(brute).epsilon(0.02));
}

TEST_CASE("causal attribute: the scores of queries and keys stand beside the others, and take grad drop too") {
  test::Attributions attributions("gpt_oss");
  auto request = attributions.request(AttributionMethod::atp, InPlace::pairs);
  const test::AttributionRun plain = attributions.run(request);
  request.query_keys = true;
  const test::AttributionRun fixed = attributions.run(request);
  const int64_t n = 10;
  size_t more = 0;
  for (const LayerShape& layer : attributions.setup.session.shape.layers)
    more += static_cast<size_t>(n * (layer.attention.n_heads + layer.attention.n_kv_heads));
  CHECK(fixed.scores.size() == plain.scores.size() + more);
  for (const auto& [key, score] : plain.scores) CHECK(fixed.at(key) == score);
  // Before the first token that differs nothing does.
  CHECK(fixed.at("1|0|attn.q|0") == 0);
  CHECK(fixed.at("2|0|attn.q|0") != 0);
  request.drops = true;
  const test::AttributionRun dropped = attributions.run(request);
  CHECK(dropped.at("2|0|attn.k|0") >= 0);
  // What is exchanged for itself changes nothing; nothing in its place is a change.
  auto zero = attributions.request(AttributionMethod::atp, InPlace::zero);
  zero.query_keys = true;
  CHECK(attributions.run(zero).at("1|0|attn.q|0") != 0);
  auto mean = attributions.request(AttributionMethod::atp, InPlace::mean);
  mean.query_keys = true;
  CHECK_THROWS_WITH(attributions.run(mean), doctest::Contains("--qk-fix: expected --instead pairs or zero"));
}
