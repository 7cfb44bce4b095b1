// From trace directories to tables: what is counted, pooled, refused and written. Numbers by hand.
#include <doctest/doctest.h>

#include <cmath>

#include "base/csv.h"
#include "eval/detect/risk_difference.h"
#include "eval/routing/npmi.h"
#include "eval/routing/usage.h"
#include "tests/detect/hand_trace.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;
using namespace signalbox::test;

namespace {

constexpr uint32_t question = 1, answer = 2;

HandToken route(int32_t first, int32_t second, uint32_t spans = 0, uint8_t phase = 0) {
  HandToken token;
  token.first = first;
  token.second = second;
  token.spans = spans;
  token.phase = phase;
  return token;
}

// Two pairs, an unpaired record of B, one of a third condition; record a0 has two samples.
std::vector<HandSample> hand_samples() {
  return {
      {R"({"id":"a0","condition":"A","pair":"x","domain":"d1"})",
       {route(0, 1, question), route(0, 2), route(0, 1, answer, 1)}},
      {R"({"id":"a0","condition":"A","pair":"x","domain":"d1"})", {route(0, 3, question), route(1, 2, answer, 1)}},
      {R"({"id":"b0","condition":"B","pair":"x","domain":"d2"})", {route(2, 1, question), route(2, 3)}},
      {R"({"id":"a1","condition":"A","pair":"y"})", {route(0, 1), route(0, 1, question), route(1, 0, question)}},
      {R"({"id":"b1","condition":"B","pair":"y","domain":"d1"})",
       {route(1, 2, question), route(1, 2, question | answer, 1), route(0, 1), route(3, 2)}},
      {R"({"id":"b2","condition":"B","domain":"d2"})", {route(3, 1, question)}},
      {R"({"id":"c","condition":"C"})", {route(0, 1, question), route(0, 1, question)}},
  };
}

ContrastOptions a_minus_b() {
  ContrastOptions options;
  options.a = "A";
  options.b = "B";
  options.resamples = 50;
  options.threads = 1;
  return options;
}

std::vector<int64_t> cells(const Detection& found) {
  std::vector<int64_t> out;
  for (const RiskDifference& row : found.rows)
    for (int64_t count : {row.a1, row.d1, row.a2, row.d2}) out.push_back(count);
  return out;
}

template <class F>
std::string message_of(F f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("a contrast counts tokens of the two conditions") {
  TemporaryDirectory dir;
  write_hand_trace(dir / "t", hand_samples());
  const TraceSet set({dir / "t"});
  CHECK(set.records().size() == 6);
  CHECK(set.samples().size() == 7);
  CHECK(set.layers() == std::vector<int32_t>{1});
  CHECK(set.conditions() == std::vector<std::string>{"A", "B", "C"});
  CHECK(set.domains() == std::vector<std::string>{"d1", "d2"});

  const Detection found = detect(set, a_minus_b());
  // A: 8 tokens, B: 7.
  CHECK(cells(found) == std::vector<int64_t>{7, 1, 1, 6, 6, 2, 5, 2, 2, 6, 5, 2, 1, 7, 3, 4});
  CHECK(found.rows[2].layer == 1);
  CHECK(found.rows[2].expert == 2);
  CHECK(found.rows[0].value() == doctest::Approx(7.0 / 8 - 1.0 / 7).epsilon(1e-15));
  // Shares of expert 0: a0 4/5 (both samples together), a1 1; b0 0, b1 1/4, b2 0.
  CHECK(found.rows[0].rd_example == doctest::Approx((4.0 / 5 + 1) / 2 - (0.25) / 3).epsilon(1e-14));
  // Weights: 3/4 in the first slot, 1/4 in the second. Expert 0 under A: 6 first, 1 second; under B one first.
  CHECK(found.rows[0].rd_weight == doctest::Approx((6 * 0.75 + 0.25) / 8 - 0.75 / 7).epsilon(1e-14));
  CHECK(std::isnan(found.rows[0].logit_diff));
  // Paired t over pairs x and y: differences 4/5 - 0 and 1 - 1/4 of expert 0.
  const double d0 = 0.8, d1 = 0.75, mean = (d0 + d1) / 2, s2 = (d0 - mean) * (d0 - mean) + (d1 - mean) * (d1 - mean);
  CHECK(found.rows[0].t == doctest::Approx(mean / std::sqrt(s2 / 2)).epsilon(1e-12));
  const DetectionFacts& facts = found.facts;
  CHECK(facts.records == std::vector<std::string>{"a0", "b0", "a1", "b1", "b2"});
  CHECK(facts.samples == 6);
  CHECK(facts.pairs == 2);
  CHECK(facts.unpaired_a == 0);
  CHECK(facts.unpaired_b == 1);

  ContrastOptions turned = a_minus_b();
  std::swap(turned.a, turned.b);
  CHECK(detect(set, turned).rows[0].value() == -found.rows[0].value());
}

TEST_CASE("span and phase choose the tokens that count") {
  TemporaryDirectory dir;
  write_hand_trace(dir / "t", hand_samples());
  const TraceSet set({dir / "t"});
  ContrastOptions options = a_minus_b();
  options.span = "question";
  // A: a0 (0,1), (0,3); a1 (0,1), (1,0). B: b0 (2,1); b1 (1,2), (1,2); b2 (3,1).
  CHECK(cells(detect(set, options)) == std::vector<int64_t>{4, 0, 0, 4, 3, 1, 4, 0, 0, 4, 3, 1, 1, 3, 1, 3});
  options.phase = Phase::generated;
  // No generated token of A is in the question.
  CHECK(message_of([&] { detect(set, options); }).find("tokens that count under condition \"A\", found none") !=
        std::string::npos);
  options.span.clear();
  // A: (0,1), (1,2), of a0 alone. B: (1,2), of b1 alone: no pair is left.
  const Detection generated = detect(set, options);
  CHECK(cells(generated) == std::vector<int64_t>{1, 1, 0, 1, 2, 0, 1, 0, 1, 1, 1, 0, 0, 2, 0, 1});
  CHECK(generated.facts.records == std::vector<std::string>{"a0", "b1"});
  CHECK(generated.facts.pairs == 0);
  CHECK(generated.facts.records_without_tokens == 3);
  options.phase = Phase::given;
  CHECK(detect(set, options).facts.tokens_b == 6);
}

TEST_CASE("length matching cuts all samples of a pair to the shortest") {
  TemporaryDirectory dir;
  std::vector<HandSample> samples = hand_samples();
  write_hand_trace(dir / "t", samples);
  ContrastOptions options = a_minus_b();
  options.length_match = true;
  CHECK(message_of([&] { detect(TraceSet({dir / "t"}), options); }).find("found \"b2\" without a partner") !=
        std::string::npos);
  std::erase_if(samples, [](const HandSample& sample) { return sample.record.find("\"b2\"") != std::string::npos; });
  write_hand_trace(dir / "u", samples);
  const TraceSet set({dir / "u"});
  // Pair x: 3, 2 and 2 tokens, so the first two of each. Pair y: 3 and 4, so three.
  const Detection all = detect(set, options);
  CHECK(all.facts.tokens_a == 7);
  CHECK(all.facts.tokens_b == 5);
  CHECK(all.facts.tokens_cut == 2);
  CHECK(cells(all) == std::vector<int64_t>{6, 1, 1, 4, 5, 2, 4, 1, 2, 5, 4, 1, 1, 6, 1, 4});
  // Of the question: x 1, 1 and 1; y 2 and 2. Of the answer: x 1, 1 and 0 tokens, y 0 and 1: nothing is left.
  options.span = "question";
  CHECK(detect(set, options).facts.tokens_cut == 0);
  options.span = "answer";
  CHECK(message_of([&] { detect(set, options); }).find("found none") != std::string::npos);
}

TEST_CASE("router logits give a mean difference where they are recorded") {
  TemporaryDirectory dir;
  write_hand_trace(dir / "t", hand_samples(), "*.router.ids,*.router.logits");
  const Detection found = detect(TraceSet({dir / "t"}), a_minus_b());
  // The logit is the expert's number, plus 10 where it is selected.
  for (const RiskDifference& row : found.rows) {
    CHECK(row.logit_diff == doctest::Approx(10 * row.value()).epsilon(1e-12));
    CHECK(std::isnan(row.rd_weight));
  }
}

TEST_CASE("several traces are one pool") {
  TemporaryDirectory dir;
  const std::vector<HandSample> all = hand_samples();
  write_hand_trace(dir / "whole", all);
  write_hand_trace(dir / "one", {all[0], all[2], all[4]});
  write_hand_trace(dir / "two", {all[1], all[3], all[5], all[6]});
  const TraceSet parts({dir / "one", dir / "two"});
  CHECK(parts.records().size() == 6);  // a0, with a sample in each trace, is one record
  const Detection whole = detect(TraceSet({dir / "whole"}), a_minus_b()), pooled = detect(parts, a_minus_b());
  CHECK(cells(whole) == cells(pooled));
  CHECK(whole.rows[0].rd_example == pooled.rows[0].rd_example);
  CHECK(pooled.facts.pairs == 2);

  write_hand_trace(dir / "other", {all[0]}, "*.router.ids", "another");
  CHECK(message_of([&] {
          TraceSet({dir / "one", dir / "other"});
        }).find("expected the model_hash of") != std::string::npos);
  CHECK(message_of([&] { TraceSet({dir / "one", dir / "one"}); }).find("each trace once") != std::string::npos);
}

TEST_CASE("contrasts that cannot be meant") {
  TemporaryDirectory dir;
  write_hand_trace(dir / "t", hand_samples());
  const TraceSet set({dir / "t"});
  const auto message = [&](auto change) {
    ContrastOptions options = a_minus_b();
    change(options);
    return message_of([&] { detect(set, options); });
  };
  const auto contains = [](const std::string& text, const std::string& part) {
    CAPTURE(text);
    CHECK(text.find(part) != std::string::npos);
  };
  contains(message([](auto& o) { o.b = "D"; }), "expected a condition of the records (A, B, C), found \"D\"");
  contains(message([](auto& o) { o.b = "A"; }), "two conditions, found \"A\" twice");
  contains(message([](auto& o) { o.a = ""; }), "expected two conditions A:B");
  contains(message([](auto& o) { o.span = "document"; }),
           "expected a span of the trace (question, answer), found \"document\"");

  write_file(dir / "t/records.jsonl", "{\"id\":\"a0\"}\n");
  contains(message_of([&] { TraceSet({dir / "t"}); }), "expected 7 lines");
  write_file(dir / "t/records.jsonl", "{\"id\":\"b0\"}\n");
  contains(message_of([&] { TraceSet({dir / "t"}); }), "records.jsonl:1: expected the record \"a0\"");
  write_file(dir / "t/records.jsonl", "{\"id\":\"a0\",\"pair\":3}\n");
  contains(message_of([&] { TraceSet({dir / "t"}); }), "pair: expected a string");
  std::filesystem::remove(dir / "t/records.jsonl");
  contains(message_of([&] { TraceSet({dir / "t"}); }), "records.jsonl");
  contains(message_of([] { TraceSet({}); }), "at least one directory");
  write_hand_trace(dir / "u", hand_samples(), "*.router.weights");
  contains(message_of([&] { TraceSet({dir / "u"}); }), "expected routes (router.ids), found none");
}

TEST_CASE("usage counts selections, over all records and by domain") {
  TemporaryDirectory dir;
  write_hand_trace(dir / "t", hand_samples());
  const TraceSet set({dir / "t"});
  const std::vector<Usage> rows = usage_table(set, {});
  REQUIRE(rows.size() == 12);
  // All: 17 tokens, the third condition too.
  CHECK(rows[0].domain == "");
  CHECK(rows[0].tokens == 17);
  CHECK(rows[0].count == 10);
  CHECK(rows[0].share() == 10.0 / 17);
  CHECK(rows[0].mean_weight() == doctest::Approx((9 * 0.75 + 0.25) / 10).epsilon(1e-15));
  CHECK(rows[3].count == 4);
  // d1: a0 (5 tokens) and b1 (4); d2: b0 (2) and b2 (1).
  CHECK(rows[4].domain == "d1");
  CHECK(rows[4].tokens == 9);
  CHECK(rows[4].count == 5);
  CHECK(rows[8].domain == "d2");
  CHECK(rows[8].tokens == 3);
  CHECK(rows[8].count == 0);
  CHECK(std::isnan(rows[8].mean_weight()));
  write_usage_csv(dir / "usage.csv", rows);
  const CsvTable table = CsvTable::read(dir / "usage.csv");
  REQUIRE(table.n_rows() == 12);
  CHECK(table.header() ==
        std::vector<std::string>{"layer", "expert", "domain", "count", "tokens", "share", "mean_weight"});
  CHECK(table.text(0, 0) == "1");
  CHECK(table.number(0, table.column("share")) == 10.0 / 17);
  CHECK(table.text(8, table.column("mean_weight")).empty());

  const std::vector<Usage> asked = usage_table(set, {"question", Phase::all});
  CHECK(asked[0].tokens == 10);
  CHECK(asked[0].count == 6);
  CHECK(message_of([&] { usage_table(set, {"question", Phase::generated}); }) == "no error");
  write_hand_trace(dir / "n", {{R"({"id":"a"})", {route(0, 1)}}}, "*.router.ids");
  const std::vector<Usage> bare = usage_table(TraceSet({dir / "n"}), {});
  CHECK(bare.size() == 4);
  CHECK(std::isnan(bare[0].mean_weight()));
  CHECK(message_of([&] {
          usage_table(TraceSet({dir / "n"}), {"answer", Phase::all});
        }).find("found none") != std::string::npos);
}

TEST_CASE("association with marker tokens") {
  TemporaryDirectory dir;
  std::vector<HandSample> samples = {{R"({"id":"a"})",
                                      {route(0, 1, question), route(0, 2, question), route(1, 2), route(1, 2),
                                       route(0, 1), route(1, 2), route(2, 1), route(2, 1)}}};
  samples[0].tokens[2].token = 42;
  write_hand_trace(dir / "t", samples);
  const TraceSet set({dir / "t"});
  const auto rows = marker_associations(set, {"question", {}}, {});
  REQUIRE(rows.size() == 4);
  // M = 2, T = 8. Expert 0: k = 2, K = 3: [log2(1) + log2(8/3)] / log2(4).
  CHECK(rows[0].at_markers == 2);
  CHECK(rows[0].selected == 3);
  CHECK(rows[0].markers == 2);
  CHECK(rows[0].tokens == 8);
  CHECK(rows[0].value() == doctest::Approx(std::log2(8.0 / 3) / 2).epsilon(1e-15));
  // Expert 1: k = 1, K = 7: [log2(1/2) + log2(8/7)] / log2(8).
  CHECK(rows[1].value() == doctest::Approx((-1 + std::log2(8.0 / 7)) / 3).epsilon(1e-15));
  CHECK(std::isnan(rows[3].value()));
  const auto by_id = marker_associations(set, {"", 42}, {});
  CHECK(by_id[0].value() == -1);  // selected, never at the marker
  CHECK(by_id[2].at_markers == 1);
  write_npmi_csv(dir / "npmi.csv", rows);
  const CsvTable table = CsvTable::read(dir / "npmi.csv");
  CHECK(table.header() == std::vector<std::string>{"layer", "expert", "k_n", "K_n", "M", "T", "npmi"});
  CHECK(table.text(3, 6).empty());
  CHECK(table.number(0, 6) == rows[0].value());
  CHECK(message_of([&] {
          marker_associations(set, {"", 43}, {});
        }).find("marker tokens (id 43) among the 8 tokens") != std::string::npos);
  CHECK(message_of([&] { marker_associations(set, {"question", 42}, {}); }).find("found both") != std::string::npos);
  // An expert at all of the markers and nowhere else: 1.
  write_hand_trace(dir / "u", {{R"({"id":"a"})", {route(0, 1, question), route(1, 2), route(1, 2)}}});
  CHECK(marker_associations(TraceSet({dir / "u"}), {"question", {}}, {})[0].value() == doctest::Approx(1));
}

TEST_CASE("rd.csv holds every number in full, and empty cells for what is undefined") {
  TemporaryDirectory dir;
  write_hand_trace(dir / "t", hand_samples());
  const Detection found = detect(TraceSet({dir / "t"}), a_minus_b());
  write_rd_csv(dir / "rd.csv", found.rows);
  const std::string text = read_file(dir / "rd.csv");
  CHECK(
      text.starts_with("layer,expert,a1_n,d1_n,a2_n,d2_n,rd,ci_lo,ci_hi,p,q,rd_example,rd_weight,log_odds,t,t_p,"
                       "logit_diff,stable,se,rd_shrunk,lfsr\r\n1,0,7,1,1,6,"));
  const CsvTable table = CsvTable::read(dir / "rd.csv");
  REQUIRE(table.n_rows() == 4);
  for (size_t i = 0; i < 4; ++i) {
    const RiskDifference& row = found.rows[i];
    const std::pair<const char*, double> columns[] = {{"rd", row.value()},
                                                      {"ci_lo", row.ci.lo},
                                                      {"ci_hi", row.ci.hi},
                                                      {"p", row.p},
                                                      {"q", row.q},
                                                      {"rd_example", row.rd_example},
                                                      {"rd_weight", row.rd_weight},
                                                      {"log_odds", row.log_odds},
                                                      {"stable", row.stable},
                                                      {"se", row.se}};
    for (const auto& [name, value] : columns) CHECK(table.number(i, table.column(name)) == value);
    CHECK(table.text(i, table.column("logit_diff")).empty());
  }
  const json::Value summary = detection_summary(TraceSet({dir / "t"}), found, a_minus_b());
  CHECK(summary.find("records")->items().size() == 5);
  CHECK(summary.find("contrast")->find("resamples")->integer() == 50);
  CHECK(summary.find("contrast")->find("resampling_unit")->string() == "pair where it is complete, else record");
  CHECK(summary.find("traces")->items()[0].find("model_hash")->string() == "h");
}
