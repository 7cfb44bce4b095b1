// signalbox similarity and transplant: against numpy and scipy (similarity_goldens.py), and up the ladder of what is
// known by construction: an expert onto itself, the same expert in another order and scale, a whole model in another
// basis.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>

#include "base/csv.h"
#include "base/json.h"
#include "tests/support.h"
#include "tests/train/rotated_model.h"

using namespace signalbox;
using namespace signalbox::test;

namespace {

namespace fs = std::filesystem;

std::string transplant_records() { return (source_dir() / "tests/train/similarity_records.jsonl").string(); }

Ran ran(const std::string& words) { return run_command(binary() + " " + words + " --quiet --threads 1"); }

// The value of a row of transplant.csv.
double cell(const fs::path& model, const std::string& variant, const std::string& metric,
            const char* column = "value") {
  const CsvTable table = CsvTable::read(model / "transplant.csv");
  for (size_t row = 0; row < table.n_rows(); ++row)
    if (table.text(row, 0) == variant && table.text(row, 1) == metric) return table.number(row, table.column(column));
  FAIL("no row " << variant << ", " << metric);
  return 0;
}

struct SimilarityTable {
  explicit SimilarityTable(const fs::path& dir) : table(CsvTable::read(dir / "similarity.csv")) {}
  double at(int a, int b, const char* column) const {
    for (size_t row = 0; row < table.n_rows(); ++row)
      if (table.integer(row, 1) == a && table.integer(row, 3) == b) return table.number(row, table.column(column));
    FAIL("no pair " << a << ", " << b);
    return 0;
  }
  CsvTable table;
};

json::Value summary_of(const fs::path& file) { return json::parse_file(file); }

}  // namespace

TEST_CASE("similarity: its numbers are those of numpy and scipy") {
  struct Case {
    const char *a, *b, *align, *layer;
  };
  for (const Case& one : {Case{"mixtral", "olmoe", "none", "2"},
                          {"olmoe", "qwen3_moe", "procrustes", "2"},
                          {"gpt_oss", "gpt_oss_resaved", "none", "1"},
                          {"mixtral", "deepseek_v2_full", "ridge", "2"}}) {
    const std::string a = one.a, b = one.b, align = one.align;
    CAPTURE(a);
    CAPTURE(align);
    const TemporaryDirectory scratch;
    const Ran made =
        ran("similarity " + golden_model(a) + " " + golden_model(b) + " --data " + transplant_records() + " --layers " +
            one.layer + " --svcca --states 100000 --align " + align + " --out " + (scratch / "o").string());
    REQUIRE_MESSAGE(made.code == 0, made.err);
    CHECK(made.out.empty());
    const CsvTable found = CsvTable::read(scratch / "o/similarity.csv"),
                   expected = CsvTable::read(source_dir() / "tests/train" /
                                             ("similarity_" + a + "_" + b + "_" + align + ".csv"));
    REQUIRE(found.n_rows() == expected.n_rows());
    for (size_t row = 0; row < expected.n_rows(); ++row)
      for (size_t c = 0; c < expected.header().size(); ++c) {
        const std::string& name = expected.header()[c];
        CAPTURE(row);
        CAPTURE(name);
        const size_t own = found.column(name);
        if (c < 4 || expected.text(row, c).empty()) {
          CHECK(found.text(row, own) == expected.text(row, c));
        } else {
          CHECK(std::fabs(found.number(row, own) - expected.number(row, c)) < 2e-4);
        }
      }
  }
}

