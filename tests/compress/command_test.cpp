// signalbox compress: its tables against what numpy and scipy made of traced points (check_numbers.py), its plans, and
// what it refuses.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <set>

#include "base/csv.h"
#include "base/json.h"
#include "tests/docs.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::test;

namespace {

namespace fs = std::filesystem;

fs::path golden_dir() { return source_dir() / "tests/compress/golden"; }

Ran compress(const std::string& words) { return run_command(binary() + " compress " + words); }

// Every cell of `expected` stands in `found`, rows by the first `n_keys` columns.
void same_numbers(const fs::path& found, const fs::path& expected, size_t n_keys) {
  const CsvTable ours = CsvTable::read(found), theirs = CsvTable::read(expected);
  REQUIRE(ours.n_rows() == theirs.n_rows());
  for (size_t row = 0; row < theirs.n_rows(); ++row)
    for (size_t c = 0; c < theirs.header().size(); ++c) {
      const std::string& name = theirs.header()[c];
      CAPTURE(row);
      CAPTURE(name);
      const size_t own = ours.column(name);
      if (c < n_keys || theirs.text(row, c).empty()) {
        CHECK(ours.text(row, own) == theirs.text(row, c));
      } else {
        CHECK(ours.number(row, own) == doctest::Approx(theirs.number(row, c)).epsilon(2e-5));
      }
    }
}

// Over all predicted tokens, by signalbox score.
double mean_nll(const std::string& model, const fs::path& records, const std::string& more = "") {
  const Ran scored = run_command(binary() + " score " + model + " --json --quiet --input " + records.string() + more);
  REQUIRE_MESSAGE(scored.code == 0, scored.err);
  double sum = 0, n = 0;
  for (const std::string& line : lines_of(scored.out)) {
    if (line.empty()) continue;
    const json::Value scores = json::parse(line, "score");
    for (const json::Value& p : scores.find("logprobs")->items()) {
      sum += p.real();
      ++n;
    }
  }
  return -sum / n;
}

json::Value json_of(const fs::path& file) { return json::parse_file(file); }

}  // namespace

TEST_CASE("compress: scores, pairs and plans are those of numpy and scipy") {
  for (const std::string name : {"mixtral", "gpt_oss"}) {
    CAPTURE(name);
    TemporaryDirectory scratch;
    const std::string common = golden_model(name) + " --data " + (golden_dir() / "records.jsonl").string() +
                               " --output-sample 1000000 --quiet --threads 1 --keep 4 --random 1 --out ";
    const Ran pruned = compress(common + (scratch / "p").string()),
              merged = compress(common + (scratch / "m").string() + " --method merge --batch 3 --chunk 7");
    REQUIRE_MESSAGE(pruned.code == 0, pruned.err);
    REQUIRE_MESSAGE(merged.code == 0, merged.err);
    CHECK(pruned.out.empty());
    same_numbers(scratch / "p/experts.csv", golden_dir() / (name + "_experts.csv"), 2);
    same_numbers(scratch / "p/pairs.csv", golden_dir() / (name + "_pairs.csv"), 3);
    // Neither batches nor chunks change a digit.
    CHECK(read_file(scratch / "p/experts.csv") == read_file(scratch / "m/experts.csv"));
    CHECK(read_file(scratch / "p/pairs.csv") == read_file(scratch / "m/pairs.csv"));
    const json::Value expected = json_of(golden_dir() / (name + "_plan.json")),
                      prune = json_of(scratch / "p/plan.json"), merge = json_of(scratch / "m/plan.json");
    for (const json::Value::Member& member : expected.members()) {
      const std::string& layer = member.first;
      const json::Value& value = member.second;
      CAPTURE(layer);
      CHECK(*prune.find("layers")->find(layer)->find("keep") == *value.find("keep"));
      CHECK(*merge.find("layers")->find(layer)->find("keep") == *value.find("keep"));
      CHECK(*merge.find("layers")->find(layer)->find("merge") == *value.find("merge"));
      CHECK(prune.find("layers")->find(layer)->find("merge")->items().empty());
    }
    const CsvTable quality = CsvTable::read(scratch / "p/quality.csv");
    REQUIRE(quality.n_rows() == 4);
    const char* plans[] = {"original", "plan", "frequency", "random"};
    for (size_t row = 0; row < 4; ++row) {
      CHECK(quality.text(row, quality.column("plan")) == plans[row]);
      CHECK((quality.number(row, quality.column("kl")) > 0) == (row > 0));
      CHECK((quality.number(row, quality.column("agreement")) == 1) == (row == 0));
    }
    CHECK(quality.text(3, quality.column("seed")) == "0");
  }
}

