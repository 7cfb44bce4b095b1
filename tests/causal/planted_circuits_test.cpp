// Planted circuits of experts, family by family: what bans, holes and patches do is what the truth says.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "eval/causal/effects.h"
#include "eval/data/record_jobs.h"
#include "loaders/open.h"
#include "loaders/synthetic/make_model.h"
#include "tests/bad_files/files.h"
#include "tests/support.h"

namespace {

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;
namespace fs = std::filesystem;

// Two tokens a circuit, and its answer and foil.
std::string tail(int number) {
  const auto text = [](int n) { return std::to_string(n); };
  return R"(,"tokens":[[)" + text(10 * number + 1) + "," + text(10 * number + 2) + R"(]],"answer":)" +
         text(10 * number + 3) + R"(,"foil":)" + text(10 * number + 4) + R"(,"records":2,"length":5})";
}

std::string site(int layer, int expert) {
  return R"({"layer":)" + std::to_string(layer) + R"(,"expert":)" + std::to_string(expert) + "}";
}

// A pipeline of routes in the first three layers from `first`, one of content in the next, then a mixed one and an OR.
std::string all_kinds(int l) {
  return "[" + std::string(R"({"kind":"route","experts":[)") + site(l, 1) + "," + site(l + 1, 3) + "," +
         site(l + 2, 0) + "]" + tail(1) + R"(,{"kind":"content","experts":[)" + site(l + 3, 0) + "," + site(l + 4, 5) +
         "," + site(l + 5, 2) + "]" + tail(2) + R"(,{"kind":"mixed","source":)" + site(l + 6, 4) + R"(,"route":[)" +
         site(l + 7, 7) + R"(],"content":[)" + site(l + 8, 1) + "]" + tail(3) + R"(,{"kind":"or","experts":[)" +
         site(l + 9, 2) + "," + site(l + 10, 2) + R"(],"reader":)" + site(l + 11, 6) + tail(4) + "]";
}

struct Planted {
  test::TemporaryDirectory dir;
  json::Value truth;
  std::unique_ptr<Session> session;

  explicit Planted(const std::string& spec) {
    synthetic::make_model(json::parse(spec, "spec"), "spec", dir / "m");
    truth = *json::parse_file(dir / "m/make-model.json").find("truth")->find("circuits");
    session = std::make_unique<Session>(open_session((dir / "m").string(), {}));
  }
  const json::Value& circuit(size_t i) const { return truth.items()[i]; }
  std::vector<Record> records(size_t circuit, const std::string& condition) const {
    std::vector<Record> kept;
    for (Record& record : read_records((dir / "m" / ("circuit-" + std::to_string(circuit) + ".jsonl")).string()))
      if (record.condition == condition) kept.push_back(std::move(record));
    return kept;
  }
  std::shared_ptr<const EditPlan> plan(const std::string& edits) const {
    const json::Value parsed = json::parse(edits, "edits");
    return session->edits(json::Ref(parsed, "edits"), dir.path(), 0);
  }
  // Of the first record: what edits do, in units of what a flip of the answer would do.
  EffectsRow effect(const std::vector<Record>& all, const std::string& edits) const {
    const std::vector<Record> records(all.begin(), all.begin() + 1);
    EffectsRequest request;
    request.metric = Metric::logit_diff;
    request.edits_dir = dir.path();
    EffectsRow row =
        measure_effects(*session, records, make_jobs(*session, records, Generate{}, plan(edits)), request).rows.front();
    for (double* part : {&row.total, &row.direct, &row.routes, &row.interaction}) *part /= std::fabs(2 * row.base);
    return row;
  }
  // Their experts' outputs on these records, under `name`.
  void trace(const std::vector<Record>& records, const std::string& name) const {
    const RecordJobs made = make_jobs(*session, records, Generate{}, nullptr);
    TraceRequest request;
    request.dir = dir / name;
    request.points = PointSet::parse("*.expert.out,*.router.ids", session->shape);
    session->trace(made.jobs, session->options, request,
                   [&](int64_t i) { return records[static_cast<size_t>(i)].source; }, {});
  }
};

std::string ban(const json::Value& node) {
  return R"([{"op":"deactivate","mode":"ban","experts":{")" + std::to_string(node.find("layer")->integer()) + R"(":[)" +
         std::to_string(node.find("expert")->integer()) + "]}}]";
}

// An expert's output taken from another record's run, and that of the one that is selected in its place.
std::string patch(const json::Value& node, const std::string& trace, const std::string& sample) {
  const auto number = [&](const char* key) { return std::to_string(node.find(key)->integer()); };
  return R"({"op":"patch","point":"expert.out","layers":")" + number("layer") + R"(","experts":[)" + number("expert") +
         "," + number("instead") + R"(],"from":")" + trace + R"(","sample":")" + sample + R"("})";
}

// A flip of the answer, all of it, is -1; families without renormalisation weigh the expert that enters under a ban
// without the banned one's share, which is up to 3 %.
bool near(double value, double expected) { return std::fabs(value - expected) < 0.03; }
bool nothing(double value) { return std::fabs(value) < 1e-3; }

}  // namespace

