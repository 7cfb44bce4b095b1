// Circuits of the wordings of one question: the same where one circuit was planted, none in common where two were.
#include "eval/circuit/paraphrases.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <set>

#include "base/json.h"
#include "eval/circuit/model_scorer.h"
#include "loaders/open.h"
#include "loaders/synthetic/make_model.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::eval;

namespace {

std::set<std::string> names_in(const std::vector<NodeId>& nodes) {
  std::set<std::string> names;
  for (const NodeId& node : nodes) names.insert(node_name(node));
  return names;
}

}  // namespace

TEST_CASE("circuit: wordings of one question have one circuit, or their own") {
  const test::TemporaryDirectory dir;
  loaders::synthetic::make_model(
      json::parse(R"({"family":"qwen3_moe","dtype":"f32","config":{"num_hidden_layers":4},"circuits":[
        {"kind":"content","tokens":[[48,49]],"answer":65,"foil":66,"records":6,"length":5,
         "experts":[{"layer":0,"expert":1},{"layer":1,"expert":3}]},
        {"kind":"content","tokens":[[50,51]],"answer":67,"foil":68,"records":6,"length":5,
         "experts":[{"layer":2,"expert":2},{"layer":3,"expert":5}]}]})",
                  "spec"),
      "spec", dir / "m");
  const engine::Session session = loaders::open_session((dir / "m").string(), {});
  // The first pairs of one file, and those of another from `from` on as their paraphrases.
  const auto study = [&](int64_t first_pairs, const char* second, int64_t from) {
    std::vector<Record> records;
    for (const Record& record : read_records((dir / "m/circuit-0.jsonl").string()))
      if (std::stoll(record.pair) < first_pairs) records.push_back(record);
    for (const Record& record : read_records((dir / second).string())) {
      if (std::stoll(record.pair) < from) continue;
      json::Value source = record.source;
      source.set("id", "again-" + record.id).set("pair", "again-" + record.pair);
      source.set("paraphrase_of", std::to_string(std::stoll(record.pair) - from) + "-clean");
      records.push_back(parse_record(source, "records"));
    }
    const RecordJobs made = make_jobs(session, records, engine::Generate{}, nullptr);
    const std::vector<CausalPair> pairs = causal_pairs(Metric::logit_diff, records, made, session.encode);
    const auto variants = paraphrase_variants(records, pairs);
    ModelScorer scorer(session, made, pairs, {});
    const PartEffects effects = measure_parts(scorer, nullptr);
    const std::vector<double> weights(scorer.n_pairs(), 1.0);
    const NodeMask circuit = first_parts(scorer, rank_parts(scorer, effects, weights, {}), 2);
    return std::pair(variants, compare_paraphrases(scorer, effects, {}, circuit, variants, 3, 200));
  };
  // Three pairs, and three that say the same in other words.
  const auto [same_variants, same] = study(3, "m/circuit-0.jsonl", 3);
  CHECK(same_variants == std::vector<std::vector<size_t>>{{0, 1, 2}, {3, 4, 5}});
  REQUIRE(same.variants.size() == 2);
  REQUIRE(same.overlaps.size() == 1);
  for (const auto& variant : same.variants) {
    CHECK(names_in(variant.circuit) == std::set<std::string>{"L0.E1", "L1.E3"});
    CHECK(variant.jaccard == 1);
    CHECK(variant.faithfulness == doctest::Approx(1).epsilon(0.01));
  }
  CHECK(same.overlaps[0].jaccard == 1);
  CHECK(same.overlaps[0].random_mean < 0.6);
  CHECK(same.overlaps[0].p < 0.2);

  // In other words another circuit answers.
  const auto [other_variants, other] = study(6, "m/circuit-1.jsonl", 0);
  CHECK(other_variants.size() == 2);
  REQUIRE(other.variants.size() == 2);
  CHECK(names_in(other.variants[0].circuit) == std::set<std::string>{"L0.E1", "L1.E3"});
  CHECK(names_in(other.variants[1].circuit) == std::set<std::string>{"L2.E2", "L3.E5"});
  CHECK(other.overlaps[0].jaccard == 0);
  CHECK(other.overlaps[0].p == 1);
  CHECK(std::min(other.variants[0].faithfulness, other.variants[1].faithfulness) < 0.6);
}

TEST_CASE("circuit: which wording a pair is follows from what its record rephrases") {
  std::vector<Record> records;
  std::vector<CausalPair> pairs;
  const auto add = [&](const std::string& id, const std::string& of) {
    json::Value tokens = json::Value::array();
    tokens.push_back(static_cast<int64_t>(records.size()));
    json::Value source = json::Value::object().set("id", id).set("tokens", std::move(tokens));
    if (!of.empty()) source.set("paraphrase_of", of);
    records.push_back(parse_record(source, "records"));
    pairs.push_back({id, records.size() - 1, records.size() - 1, {}, {}, {}});
  };
  add("a", "");
  add("b", "");
  add("a1", "a");
  add("b1", "b");
  add("a2", "a1");  // of a paraphrase
  add("c1", "c");   // of a record that is not here
  CHECK(paraphrase_variants(records, pairs) == std::vector<std::vector<size_t>>{{0, 1}, {2, 3, 5}, {4}});
}