TEST_CASE("compress: a plan is judged as the checkpoint that it writes, on records that made no plan") {
  TemporaryDirectory scratch;
  const std::string data = (golden_dir() / "records.jsonl").string(), out = (scratch / "o").string(),
                    written = (scratch / "m").string();
  const Ran ran =
      compress(golden_model("olmoe") + " --data " + data + " --share 0.6 --random 0 --ablation 100 --json --out " +
               out + " --write " + written + " --score ablation");
  REQUIRE_MESSAGE(ran.code == 0, ran.err);
  const json::Value summary = json::parse(ran.out, "stdout");
  std::set<std::string> made, judged;
  for (const json::Value& id : summary.find("calibration")->find("ids")->items()) made.insert(id.string());
  for (const json::Value& id : summary.find("evaluation")->find("ids")->items()) judged.insert(id.string());
  CHECK(made.size() == 7);
  CHECK(judged.size() == 7);
  std::string records, others;
  for (const std::string& line : lines_of(read_file(data))) {
    if (line.empty()) continue;
    const std::string id = json::parse(line, "record").find("id")->string();
    CHECK(made.count(id) + judged.count(id) == 1);
    (judged.count(id) > 0 ? records : others) += line + "\n";
  }
  write_file(scratch / "judged.jsonl", records);
  const double nll = mean_nll(written, scratch / "judged.jsonl");
  const CsvTable quality = CsvTable::read(scratch / "o/quality.csv");
  CHECK(quality.number(1, quality.column("ppl")) == doctest::Approx(std::exp(nll)).epsilon(1e-13));
  CHECK(quality.integer(1, quality.column("keep")) == 5);
  const json::Value config = json_of(scratch / "m/config.json");
  CHECK(config.find("num_experts")->integer() == 5);
  CHECK(fs::exists(scratch / "m/model.safetensors.index.json"));
  const CsvTable experts = CsvTable::read(scratch / "o/experts.csv");
  // Of every expert that is used: what banning it does to the records that made the plan.
  write_file(scratch / "others.jsonl", others);
  write_file(scratch / "ban.json", R"({"edits":[{"op":"deactivate","mode":"ban","layers":"1","experts":[2]}]})");
  const double rise =
      mean_nll(golden_model("olmoe"), scratch / "others.jsonl", " --edits " + (scratch / "ban.json").string()) -
      mean_nll(golden_model("olmoe"), scratch / "others.jsonl");
  bool seen = false;
  for (size_t row = 0; row < experts.n_rows(); ++row) {
    CHECK((experts.number(row, experts.column("ablation")) > 1e-6) ==
          (experts.number(row, experts.column("frequency")) > 0));
    if (experts.text(row, 0) != "1" || experts.text(row, 1) != "2") continue;
    seen = true;
    CHECK(std::fabs(rise) > 1e-4);
    CHECK(experts.number(row, experts.column("ablation_nll")) == doctest::Approx(rise).epsilon(1e-9));
  }
  CHECK(seen);
}