TEST_CASE("similarity: too few tokens leave CKA out, and it is said") {
  const TemporaryDirectory scratch;
  const Ran made =
      run_command(binary() + " similarity " + golden_model("mixtral") + " " + golden_model("olmoe") + " --data " +
                  transplant_records() + " --layers 1 --states 127 --threads 1 --out " + (scratch / "o").string());
  REQUIRE_MESSAGE(made.code == 0, made.err);
  CHECK(made.err.find("127 tokens are fewer than 128") != std::string::npos);
  const SimilarityTable table(scratch / "o");
  CHECK(table.table.text(0, table.table.column("cka")).empty());
  CHECK(!table.table.text(0, table.table.column("weight")).empty());
  // An adapter is the second model's alone.
  const std::string model = golden_model("mixtral"),
                    adapter = " --adapter " + (source_dir() / "tests/adapters/mixtral_experts").string();
  const Ran adapted = ran("similarity " + model + " " + model + adapter + " --layers 0 --align none --data " +
                          transplant_records() + " --out " + (scratch / "adapted").string());
  REQUIRE_MESSAGE(adapted.code == 0, adapted.err);
  CHECK(SimilarityTable(scratch / "adapted").at(0, 0, "weight") < 0.9999);
  // It decides what a transplant writes.
  for (const std::string& with : {std::string(), adapter}) {
    const Ran written = ran("transplant " + model + ":0:0 " + model + ":0:0" + with + " --data " +
                            transplant_records() + " --out " + (scratch / (with.empty() ? "m" : "n")).string());
    REQUIRE_MESSAGE(written.code == 0, written.err);
  }
  CHECK(read_file(scratch / "m/model.safetensors") != read_file(scratch / "n/model.safetensors"));
}

TEST_CASE("transplant: an expert onto itself changes no bit") {
  for (const std::string name : {"mixtral_bf16", "gpt_oss_mxfp4"}) {
    CAPTURE(name);
    const TemporaryDirectory scratch;
    const Ran made = ran("transplant " + golden_model(name) + ":1:3 " + golden_model(name) + ":1:3 --data " +
                         transplant_records() + " --out " + (scratch / "m").string());
    REQUIRE_MESSAGE(made.code == 0, made.err);
    CHECK(cell(scratch / "m", "transplant", "kl") == 0);
    CHECK(cell(scratch / "m", "transplant", "ppl") == cell(scratch / "m", "original", "ppl"));
    CHECK(cell(scratch / "m", "transplant", "share") == cell(scratch / "m", "original", "share"));
    for (const char* control : {"ban", "mean", "random"}) CHECK(cell(scratch / "m", control, "kl") > 1e-6);
    const std::string words = " --input " + transplant_records() + " --json";
    CHECK(ran("score " + (scratch / "m").string() + words).out == ran("score " + golden_model(name) + words).out);
  }
}

TEST_CASE("transplant: the same expert in another order and scale is the same expert") {
  for (const std::string name : {"mixtral", "gpt_oss"}) {
    CAPTURE(name);
    const TemporaryDirectory scratch;
    const std::string other = (scratch / "other").string();
    write_permuted_model(golden_model(name), 1, 3, other);
    const Ran made = ran("transplant " + other + ":1:3 " + golden_model(name) + ":1:3 --data " + transplant_records() +
                         " --out " + (scratch / "m").string());
    REQUIRE_MESSAGE(made.code == 0, made.err);
    CHECK(cell(scratch / "m", "transplant", "kl") < 1e-5);
    const Ran alike = ran("similarity " + other + " " + golden_model(name) + " --layers 1 --data " +
                          transplant_records() + " --out " + (scratch / "s").string());
    REQUIRE_MESSAGE(alike.code == 0, alike.err);
    const SimilarityTable table(scratch / "s");
    CHECK(table.at(3, 3, "weight") == doctest::Approx(1).epsilon(1e-6));
    CHECK(table.at(3, 3, "function") == doctest::Approx(1).epsilon(1e-5));
    CHECK(table.at(3, 3, "error") < 1e-5);
    CHECK(table.at(3, 4, "weight") < 0.9);
  }
}

