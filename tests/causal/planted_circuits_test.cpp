// Planted circuits of experts, family by family: what bans, holes and patches do is what the truth says.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "loaders/synthetic/make_model.h"
#include "probes/trace.h"
#include "tests/bad_files/files.h"
#include "tests/causal/planted.h"
#include "tests/docs.h"
#include "tests/support.h"

namespace {

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;
using test::Planted;
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

// What make-model says to a spec; empty: it makes the model.
std::string refusal(const std::string& spec) {
  try {
    test::TemporaryDirectory dir;
    synthetic::make_model(json::parse(spec, "spec"), "spec", dir.path());
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// A flip of the answer, all of it, is -1; families without renormalisation weigh the expert that enters under a ban
// without the banned one's share, which is up to 3 %.
bool near(double value, double expected) { return std::fabs(value - expected) < 0.03; }
bool nothing(double value) { return std::fabs(value) < 1e-3; }

}  // namespace

TEST_CASE("planted pipelines: bans act through routes, through content, or through both" *
          doctest::test_suite("repeats: a larger study of what smaller ones do")) {
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

TEST_CASE("docs: every spec of make-model's page is one") {
  const std::vector<std::string> specs = test::fenced_blocks(test::page_of("docs/make-model.md"), "json");
  REQUIRE(specs.size() == 2);
  for (const std::string& spec : specs) {
    CAPTURE(spec);
    CHECK(refusal(spec).empty());
  }
}

TEST_CASE("planted circuits that a model cannot have") {
  const std::string pair = R"("tokens":[[1,2]],"answer":3,"foil":4)";
  const auto two = [&](const std::string& experts) {
    return R"([{"kind":"route","experts":[)" + experts + "]," + pair + "}]";
  };
  const std::pair<std::string, const char*> cases[] = {
      {R"([{"kind":"routes"}])", "circuits[0].kind: expected a kind of circuit (nearest: route), found"},
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
  for (const auto& [case_circuits, expected] : cases) {
    const std::string& circuits = case_circuits;
    CAPTURE(circuits);
    const std::string message = refusal(R"({"family":"olmoe","circuits":)" + circuits + "}");
    CAPTURE(message);
    CHECK(test::good_message(message, expected));
  }
}

TEST_CASE("planted induction: the heads attend where the truth says, and the second one's copy is the answer") {
  std::string tokens = "[10";
  for (int token = 11; token < 50; ++token) tokens += "," + std::to_string(token);
  for (const std::string family : {"mixtral", "olmoe", "qwen2_moe", "qwen3_moe", "gpt_oss"}) {
    CAPTURE(family);
    const Planted planted(R"({"family":")" + family + R"(","dtype":"f32","seed":3,"circuits":[{"kind":"induction",)" +
                          R"("previous":{"layer":0,"head":1},"match":{"layer":1,"head":2},"tokens":)" + tokens +
                          R"(],"records":3,"length":20}]})");
    const std::vector<Record> clean = planted.records(0, "clean"), corrupt = planted.records(0, "corrupt");
    planted.trace(clean, "clean", "*.attn.pattern,*.attn.out");
    planted.trace(corrupt, "corrupt", "*.attn.pattern,*.attn.out");
    const TraceReader trace(planted.dir / "clean");
    const int64_t length = 20, n_heads = 4;
    for (int64_t s = 0; s < 3; ++s) {
      const std::vector<int32_t>& text = clean[static_cast<size_t>(s)].tokens;
      const std::vector<float> first = trace.floats("layer.0.attn.pattern", trace.rows(s)),
                               second = trace.floats("layer.1.attn.pattern", trace.rows(s));
      const auto share = [&](const std::vector<float>& pattern, int64_t head, int64_t t, int64_t key) {
        return pattern[static_cast<size_t>((t * n_heads + head) * length + key)];
      };
      for (int64_t t = 1; t < length; ++t) {
        CHECK(share(first, 1, t, t - 1) > 0.999);
        // All earlier tokens that followed this one share the attention.
        double matched = 0;
        bool any = false;
        for (int64_t key = 1; key <= t; ++key)
          if (text[static_cast<size_t>(key - 1)] == text[static_cast<size_t>(t)]) {
            matched += share(second, 2, t, key);
            any = true;
          }
        if (any && text[0] != text[static_cast<size_t>(t)]) CHECK(matched > 0.999);
      }
    }
    const EffectsRow base = planted.effect(clean, "[]");
    CHECK(base.base > 4);
    CHECK(std::fabs(planted.effect(corrupt, "[]").base / base.base + 1) < 0.1);
    const auto zero = [&](int layer, int head) {
      std::string columns;
      const int d_head = family == "qwen3_moe" || family == "gpt_oss" ? 32 : 16;
      for (int i = 0; i < d_head; ++i) columns += (i ? "," : "") + std::to_string(head * d_head + i);
      return R"([{"op":"ablate","point":"attn.z","layers":")" + std::to_string(layer) +
             R"(","value":"zero","neurons":[)" + columns + "]}]";
    };
    const auto from_corrupt = [](int layer) {
      return R"([{"op":"patch","point":"attn.out","layers":")" + std::to_string(layer) +
             R"(","from":"corrupt","sample":"0-corrupt"}])";
    };
    CHECK(near(planted.effect(clean, from_corrupt(0)).total, -1));
    CHECK(near(planted.effect(clean, from_corrupt(1)).total, -1));
    CHECK(near(planted.effect(clean, from_corrupt(2)).total, 0));
    for (int layer = 0; layer < 3; ++layer)
      for (int head = 0; head < 4; ++head) {
        CAPTURE(layer);
        CAPTURE(head);
        const double total = planted.effect(clean, zero(layer, head)).total;
        if (layer == 0 && head == 1) {
          CHECK(total < -0.3);
        } else {
          CHECK(std::fabs(total - (layer == 1 && head == 2 ? -0.5 : 0)) < 0.1);
        }
      }
  }
}