TEST_CASE("compress: one active of 300 experts, and judging by the records that made the plan") {
  TemporaryDirectory scratch;
  write_file(scratch / "spec.json", R"({"family":"mixtral","dtype":"f32","config":{"num_local_experts":300,
      "num_experts_per_tok":1,"num_hidden_layers":1,"hidden_size":8,"num_attention_heads":1,"num_key_value_heads":1,
      "intermediate_size":4}})");
  write_file(scratch / "edits.json",
             R"({"edits":[{"op":"top_k","k":3},{"op":"deactivate","mode":"ban","layers":"0","experts":[5]}]})");
  const std::string model = (scratch / "model").string(), data = (golden_dir() / "records.jsonl").string();
  REQUIRE(run_command(binary() + " make-model " + (scratch / "spec.json").string() + " --quiet --out " + model).code ==
          0);
  const Ran ran = compress(model + " --data " + data + " --eval " + data + " --keep 1,40 --pairs 3 --output-sample 0" +
                           " --random 1 --method merge --no-protect --out " + (scratch / "o").string() + " --edits " +
                           (scratch / "edits.json").string());
  REQUIRE_MESSAGE(ran.code == 0, ran.err);
  CHECK(ran.err.find("14 of the records of --eval have a prompt of --data") != std::string::npos);
  CHECK(ran.err.find("the weights of 3 of 44850 pairs of each layer are compared") != std::string::npos);
  CHECK(ran.out.find("Merged to 1 experts a layer by reap") != std::string::npos);
  const json::Value plan = json_of(scratch / "o/plan.json");
  CHECK(plan.find("keep")->integer() == 40);
  CHECK(plan.find("sizes")->items()[1].find("layers")->find("0")->find("merge")->items()[0].items().size() == 300);
  const CsvTable pairs = CsvTable::read(scratch / "o/pairs.csv");
  size_t compared = 0;
  for (size_t row = 0; row < pairs.n_rows(); ++row)
    compared += !pairs.text(row, pairs.column("weight_similarity")).empty();
  CHECK(compared == 3);
  CHECK(pairs.text(0, pairs.column("output_similarity")).empty());
  // Measured under the edits.
  const CsvTable experts = CsvTable::read(scratch / "o/experts.csv");
  double selected = 0;
  for (size_t row = 0; row < experts.n_rows(); ++row) selected += experts.number(row, experts.column("frequency"));
  CHECK(selected == doctest::Approx(3));
  CHECK(experts.text(5, experts.column("frequency")) == "0");
  CHECK(experts.text(5, experts.column("reap")).empty());
}

TEST_CASE("compress: what cannot be meant is refused in one line") {
  TemporaryDirectory scratch;
  const std::string data = (golden_dir() / "records.jsonl").string(), model = golden_model("mixtral"),
                    base = model + " --data " + data + " --out " + (scratch / "o").string() + " ";
  write_file(scratch / "none.jsonl", "");
  write_file(scratch / "one.jsonl", R"({"id":"a","tokens":[1,2,3]})");
  fs::create_directory(scratch / "there");
  const auto refused = [&](const std::string& words, int code, const std::string& said) {
    const Ran ran = compress(words);
    CAPTURE(words);
    CHECK(ran.code == code);
    CHECK(ran.err.find("signalbox: error: ") == 0);
    CHECK_MESSAGE(ran.err.find(said) != std::string::npos, ran.err);
    CHECK(lines_of(ran.err).size() <= 2);
  };
  refused(base + "--keep 9", 2, "--keep: layer 0: expected a number from 2 (active experts) to 8 (experts), found 9");
  refused(base + "--keep 1", 2, "found 1");
  refused(base + "--keep 4,4", 2, "--keep: expected different sizes, found 4 experts twice");
  refused(base + "--keep 4 --share 0.5", 2, "--keep, --share: expected one of the two, found both");
  refused(base + "--share 0", 2, "--share: expected a number above 0, found 0");
  refused(base + "--keep 4,3 --write " + (scratch / "w").string(), 2, "--write: expected one size beside it, found 2");
  refused(base + "--keep 4 --write " + (scratch / "there").string(), 1, "expected a new directory for --write");
  refused(base + "--score ablation", 2, "--score ablation: expected --ablation N beside it, found none");
  refused(base + "--method average", 2, "--method");
  refused(model + " --data " + (scratch / "none.jsonl").string() + " --out " + (scratch / "o").string(), 1,
          "none.jsonl");
  refused(model + " --data " + (scratch / "one.jsonl").string() + " --out " + (scratch / "o").string(), 2,
          "--data: expected at least two examples");
  refused(golden_model("deepseek_v2_full") + " --data " + data + " --out " + (scratch / "o").string() + " --keep 6", 2,
          "groups of experts (n_group)");
  CHECK(!fs::exists(scratch / "o"));
}

TEST_CASE("compress: the commands of compression.md work as pasted and print what it shows" *
          doctest::test_suite("repeats: commands as pasted, which other tests run too")) {
  const TemporaryDirectory scratch;
  const std::string page = page_of("docs/compression.md");
  const auto blocks = fenced_blocks(page, "sh");
  REQUIRE(blocks.size() == 1);
  const Ran ran = paste(blocks[0], scratch.path());
  REQUIRE_MESSAGE(ran.code == 0, ran.err);
  CHECK(line_not_printed(page, "perplexity", ran.out) == "");
}