TEST_CASE("planted pipelines: bans act through routes, through content, or through both") {
  for (const std::string family : {"mixtral", "olmoe", "qwen2_moe", "qwen3_moe", "gpt_oss", "deepseek_v2"}) {
    CAPTURE(family);
    const int first = family == "deepseek_v2" ? 1 : 0;  // its first layer is dense
    const Planted planted(R"({"family":")" + family + R"(","dtype":"f32","seed":3,"config":{"num_hidden_layers":)" +
                          std::to_string(first + 13) + R"(},"circuits":)" + all_kinds(first) + "}");
    for (size_t i = 0; i < 4; ++i) {
      CAPTURE(i);
      const std::vector<Record> clean = planted.records(i, "clean"), corrupt = planted.records(i, "corrupt");
      REQUIRE(clean.size() == 2);
      const json::Value& nodes = *planted.circuit(i).find("nodes");
      REQUIRE(nodes.items().size() == 3);
      const EffectsRow flipped = planted.effect(corrupt, "[]"), base = planted.effect(clean, "[]");
      CHECK(base.base > 5);
      CHECK(near(flipped.base / base.base, -1));
      for (size_t n = 0; n < 3; ++n) {
        CAPTURE(n);
        const EffectsRow row = planted.effect(clean, ban(nodes.items()[n]));
        if (i == 0) {  // routes: all of it, but for the expert that writes the answer itself
          CHECK(near(row.total, -1));
          CHECK((n == 2 ? near(row.direct, -1) : nothing(row.direct)));
          CHECK((n == 2 ? nothing(row.routes) : near(row.routes, -1)));
        } else if (i == 1) {
          CHECK(near(row.total, -1));
          CHECK(near(row.direct, -1));
          CHECK(row.routes == 0);
        } else if (i == 2) {
          CHECK((n > 0 || near(row.total, -1)));
          CHECK(nothing(row.interaction));
          if (n == 0) CHECK((row.direct < -0.3 && row.routes < -0.3));
          if (n > 0) CHECK((near(row.total, row.direct) && row.total < -0.3 && row.total > -0.7));
        } else {
          CHECK((n == 2 ? near(row.total, -1) : nothing(row.total)));
        }
      }
    }
    // OR: of two sources one is enough, on either side.
    planted.trace(planted.records(3, "clean"), "clean");
    planted.trace(planted.records(3, "corrupt"), "corrupt");
    const json::Value& nodes = *planted.circuit(3).find("nodes");
    for (const bool denoising : {false, true}) {
      const std::vector<Record> records = planted.records(3, denoising ? "corrupt" : "clean");
      const std::string other = denoising ? "clean" : "corrupt";
      const std::string a = patch(nodes.items()[0], other, "0-" + other),
                        b = patch(nodes.items()[1], other, "0-" + other);
      const double expected = denoising ? 1 : 0;
      CHECK(near(planted.effect(records, "[" + a + "]").total, expected));
      CHECK(near(planted.effect(records, "[" + b + "]").total, expected));
      CHECK(near(planted.effect(records, "[" + a + "," + b + "]").total, denoising ? 1 : -1));
    }
  }
}