TEST_CASE("transplant: the basis of a turned and lengthened model is found") {
  for (const std::string name : {"mixtral", "gpt_oss"}) {
    CAPTURE(name);
    const TemporaryDirectory scratch;
    const std::string turned = (scratch / "turned").string();
    write_rotated_model(golden_model(name), 1.7, 4, turned);
    const Ran alike = ran("similarity " + golden_model(name) + " " + turned + " --layers 2 --svcca --data " +
                          transplant_records() + " --out " + (scratch / "s").string());
    REQUIRE_MESSAGE(alike.code == 0, alike.err);
    const SimilarityTable table(scratch / "s");
    const json::Value summary = summary_of(scratch / "s/similarity.json"), &layer = summary.find("layers")->items()[0],
                      &basis = *layer.find("basis");
    CHECK(basis.find("kind")->string() == "procrustes");
    CHECK(basis.find("scale")->real() == doctest::Approx(1.7).epsilon(1e-4));
    CHECK(basis.find("residual")->real() < 1e-4);
    CHECK(basis.find("error_none")->real() > 0.5);
    for (int e = 0; e < 8; ++e) {
      CAPTURE(e);
      for (const char* column : {"weight", "function", "cka", "svcca"})
        CHECK(table.at(e, e, column) == doctest::Approx(1).epsilon(1e-3));
      CHECK(table.at(e, e, "error") < 1e-3);
      CHECK(layer.find("matching")->items()[static_cast<size_t>(e)].find("expert_b")->integer() == e);
    }
    CHECK(layer.find("matched_mean")->real() > layer.find("random_experts_mean")->real() + 0.3);
    const Ran made = ran("transplant " + golden_model(name) + ":2:5 " + turned + ":2:5 --data " + transplant_records() +
                         " --out " + (scratch / "m").string());
    REQUIRE_MESSAGE(made.code == 0, made.err);
    CHECK(cell(scratch / "m", "transplant", "kl") < 1e-4);
    CHECK(cell(scratch / "m", "random", "kl") > 1e-3);
    // The donor's row of the router, brought into the host's basis, is the host's own; scaling by so few tokens leaves
    // it near that.
    const Ran row = ran("transplant " + golden_model(name) + ":2:5 " + turned + ":2:5 --router rescale --data " +
                        transplant_records() + " --out " + (scratch / "r").string());
    REQUIRE_MESSAGE(row.code == 0, row.err);
    CHECK(cell(scratch / "r", "transplant", "kl") < 5e-3);
    // Without a basis the same expert is a stranger.
    const Ran plain = ran("transplant " + golden_model(name) + ":2:5 " + turned + ":2:5 --align none --data " +
                          transplant_records() + " --out " + (scratch / "p").string());
    REQUIRE_MESSAGE(plain.code == 0, plain.err);
    CHECK(cell(scratch / "p", "transplant", "kl") > 1e-3);
  }
}

TEST_CASE("transplant: a rescaled row of the router is selected as often, and weighs as much") {
  for (const std::string name : {"olmoe", "gpt_oss"}) {
    CAPTURE(name);
    const TemporaryDirectory scratch;
    const Ran made = ran("transplant " + golden_model(name) + ":1:2 " + golden_model(name) +
                         ":2:6 --router rescale --states 100000 --data " + transplant_records() + " --out " +
                         (scratch / "m").string());
    REQUIRE_MESSAGE(made.code == 0, made.err);
    const json::Value summary = summary_of(scratch / "m/transplant.json");
    CHECK(summary.find("router")->find("reached")->boolean());
    CHECK(cell(scratch / "m", "transplant", "share") == cell(scratch / "m", "original", "share"));
    CHECK(cell(scratch / "m", "transplant", "mean_weight") ==
          doctest::Approx(cell(scratch / "m", "original", "mean_weight")).epsilon(2e-3));
    CHECK(cell(scratch / "m", "transplant", "kl") > 1e-5);
  }
}

TEST_CASE("transplant: controls are those edits, and the written model is the one that was judged") {
  const TemporaryDirectory scratch;
  const std::string model = golden_model("olmoe"), data = transplant_records();
  const Ran made = ran("transplant " + golden_model("mixtral") + ":1:0 " + model + ":1:3 --data " + data + " --eval " +
                       data + " --host-task " + data + " --out " + (scratch / "m").string());
  REQUIRE_MESSAGE(made.code == 0, made.err);
  write_file(scratch / "ban.json", R"({"edits":[{"op":"deactivate","mode":"ban","experts":{"1":[3]}}]})");
  REQUIRE(
      ran("trace " + model + " --input " + data + " --points expert.out,router.ids --out " + (scratch / "t").string())
          .code == 0);
  write_file(scratch / "mean.json", R"({"edits":[{"op":"ablate","point":"expert.out","experts":{"1":[3]},"value":)"
                                    R"({"mean_of":")" +
                                        (scratch / "t").string() + R"("}}]})");
  const auto mean_nll = [&](const std::string& of, const std::string& more) {
    const Ran scored = ran("score " + of + " --json --input " + data + more);
    REQUIRE_MESSAGE(scored.code == 0, scored.err);
    double sum = 0, n = 0;
    for (const std::string& line : lines_of(scored.out)) {
      if (line.empty()) continue;
      const json::Value scores = json::parse(line, "score");
      for (const json::Value& p : scores.find("logprobs")->items()) {
        sum -= p.real();
        ++n;
      }
    }
    return sum / n;
  };
  const std::string edits = " --edits " + (scratch / "").string();
  struct Variant {
    const char* name;
    std::string of, more;
  };
  const Variant variants[] = {{"original", model, ""},
                              {"ban", model, edits + "ban.json"},
                              {"mean", model, edits + "mean.json"},
                              {"transplant", (scratch / "m").string(), ""}};
  for (const Variant& one : variants) {
    const std::string variant = one.name;
    CAPTURE(variant);
    const double nll = mean_nll(one.of, one.more);
    CHECK(std::log(cell(scratch / "m", variant, "ppl")) == doctest::Approx(nll).epsilon(1e-6));
    CHECK(cell(scratch / "m", variant, "host_task_nll") == doctest::Approx(nll).epsilon(1e-6));
    CHECK(cell(scratch / "m", variant, "ppl", "ci_lo") < cell(scratch / "m", variant, "ppl"));
    CHECK(cell(scratch / "m", variant, "ppl", "ci_hi") > cell(scratch / "m", variant, "ppl"));
  }
  CHECK(
      cell(scratch / "m", "transplant", "host_gain_over_ban") ==
      doctest::Approx(cell(scratch / "m", "ban", "host_task_nll") - cell(scratch / "m", "transplant", "host_task_nll"))
          .epsilon(1e-9));
  CHECK(summary_of(scratch / "m/transplant.json").find("works")->is_null());
}

