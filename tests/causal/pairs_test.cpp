// Clean and corrupt records as pairs: what is refused, and which pairs take part.
#include "eval/causal/pairs.h"

#include <doctest/doctest.h>

#include "loaders/open.h"
#include "tests/support.h"

namespace {

using namespace signalbox;
using namespace signalbox::eval;

struct PairInput {
  Session session;
  std::vector<Record> records;
  RecordJobs made;
  explicit PairInput(const std::vector<std::string>& lines)
      : session(tools::open_session((test::goldens_dir() / "olmoe/model").string(), {})) {
    for (size_t i = 0; i < lines.size(); ++i)
      records.push_back(parse_record(json::parse(lines[i], "records"), "records:" + std::to_string(i + 1)));
    made = make_jobs(session, records, Generate{}, nullptr);
  }
  std::vector<CausalPair> pairs(Metric metric) const { return causal_pairs(metric, records, made, session.encode); }
};

std::string refusal(const std::vector<std::string>& lines, Metric metric = Metric::logit_diff) {
  const PairInput input(lines);
  try {
    input.pairs(metric);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

std::string line(const std::string& id, const std::string& condition, const std::string& tokens,
                 const std::string& rest = R"(,"answer":7,"foil":9)") {
  return R"({"id":")" + id + R"(","pair":"p","condition":")" + condition + R"(","tokens":)" + tokens + rest + "}";
}

}  // namespace

TEST_CASE("causal pairs: every fault is one line with its place") {
  const std::string clean = line("a", "clean", "[5,9,33]"), corrupt = line("b", "corrupt", "[5,9,40]");
  CHECK(refusal({clean, corrupt}).empty());
  CHECK(refusal({R"({"id":"a","tokens":[1,2],"condition":"clean"})"}) ==
        "records:1: expected a key \"pair\", found none");
  CHECK(refusal({R"({"id":"a","pair":"p","tokens":[1,2]})"}) ==
        "records:1: condition: expected \"clean\" or \"corrupt\", found none");
  CHECK(refusal({line("a", "plain", "[1,2]")}) ==
        "records:1: condition: expected \"clean\" or \"corrupt\", found \"plain\"");
  CHECK(refusal({clean}) == "records:1: expected a corrupt record of the pair \"p\" too, found none");
  CHECK(refusal({corrupt}) == "records:1: expected a clean record of the pair \"p\" too, found none");
  CHECK(refusal({clean, corrupt, line("c", "clean", "[1]")}) ==
        "records:3: expected one clean record of the pair \"p\", found another at records:1");
  CHECK(refusal({clean, line("b", "corrupt", "[5,9]")}) ==
        "records:2: expected as many tokens as the clean record of the pair \"p\" has (3, records:1), or a \"map\" of "
        "positions, found 2");
  CHECK(refusal({clean, line("b", "corrupt", "[5,9,40]", "")}) ==
        "records:2: expected a key \"answer\" for the metric logit_diff, found none");
  CHECK(
      refusal({clean, line("b", "corrupt", "[5,9,40]", R"(,"answer":9,"foil":7)")}) ==
      "records:2: answer: expected that of the pair's clean record (token 7, records:1), for both runs are measured by "
      "one metric, found token 9");
  CHECK(refusal({line("a", "clean", "[5]", ""), line("b", "corrupt", "[6]", "")}, Metric::logprob) ==
        "records:1: expected a target for the metric logprob, found none");
  CHECK(
      refusal({line("a", "clean", "[5,7]", ""), line("b", "corrupt", "[6,7]", "")}, Metric::nll) ==
      "records:1: expected a target for the metric nll of a pair, whose texts differ in what is predicted, found none");
  CHECK(refusal({line("a", "clean", "[5,7]", ""), line("b", "corrupt", "[6,7]", "")}, Metric::kl).empty());
}

TEST_CASE("causal pairs: maps of positions") {
  const std::string clean = line("a", "clean", "[5,9,33]");
  const auto corrupt = [](const std::string& map) {
    return line("b", "corrupt", "[9,40]", R"(,"answer":7,"foil":9,"map":)" + map);
  };
  const PairInput input({clean, corrupt("[[2,1],[1,0]]")});
  const std::vector<CausalPair> pairs = input.pairs(Metric::logit_diff);
  REQUIRE(pairs.size() == 1);
  CHECK(pairs[0].map == std::vector<std::array<int32_t, 2>>{{1, 0}, {2, 1}});
  CHECK((pairs[0].clean == 0 && pairs[0].corrupt == 1));
  CHECK(refusal({clean, corrupt("[[3,1]]")}) == "records:2: map[0][0]: expected an integer from 0 to 2, found 3");
  CHECK(refusal({clean, corrupt("[[2,2]]")}) == "records:2: map[0][1]: expected an integer from 0 to 1, found 2");
  CHECK(refusal({clean, corrupt("[[0,0],[0,1]]")}) ==
        "records:2: map[1][0]: expected each position of the clean record once, found 0 again");
  CHECK(refusal({clean, corrupt("[[0,1],[1,1]]")}) ==
        "records:2: map[1][1]: expected each position of the corrupt record once, found 1 again");
  CHECK(refusal({clean, corrupt("[]")}) == "records:2: map: expected at least one pair of positions, found none");
  CHECK(refusal({clean, corrupt("[[0,1,2]]")}) ==
        "records:2: map[0]: expected [clean position, corrupt position], found 3 items");
  CHECK(refusal({line("a", "clean", "[5,9,33]", R"(,"answer":7,"foil":9,"map":[[0,0]])"), corrupt("[[1,1]]")}) ==
        "records:2: map: expected the map of the pair's clean record (records:1), found another");
}

TEST_CASE("causal pairs: pairs that do not prefer their answer are dropped and named") {
  // The same pair with answer and foil either way round: one of the two at most can prefer.
  std::vector<std::string> lines;
  for (const std::string name : {"one", "two"}) {
    const std::string keys = name == "one" ? R"(,"answer":7,"foil":9)" : R"(,"answer":9,"foil":7)";
    for (const std::string condition : {"clean", "corrupt"})
      lines.push_back(R"({"id":")" + name + condition + R"(","pair":")" + name + R"(","condition":")" + condition +
                      R"(","tokens":)" + (condition == "clean" ? "[5,9,33,17]" : "[5,9,33,61]") + keys + "}");
  }
  const PairInput input(lines);
  const SelectedPairs all = select_pairs(input.session, input.made, input.pairs(Metric::logit_diff), true, "records");
  REQUIRE(all.values.size() == 2);
  CHECK(all.values[0].clean == -all.values[1].clean);
  CHECK((all.dropped.empty() && dropped_pairs_text(all).empty()));
  const auto expected = [&](size_t i) { return all.values[i].clean > 0 && all.values[i].corrupt < 0; };
  std::vector<std::string> dropped;
  for (size_t i = 0; i < 2; ++i)
    if (!expected(i)) dropped.push_back(all.pairs[i].name);
  REQUIRE(!dropped.empty());
  if (dropped.size() == 2) {
    CHECK_THROWS_AS(select_pairs(input.session, input.made, input.pairs(Metric::logit_diff), false, "records"), Error);
  } else {
    const SelectedPairs some =
        select_pairs(input.session, input.made, input.pairs(Metric::logit_diff), false, "records");
    CHECK(some.dropped == dropped);
    CHECK(some.pairs.size() == 1);
    CHECK(json::dump(pairs_summary(some)).rfind(R"({"read":2,"kept":1,"dropped":[")" + dropped[0] + "\"]", 0) == 0);
    CHECK(dropped_pairs_text(some).rfind("1 of 2 pairs dropped: ", 0) == 0);
  }
  CHECK(prefers_answer(Metric::logit_diff, 1, -1));
  CHECK(!prefers_answer(Metric::logit_diff, 1, 0.5));
  CHECK(!prefers_answer(Metric::logit_diff, -0.5, -1));
  CHECK(prefers_answer(Metric::logprob, -1, -2));
  CHECK(prefers_answer(Metric::nll, 1, 2));
  CHECK(!prefers_answer(Metric::nll, 2, 1));
  CHECK(prefers_answer(Metric::kl, 0, 1));
}