TEST_CASE("planted circuits: the truth stands in make-model.json, which is a spec itself") {
  const std::string spec = R"({"family":"olmoe","seed":2,"circuits":[{"kind":"route","experts":[)" + site(0, 1) + "," +
                           site(2, 0) + "]" + tail(1) + "]}";
  const Planted planted(spec);
  const json::Value& truth = planted.circuit(0);
  CHECK(json::dump(*truth.find("edges")) ==
        R"([{"source":"embed","target":"L0.E1","kind":"selects"},{"source":"L0.E1","target":"L2.E0","kind":"selects"},)"
        R"({"source":"L2.E0","target":"logits","kind":"feeds"}])");
  const fs::path file = planted.dir / "m/make-model.json";
  json::Value again = json::parse_file(file);
  synthetic::make_model(again, "spec", planted.dir / "again");
  CHECK(json::parse_file(planted.dir / "again/make-model.json") == again);
  again.set("seed", json::Value(3)).set("truth", json::parse(R"({"circuits":[]})", "truth"));
  CHECK_THROWS_WITH(synthetic::make_model(again, "spec", planted.dir / "third"),
                    "spec: truth: expected none, or the truth of this spec's circuits, found another");
  synthetic::make_model(json::parse(R"({"family":"olmoe"})", "spec"), "spec", planted.dir / "m");
  CHECK(!fs::exists(planted.dir / "m/circuit-0.jsonl"));
}

TEST_CASE("planted circuits that a model cannot have") {
  const std::string pair = R"("tokens":[[1,2]],"answer":3,"foil":4)";
  const auto two = [&](const std::string& experts) {
    return R"([{"kind":"route","experts":[)" + experts + "]," + pair + "}]";
  };
  const std::pair<std::string, const char*> cases[] = {
      {R"([{"kind":"routes"}])", "circuits[0].kind: expected a kind of circuit (route, content, mixed, or"},
      {two(site(0, 1)), "circuits[0].experts: expected at least 2 experts, found 1"},
      {two(site(1, 1) + "," + site(1, 2)), "experts[1].layer: expected a layer above 1"},
      {two(site(0, 1) + "," + site(1, 16)), "experts[1].expert: expected an integer from 0 to 15"},
      {R"([{"kind":"route","experts":[)" + site(0, 1) + "," + site(1, 1) +
           R"(],"tokens":[[1,1]],"answer":3,"foil":4}])",
       "tokens[0]: expected each token once, found 1 again"},
      {R"([{"kind":"route","experts":[)" + site(0, 1) + "," + site(1, 1) +
           R"(],"tokens":[[1,2]],"answer":3,"foil":3}])",
       "foil: expected another token than the answer, found 3"},
      {R"([{"kind":"or","experts":[)" + site(0, 1) + "," + site(1, 1) + R"(],"reader":)" + site(1, 2) + "," + pair +
           "}]",
       "reader.layer: expected a layer above 1, found 1"},
      {R"([{"kind":"mixed","source":)" + site(0, 1) + R"(,"route":[)" + site(1, 1) + R"(],"content":[)" + site(1, 2) +
           "]," + pair + "}]",
       "circuits[0]: expected a layer for each planted expert of a circuit, found layer 1 twice"},
      {R"([{"kind":"route","experts":[)" + site(0, 1) + "," + site(1, 1) + "],\"colour\":1," + pair + "}]",
       "unknown key \"colour\""},
  };
  for (const auto& [circuits, expected] : cases) {
    CAPTURE(circuits);
    std::string message;
    try {
      test::TemporaryDirectory dir;
      synthetic::make_model(json::parse(R"({"family":"olmoe","circuits":)" + circuits + "}", "spec"), "spec",
                            dir.path());
    } catch (const Error& error) {
      message = error.what();
    }
    CAPTURE(message);
    CHECK(test::good_message(message, expected));
  }
}