TEST_CASE("transplant: between widths and tokenizers, and what is refused") {
  const TemporaryDirectory scratch;
  write_file(scratch / "wide.json",
             R"({"family":"mixtral","config":{"hidden_size":48,"vocab_size":96},"dtype":"f32","seed":2})");
  const std::string wide = (scratch / "wide").string(), narrow = golden_model("mixtral"),
                    out = " --data " + transplant_records() + " --out " + (scratch / "m").string();
  REQUIRE(run_command(binary() + " make-model " + (scratch / "wide.json").string() + " --out " + wide).code == 0);
  const Ran alike = ran("similarity " + narrow + " " + wide + " --layers 1:0 --data " + transplant_records() +
                        " --out " + (scratch / "s").string());
  REQUIRE_MESSAGE(alike.code == 0, alike.err);
  const json::Value summary = summary_of(scratch / "s/similarity.json");
  CHECK(summary.find("layers")->items()[0].find("basis")->find("kind")->string() == "ridge");
  const Ran made = ran("transplant " + narrow + ":1:0 " + wide + ":0:1" + out);
  REQUIRE_MESSAGE(made.code == 0, made.err);
  CHECK(cell(scratch / "m", "transplant", "kl") > 0);
  const auto refused = [&](const std::string& words, const std::string& reason) {
    const Ran failed = ran(words);
    CAPTURE(words);
    CAPTURE(failed.err);
    CHECK(failed.code != 0);
    CHECK(failed.err.find(reason) != std::string::npos);
  };
  refused("transplant " + narrow + ":1:0 " + wide + ":0:1" + out, "expected a new directory");
  fs::remove_all(scratch / "m");
  refused("transplant " + narrow + ":1:0 " + wide + ":0:1 --align none" + out, "expected two models of one width");
  refused("transplant " + narrow + ":1:0 " + golden_model("gpt_oss") + ":1:1" + out, "experts of one activation");
  refused("transplant " + narrow + ":1:8 " + narrow + ":1:1" + out, "expected an expert below 8 in layer 1");
  refused("transplant " + narrow + ":9:1 " + narrow + ":1:1" + out, "expected a layer with a router, found 9");
  refused("transplant " + narrow + " " + narrow + ":1:1" + out, "expected MODEL:LAYER:EXPERT");
  refused("transplant " + narrow + ":1:1 " + narrow + ":1:2 --align procrustes --states 30" + out,
          "expected at least as many tokens as the 32 dimensions");
  refused("similarity " + narrow + " " + narrow + " --align procrustes --states 30" + out,
          "expected at least as many tokens as the 32 dimensions");
  refused("similarity " + narrow + " " + narrow + " --layers 1,1" + out, "expected each two layers once");
  refused("similarity " + narrow + " " + narrow + " --align none --ridge 0.1" + out, "--ridge");
  CHECK(!fs::exists(scratch / "m"));
}