TEST_CASE("planted induction that a model cannot have") {
  const auto heads = [](const std::string& previous, const std::string& match, const std::string& rest) {
    return R"("circuits":[{"kind":"induction","previous":)" + previous + R"(,"match":)" + match +
           R"(,"tokens":[1,2,3,4,5,6,7,8])" + rest + "}]}";
  };
  const auto head = [](int layer, int number) {
    return R"({"layer":)" + std::to_string(layer) + R"(,"head":)" + std::to_string(number) + "}";
  };
  const std::pair<std::string, const char*> cases[] = {
      {R"({"family":"deepseek_v2",)" + heads(head(0, 0), head(1, 0), ""),
       "circuits[0].previous: expected heads with keys of their own, found latent attention in layer 0"},
      {R"({"family":"mixtral",)" + heads(head(1, 0), head(2, 0), ""),
       "circuits[0].previous.layer: expected 0 in a model without norms of queries and keys"},
      {R"({"family":"mixtral",)" + heads(head(1, 0), head(1, 1), ""), "match.layer: expected a layer above"},
      {R"({"family":"mixtral",)" + heads(head(0, 4), head(1, 0), ""), "previous.head: expected an integer from 0 to 3"},
      {R"({"family":"olmoe","config":{"clip_qkv":2.0},)" + heads(head(0, 0), head(1, 0), ""),
       "circuits[0]: expected a clip_qkv of at least"},
      {R"({"family":"olmoe",)" + heads(head(0, 0), head(1, 0), R"(,"length":200)"),
       "circuits[0]: expected records of at most 48 tokens, the reach of the matching head, found a length of 200"},
      {R"({"family":"mixtral","config":{"head_dim":4},)" + heads(head(0, 0), head(1, 0), ""),
       "previous: expected a head_dim of at least 8"},
      {R"({"family":"mixtral","config":{"tie_word_embeddings":true},)" + heads(head(0, 0), head(1, 0), ""),
       "circuits: expected tie_word_embeddings false"},
      {R"({"family":"mixtral","planted":[{"layer":0,"expert":0,"begin":[9]}],)" + heads(head(0, 0), head(1, 0), ""),
       "expected a spec whose \"planted\" entries need no heads"},
  };
  for (const auto& [case_spec, expected] : cases) {
    const std::string& spec = case_spec;
    CAPTURE(spec);
    const std::string message = refusal(spec);
    CAPTURE(message);
    CHECK(test::good_message(message, expected));
  }
}
